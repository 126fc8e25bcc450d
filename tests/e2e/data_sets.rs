//! Sets with rows that can't be used, several sets at once, sets in buckets.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{ImageFormat, Rgb, RgbImage};
use lidit_data::{CaptionColumn, MetadataColumn, Record, ShardWriter, WriterConfig};

use crate::lidit::{debug_config, error, json, root, train};

/// Rows of one plain picture, of which every `bad`-th holds none.
pub fn write_set(folder: &Path, rows: usize, bad: usize) {
    let mut good = Cursor::new(Vec::new());
    RgbImage::from_pixel(16, 16, Rgb([200, 40, 90]))
        .write_to(&mut good, ImageFormat::Png)
        .unwrap();
    let good = good.into_inner();
    let config = WriterConfig {
        name: "test".into(),
        recipe: "test".into(),
        rows_per_shard: 16,
        rows_per_group: 8,
        captions: CaptionColumn::One,
        metadata: MetadataColumn::LeftOut,
    };
    let mut writer = ShardWriter::create(folder, config).unwrap();
    for row in 0..rows {
        let broken = row % bad == bad - 1;
        writer
            .push(Record {
                key: row.to_string(),
                image: if broken { b"no picture".to_vec() } else { good.clone() },
                captions: vec![format!("thing {row}")],
                metadata: None,
                width: 16,
                height: 16,
            })
            .unwrap();
    }
    writer.finish(vec![]).unwrap();
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn bad_rows_are_trained_around_listed_once_and_too_many_of_them_stop_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let (data, run) = (dir.path().join("data"), dir.path().join("run"));
    write_set(&data, 32, 8);
    let path = data.to_str().unwrap();
    let found = json(&["data", "verify", path], 0);
    assert_eq!((&found["rows"], &found["usable"]), (&32.into(), &28.into()));
    assert_eq!(found["quarantined"].as_array().unwrap().len(), 4);
    assert_eq!(json(&["data", "verify", path, "--strict"], 1)["usable"], 28);

    let set = format!("data.path={path}");
    train(&run, &["--set", &set], 0);
    let rows = lines(&run.join("quarantine.jsonl"));
    let mut ids: Vec<u64> = rows.iter().map(|row| row["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [7, 15, 23, 31]);
    assert!(rows[0]["reason"].as_str().unwrap().contains("not a"), "{}", rows[0]);
    let audit = json(&["data", "audit", run.to_str().unwrap()], 0);
    // 240 samples are seven and a half epochs of 32 rows.
    assert!((28..=32).contains(&audit["unusable"].as_u64().unwrap()), "{audit}");

    let config = debug_config();
    let config = config.to_str().unwrap();
    let stopped = dir.path().join("stopped");
    let stopped = stopped.to_str().unwrap();
    let strict = "data.max_unusable=0.01";
    let message = error(&["train", config, "--run-dir", stopped, "--set", &set, "--set", strict]);
    assert!(message.contains("data.max_unusable = 0.01"), "{message}");
    assert!(message.contains("quarantine.jsonl"), "{message}");
}

/// A config of two sources: the fixtures and `other`, drawn one to three.
fn two_sources(folder: &Path, other: &Path) -> PathBuf {
    let path = folder.join("two.toml");
    let text = format!(
        "include = [\"{}\"]\n[data]\npath = \"\"\nmin_side = 1\nsources = [{{ path = \"{}\", weight = 1 }}, {{ path = \"{}\", weight = 3 }}]\n",
        debug_config().display(),
        root().join("datasets/fixtures/emoji").display(),
        other.display()
    );
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn two_sources_are_drawn_by_weight_and_audited() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    write_set(&data, 10, 100);
    let config = two_sources(dir.path(), &data);
    let config = config.to_str().unwrap();
    let order = json(&["data", "order", config, "--steps", "8"], 0);
    let rows = order["steps"].as_array().unwrap().iter();
    let ids: Vec<u64> = rows
        .flat_map(|step| step["ids"].as_array().unwrap())
        .map(|id| id.as_u64().unwrap())
        .collect();
    // The fixtures' rows come first.
    let first = ids.iter().filter(|id| **id < 24).count();
    assert_eq!((ids.len(), first), (96, 24));
    let run = dir.path().join("run");
    let run = run.to_str().unwrap();
    json(&["train", config, "--run-dir", run], 0);
    let audit = json(&["data", "audit", run], 0);
    assert_eq!((&audit["steps"], &audit["whole_epochs"]), (&20.into(), &2.into()));
}

#[test]
fn data_that_can_not_be_meant_is_refused_by_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    write_set(&data, 10, 100);
    let both = two_sources(dir.path(), &data);
    let both = both.to_str().unwrap();
    let order = |config: &str, set: &str| error(&["data", "order", config, "--steps", "1", "--set", set]);
    let debug = debug_config();
    let debug = debug.to_str().unwrap();
    assert!(order(both, "data.path=/x").contains("data.path is given beside data.sources"));
    assert!(order(debug, "data.path=").contains("data.path is missing"));
    assert!(order(debug, "data.lanes=5000").contains("data.lanes is 5000"));
    assert!(order(debug, "data.shuffle_window=0").contains("data.shuffle_window is 0"));
    assert!(order(debug, "data.max_unusable=2").contains("data.max_unusable is 2"));
    assert!(order(debug, "data.synthetic_caption_column=caption").contains("data.synthetic_share is missing"));
    assert!(order(debug, "data.max_samples=25").contains("data.max_samples is 25"));
    assert_eq!(
        order(debug, "data.path=/no/where"),
        "error: /no/where: entity not found"
    );
}

/// Pictures of three shapes with captions beside them.
fn write_folder(folder: &Path) {
    fs::create_dir(folder).unwrap();
    for (number, (width, height)) in [(40, 24), (24, 40), (32, 32)].into_iter().cycle().take(30).enumerate() {
        let picture = RgbImage::from_pixel(width, height, Rgb([number as u8 * 8, 40, 90]));
        picture.save(folder.join(format!("{number:02}.png"))).unwrap();
        fs::write(folder.join(format!("{number:02}.txt")), format!("thing {number}")).unwrap();
    }
}

#[test]
fn a_folder_is_built_into_buckets_and_every_batch_is_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let (pictures, data) = (dir.path().join("pictures"), dir.path().join("data"));
    write_folder(&pictures);
    let data_path = data.to_str().unwrap();
    let built = json(
        &[
            "data",
            "build",
            pictures.to_str().unwrap(),
            data_path,
            "--buckets",
            "16",
            "--bucket-step",
            "4",
        ],
        0,
    );
    assert_eq!((&built["rows"], &built["shards"]), (&30.into(), &3.into()));
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    let message = error(&["data", "build", pictures.to_str().unwrap(), file.to_str().unwrap()]);
    assert!(message.contains("file: is a file"), "{message}");
    // A refusal leaves nothing behind.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    let manifest: serde_json::Value = serde_json::from_slice(&fs::read(data.join("manifest.json")).unwrap()).unwrap();
    let shards = manifest["shards"].as_array().unwrap();
    let shapes: Vec<(u64, u64)> = shards
        .iter()
        .map(|shard| {
            let side = |name: &str| shard["bucket"][name].as_u64().unwrap();
            (side("width"), side("height"))
        })
        .collect();
    assert_eq!(shapes, [(12, 20), (16, 16), (20, 12)]);

    let config = debug_config();
    let config = config.to_str().unwrap();
    let set = format!("data.path={data_path}");
    let order = json(&["data", "order", config, "--steps", "10", "--set", &set], 0);
    for step in order["steps"].as_array().unwrap() {
        let ids = step["ids"].as_array().unwrap().iter();
        let buckets: std::collections::BTreeSet<u64> = ids.map(|id| id.as_u64().unwrap() / 10).collect();
        assert_eq!(buckets.len(), 1, "{step}");
    }
    let run = dir.path().join("run");
    let run = run.to_str().unwrap();
    json(&["train", config, "--run-dir", run, "--set", &set], 0);
    let audit = json(&["data", "audit", run], 0);
    // 20 steps of 12 are eight epochs of 30; each bucket's end within its own batches.
    assert!((6..=8).contains(&audit["whole_epochs"].as_u64().unwrap()), "{audit}");
    let other = dir.path().join("other");
    let other = other.to_str().unwrap();
    let message = error(&[
        "train",
        config,
        "--run-dir",
        other,
        "--set",
        &set,
        "--set",
        "data.image_size=20",
    ]);
    assert!(
        message.contains("model.patch_size is 4") && message.contains("15 x 25"),
        "{message}"
    );
}
