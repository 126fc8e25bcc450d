//! What sets of shards hold, for every way that files are written.

#![allow(clippy::unwrap_used)]
use std::fs::{self, File};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, ListArray, RecordBatch, StringArray, StructArray};
use arrow::array::{DictionaryArray, LargeBinaryArray, LargeListBuilder, LargeStringArray, StringBuilder};
use arrow::array::{Int32Array, ListBuilder, StringDictionaryBuilder};
use arrow::datatypes::{DataType, Field, Int32Type};
use parquet::arrow::ArrowWriter;
use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion};

use super::*;
use crate::test_shards::{array, write_columns, write_set};

const ROWS: usize = 300;
const BOTH: Columns = Columns {
    image: Some("image"),
    caption: Some("caption"),
    synthetic: None,
};

// Noise, so that a picture compresses no better than one: row 7 is null.
fn picture(row: usize) -> Option<Vec<u8>> {
    let byte = |at: usize| (((row + 1) * (at + 3) * 2_654_435_761) >> 11) as u8;
    (row != 7).then(|| (0..300 + row % 50).map(byte).collect())
}

fn caption(row: usize) -> Option<String> {
    (row % 31 != 5).then(|| format!("caption {}", row % 40))
}

fn usual_columns() -> Vec<(&'static str, ArrayRef)> {
    let captions: StringArray = (0..ROWS).map(caption).collect();
    vec![
        ("extra", array(Int32Array::from_iter_values(0..ROWS as i32))),
        ("image", array((0..ROWS).map(picture).collect::<BinaryArray>())),
        ("caption", array(captions)),
    ]
}

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>, properties: WriterPropertiesBuilder) {
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let file = File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties.build())).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

// Row groups of 150 rows, pages of 20.
fn paged() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_max_row_group_row_count(Some(150))
        .set_data_page_row_count_limit(20)
        .set_write_batch_size(20)
}

fn rows(set: &ShardSet, columns: Columns, ids: &[u64]) -> Vec<(u64, RawRow)> {
    let mut rows = Vec::new();
    set.read(ids, columns, |id, row| rows.push((id, row))).unwrap();
    rows
}

fn check_usual(set: &ShardSet, ids: &[u64]) {
    let read = rows(set, BOTH, ids);
    assert_eq!(read.len(), ids.len());
    for (id, row) in read {
        let expected = RawRow {
            image: picture(id as usize).map(Into::into),
            captions: caption(id as usize).into_iter().collect(),
            synthetic: Vec::new(),
        };
        assert_eq!(row, expected, "row {id}");
    }
}

fn block_ends(set: &ShardSet) -> Vec<u64> {
    set.blocks.iter().map(|block| block.ids.end).collect()
}

#[test]
fn a_long_row_group_without_an_offset_index_is_read_page_by_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let large = |row: usize| (row % 50 != 3).then(|| vec![row as u8; 120_000 + row]);
    let captions: StringArray = (0..ROWS).map(caption).collect();
    let columns = vec![
        ("image", array((0..ROWS).map(large).collect::<BinaryArray>())),
        ("caption", array(captions)),
    ];
    let properties = WriterProperties::builder()
        .set_offset_index_disabled(true)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_dictionary_enabled(false);
    write(&path, columns, properties);
    let set = ShardSet::open(&path).unwrap();
    assert_eq!(block_ends(&set), [ROWS as u64]);
    for ids in [vec![0], vec![2, 3, 4, 150, 299], (0..ROWS as u64).collect()] {
        let read = rows(&set, BOTH, &ids);
        assert_eq!(read.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids);
        for (id, row) in read {
            assert_eq!(row.image.as_deref(), large(id as usize).as_deref(), "row {id}");
            assert_eq!(row.captions, caption(id as usize).into_iter().collect::<Vec<_>>());
        }
    }
}

#[test]
fn every_codec_and_page_version_is_read_with_and_without_an_offset_index() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let codecs = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::ZSTD(ZstdLevel::default()),
        Compression::LZ4_RAW,
        Compression::BROTLI(BrotliLevel::default()),
    ];
    for codec in codecs {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            for no_index in [false, true] {
                let properties = paged()
                    .set_compression(codec)
                    .set_writer_version(version)
                    .set_offset_index_disabled(no_index);
                write(&path, usual_columns(), properties);
                let set = ShardSet::open(&path).unwrap();
                let ends: &[u64] = if no_index { &[150, 300] } else { &[80, 150, 230, 300] };
                assert_eq!(block_ends(&set), ends, "{codec} {version:?}");
                check_usual(&set, &(0..ROWS as u64).collect::<Vec<_>>());
                check_usual(&set, &[0, 7, 79, 80, 149, 150, 229, 299]);
            }
        }
    }
}

