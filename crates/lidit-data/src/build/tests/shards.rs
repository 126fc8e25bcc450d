//! How a set is cut into shards.

use super::*;

#[test]
fn with_buckets_every_shard_is_of_one_shape_and_the_order_within_is_kept() {
    let (_folder, input, out) = place();
    write_shapes(&input, 40);
    let mut wanted = request(folder_source(&input));
    wanted.buckets = Some(GRID);
    wanted.shard_size = ShardSize::Rows(7);
    let built = build(&wanted, &out, |_| {}).unwrap();
    assert_eq!(built.manifest.buckets, Some(GRID));
    let shards = built.manifest.shards.iter();
    let shards: Vec<_> = shards.map(|shard| (shard.file.as_str(), shard.rows)).collect();
    let expected = [
        ("48x80-00000.parquet", 7),
        ("48x80-00001.parquet", 1),
        ("64x64-00000.parquet", 7),
        ("64x64-00001.parquet", 1),
        ("80x48-00000.parquet", 7),
        ("80x48-00001.parquet", 7),
        ("80x48-00002.parquet", 2),
    ];
    assert_eq!(shards, expected);
    let bucket = Bucket { width: 48, height: 80 };
    assert_eq!(built.manifest.shards[0].bucket, Some(bucket));
    let captions = texts(&out, "caption");
    assert_eq!(captions[..3], ["thing 2", "thing 6", "thing 10"]);
    // Far beyond the grid's ratio, so in the widest bucket, among the others in the input's order.
    assert_eq!(captions[16..19], ["thing 1", "thing 3", "thing 5"]);
}

// Without the noise of a panic.

#[test]
fn shards_are_cut_by_bytes_and_pictures_shrunk_on_request() {
    let (_folder, input, out) = place();
    for number in 0..6 {
        let noise = RgbImage::from_fn(200, 120, |x, y| {
            Rgb([(x * y * 7 + number) as u8, (x ^ y) as u8, (x * 31) as u8])
        });
        fs::write(input.join(format!("{number}.png")), to_png(&noise).unwrap()).unwrap();
        fs::write(input.join(format!("{number}.txt")), "noise").unwrap();
    }
    let mut wanted = request(folder_source(&input));
    wanted.shard_size = ShardSize::Bytes(100_000);
    let built = build(&wanted, &out, |_| {}).unwrap();
    assert!(built.manifest.shards.len() > 1);
    for shard in &built.manifest.shards {
        assert!(shard.bytes < 102_000 || shard.rows == 1, "{shard:?}");
    }
    wanted.resize = Some(24);
    build(&wanted, &out, |_| {}).unwrap();
    for bytes in images(&out) {
        assert_eq!(
            crate::image::decode(&bytes, &crate::image::Limits::new(1))
                .unwrap()
                .dimensions(),
            (40, 24)
        );
    }
}