#[test]
fn a_block_gives_the_asked_places_with_their_ids() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.parquet", "b.parquet"] {
        write(&folder.path().join(name), usual_columns(), paged());
    }
    let set = ShardSet::open(folder.path()).unwrap();
    assert_eq!(set.rows(), 2 * ROWS as u64);
    let block = set.block_of(400);
    assert_eq!(
        set.blocks[block],
        Block {
            shard: 1,
            ids: 380..450
        }
    );
    assert_eq!(set.place(400), (folder.path().join("b.parquet"), 100));
    let mut ids = Vec::new();
    let each = |id, row: RawRow| ids.push((id, row.image.map(|image| image.to_vec())));
    set.read_block(block, &[0, 20, 69], BOTH, each).unwrap();
    let expected = [380, 400, 449].map(|id| (id, picture(id as usize - ROWS)));
    assert_eq!(ids, expected);
}

#[test]
fn blocks_depend_on_the_largest_column_and_on_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    // Pages by bytes: those of pictures have about 30 rows each, the one of the captions has all.
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_write_batch_size(1)
        .set_data_page_size_limit(10_000);
    write(&path, usual_columns(), properties);
    let ends = block_ends(&ShardSet::open(&path).unwrap());
    assert_eq!(ends.len(), 4, "{ends:?}");
    let lens = ends
        .iter()
        .scan(0, |start, end| Some(end - std::mem::replace(start, *end)));
    assert!(lens.take(3).all(|rows| (64..128).contains(&rows)), "{ends:?}");
    check_usual(&ShardSet::open(&path).unwrap(), &(0..ROWS as u64).collect::<Vec<_>>());
}

#[test]
fn large_dictionary_and_nested_variants_are_read_and_nulls_at_every_level_are_no_value() {
    let bytes: Vec<Option<&[u8]>> = vec![Some(b"one"), None, Some(b"three"), Some(b"")];
    let field = |name: &str, kind: &DataType| Arc::new(Field::new(name, kind.clone(), true));
    let structs = |bytes: ArrayRef, validity: Option<Vec<bool>>| {
        let paths = array(LargeStringArray::from(vec![Some("p"); 4]));
        let fields = vec![field("path", paths.data_type()), field("bytes", bytes.data_type())];
        let nulls = validity.map(Into::into);
        array(StructArray::new(fields.into(), vec![paths, bytes], nulls))
    };
    let plain = array(BinaryArray::from(bytes.clone()));
    let large = array(LargeBinaryArray::from(bytes.clone()));
    let keys = Int32Array::from(vec![Some(0), None, Some(2), Some(3)]);
    let values = array(BinaryArray::from_vec(vec![b"one", b"-", b"three", b""]));
    let images = [
        plain.clone(),
        large.clone(),
        array(DictionaryArray::new(keys, values)),
        structs(plain, None),
        structs(large.clone(), None),
        structs(large, Some(vec![true, false, true, true])),
    ];
    let strings = vec![Some("one"), None, Some(""), Some("four")];
    let lists = [
        Some(vec![Some("one")]),
        None,
        Some(vec![Some("")]),
        Some(vec![Some("four"), None]),
    ];
    let mut list = ListBuilder::new(StringBuilder::new());
    let mut large_list = LargeListBuilder::new(StringDictionaryBuilder::<Int32Type>::new());
    for item in lists {
        list.append_option(item.clone());
        large_list.append_option(item);
    }
    let captions: [ArrayRef; 5] = [
        array(StringArray::from(strings.clone())),
        array(LargeStringArray::from(strings.clone())),
        array(strings.into_iter().collect::<DictionaryArray<Int32Type>>()),
        array(list.finish()),
        array(large_list.finish()),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    for image in &images {
        for caption in &captions {
            write_columns(&path, vec![("picture", image.clone()), ("text", caption.clone())]);
            let set = ShardSet::open(&path).unwrap();
            set.shards[0].check_image_column("picture").unwrap();
            set.shards[0].check_captions("key", "text").unwrap();
            let columns = Columns {
                image: Some("picture"),
                caption: None,
                synthetic: Some("text"),
            };
            let read = rows(&set, columns, &[0, 1, 2, 3]);
            let pictures: Vec<_> = read.iter().map(|(_, row)| row.image.as_deref()).collect();
            assert_eq!(pictures, bytes, "{:?}", image.data_type());
            let texts: Vec<_> = read.iter().map(|(_, row)| row.synthetic.clone()).collect();
            assert_eq!(
                texts,
                [vec!["one"], vec![], vec![""], vec!["four"]],
                "{:?}",
                caption.data_type()
            );
        }
    }
}

#[test]
fn captions_that_are_structs_and_lists_of_lists_are_refused_by_type() {
    let texts = array(StringArray::from(vec!["a"]));
    let field = Arc::new(Field::new("text", DataType::Utf8, true));
    let structs = array(StructArray::new(vec![field].into(), vec![texts], None));
    let mut list = ListBuilder::new(ListBuilder::new(StringBuilder::new()));
    list.append(true);
    let lists: ListArray = list.finish();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    for (column, name) in [(structs, "struct<text>"), (array(lists), "list<list<string>>")] {
        write_columns(&path, vec![("caption", column)]);
        let set = ShardSet::open(&path).unwrap();
        let message = set.shards[0].check_caption_column("caption").unwrap_err().to_string();
        assert!(
            message.contains(&format!("column `caption` is {name}; data.caption_column")),
            "{message}"
        );
    }
}

#[test]
fn a_shard_that_vanishes_or_changes_its_size_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path(), 30, 10, 10);
    let path = folder.path().join("shard-00001.parquet");
    let set = ShardSet::open(folder.path()).unwrap();
    let good = fs::read(&path).unwrap();
    let message = || {
        let none = |_, _| ();
        set.read(&[15], BOTH, none).unwrap_err().to_string()
    };
    fs::write(&path, &good[..good.len() - 1]).unwrap();
    assert!(message().contains("shard-00001.parquet: has"), "{}", message());
    fs::remove_file(&path).unwrap();
    assert!(message().contains("shard-00001.parquet: No such file"), "{}", message());
    // Opened after it vanished, the same.
    let message = ShardSet::open(folder.path()).err().unwrap().to_string();
    assert!(message.contains("shard-00001.parquet: No such file"), "{message}");
}

/// Computed by the reader that kept whole footers and had no blocks: a set's digest is in caches and checkpoints.
#[test]
fn the_digest_of_a_set_without_a_manifest_is_what_it_always_was() {
    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path(), 23, 9, 4);
    let digest = ShardSet::open(&folder.path().join("*.parquet")).unwrap().digest();
    assert_eq!(
        digest,
        "9b9569f23016484bfa801f81084e7a4cd5b8fb96406ce2a40a76fbdbf13cffc8"
    );
}

#[test]
fn a_footer_that_is_no_longer_in_memory_is_read_again() {
    let cache = FooterCache::default();
    let folder = tempfile::tempdir().unwrap();
    write_set(folder.path(), 4, 4, 4);
    let path = folder.path().join("shard-00000.parquet");
    let footer = Footer::load(&Storage::new(), &path).unwrap();
    let loads = std::cell::Cell::new(0);
    let mut get = |shard| {
        let load = || {
            loads.set(loads.get() + 1);
            Ok(footer.clone())
        };
        cache.get(shard, load).unwrap();
    };
    [3, 3, 4, 3].into_iter().for_each(&mut get);
    assert_eq!(loads.get(), 2);
    (5..300).for_each(&mut get);
    let before = loads.get();
    get(3);
    assert_eq!(loads.get(), before + 1);
}

#[derive(serde::Deserialize)]
struct Golden {
    /// A character a byte.
    image: Option<String>,
    captions: Vec<String>,
}

#[test]
fn files_by_pyarrow_hold_what_it_put_into_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/parquet");
    let text = fs::read(folder.join("rows.json")).unwrap();
    let files: BTreeMap<String, Vec<Golden>> = serde_json::from_slice(&text).unwrap();
    assert_eq!(files.len(), 7);
    for (name, expected) in files {
        let set = ShardSet::open(&folder.join(format!("{name}.parquet"))).unwrap();
        set.shards[0].check_image_column("image").unwrap();
        set.shards[0].check_caption_column("caption").unwrap();
        let ids: Vec<u64> = (0..set.rows()).collect();
        assert_eq!(ids.len(), expected.len(), "{name}");
        // All rows, and each alone.
        let mut read = rows(&set, BOTH, &ids);
        for id in ids {
            read.extend(rows(&set, BOTH, &[id]));
        }
        for (id, row) in read {
            let golden = &expected[id as usize];
            let image = golden
                .image
                .as_ref()
                .map(|text| text.chars().map(|c| c as u8).collect());
            let found = (row.image.map(Vec::from), &row.captions);
            assert_eq!(found, (image, &golden.captions), "{name}, row {id}");
        }
    }
}
