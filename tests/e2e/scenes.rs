//! The Scenes world by its commands.

use std::fs;
use std::path::Path;
use std::time::Duration;

use image::RgbImage;
use lidit_data::{DataConfig, Dataset, Manifest};
use lidit_scaling::scenes::{Fact, Scene, see};
use serde_json::Value;

use crate::lidit::{error, json, spawn};
use crate::signals::send;

fn build(out: &Path, more: &[&str]) -> Value {
    let args = ["data", "build", "scenes", out.to_str().unwrap()];
    json(&[&args[..], more].concat(), 0)
}

#[test]
fn a_set_is_the_same_every_time_and_a_larger_one_begins_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b, larger] = ["a", "b", "larger"].map(|name| dir.path().join(name));
    let flags = "--seed 5 --size 32 --held-out 4 --rows-per-shard 20";
    let with_rows =
        |rows: &'static str| -> Vec<&str> { ["--rows", rows].into_iter().chain(flags.split(' ')).collect() };
    let built = build(&a, &with_rows("50"));
    assert_eq!((&built["rows"], &built["shards"]), (&50.into(), &3.into()));
    build(&b, &with_rows("50"));
    build(&larger, &with_rows("60"));
    for file in ["manifest.json", "shard-00002.parquet", "held_out.jsonl"] {
        assert_eq!(
            fs::read(a.join(file)).unwrap(),
            fs::read(b.join(file)).unwrap(),
            "{file}"
        );
    }
    for file in ["shard-00000.parquet", "shard-00001.parquet", "held_out.jsonl"] {
        assert_eq!(
            fs::read(a.join(file)).unwrap(),
            fs::read(larger.join(file)).unwrap(),
            "{file}"
        );
    }
    assert_eq!(fs::read_to_string(a.join("held_out.jsonl")).unwrap().lines().count(), 4);
    let manifest = Manifest::read(&a.join("manifest.json")).unwrap();
    assert_eq!(
        manifest.recipe,
        "data build scenes --rows 50 --seed 5 --size 32 --objects 1..2 --held-out 4 --held-out-seed 0 \
         --captions 3 --rows-per-shard 20"
    );
    let found = json(&["data", "verify", a.to_str().unwrap(), "--strict"], 0);
    assert_eq!((&found["rows"], &found["usable"]), (&50.into(), &50.into()));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);

    // One caption a picture is the first of three.
    let single = dir.path().join("single");
    build(&single, &[&with_rows("50")[..], &["--captions", "1"]].concat());
    let (three, one) = (read(&a, "caption"), read(&single, "caption"));
    for id in 0..50 {
        let [three, one] = [&three, &one].map(|set| set.sample(id).unwrap());
        assert_eq!((three.captions.original.len(), one.captions.original.len()), (3, 1));
        assert_eq!(three.captions.original[0], one.captions.original[0]);
        assert_eq!(three.pixels, one.pixels);
    }
    let facts = read(&single, "metadata").sample(7).unwrap().captions.original[0].clone();
    let facts: Value = serde_json::from_str(&facts).unwrap();
    assert_eq!(facts["facts"].as_array().unwrap().len(), 1);
}

fn read(out: &Path, caption_column: &str) -> Dataset {
    let config = DataConfig {
        path: Some(out.to_owned()),
        image_column: "image".into(),
        caption_column: caption_column.into(),
        synthetic_caption_column: None,
        synthetic_share: None,
        image_size: 64,
        min_side: 32,
        max_samples: None,
        subset_seed: 0,
        shuffle_window: 1024,
        lanes: 1,
        buckets: false,
        max_unusable: 0.0,
        sources: vec![],
    };
    Dataset::open(&config).unwrap()
}

// From the shards alone: the picture shows what the metadata says, by the judge, and captions are alternatives.
#[test]
fn what_is_stored_is_what_the_judge_sees() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("set");
    build(&out, &["--rows", "40", "--seed", "1", "--objects", "2..6"]);
    let (captions, metadata) = (read(&out, "caption"), read(&out, "metadata"));
    for id in 0..40 {
        let sample = captions.sample(id).unwrap();
        let known: Value = serde_json::from_str(&metadata.sample(id).unwrap().captions.original[0]).unwrap();
        let scene: Scene = serde_json::from_value(known["scene"].clone()).unwrap();
        let facts: Vec<Vec<Fact>> = serde_json::from_value(known["facts"].clone()).unwrap();
        let picture = RgbImage::from_raw(64, 64, sample.pixels).unwrap();
        assert_eq!(picture, scene.draw(64));
        let texts = &sample.captions.original;
        assert_eq!((texts.len(), facts.len()), (3, 3));
        let sight = see(&picture);
        assert!((2..=6).contains(&sight.objects.len()));
        assert!(facts.iter().flatten().all(|fact| fact.holds(&sight)), "{texts:?}");
    }
}

#[test]
fn what_cannot_be_drawn_or_would_be_lost_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("set");
    let out = out.to_str().unwrap();
    let scenes = ["data", "build", "scenes", out, "--rows", "4", "--seed", "1"];
    let message = error(&[&scenes[..], &["--size", "32", "--objects", "1..3"]].concat());
    assert!(
        message.contains("1 to 3 objects: at 32 pixels a side 1 to 2 are readable"),
        "{message}"
    );
    let message = error(&[&scenes[..], &["--held-out", "30"]].concat());
    assert!(message.contains("30 held-out pairs"), "{message}");
    assert!(!Path::new(out).exists());
    fs::create_dir(out).unwrap();
    fs::write(Path::new(out).join("mine.txt"), "mine").unwrap();
    let message = error(&scenes);
    assert!(message.contains("holds files but no manifest.json"), "{message}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_build_that_is_interrupted_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("set");
    let args = [
        "data",
        "build",
        "scenes",
        out.to_str().unwrap(),
        "--rows",
        "50000000",
        "--seed",
        "1",
    ];
    let mut child = spawn(&args);
    let building = || fs::read_dir(dir.path()).unwrap().count() == 1;
    while !building() {
        assert!(child.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(10));
    }
    send("INT", child.id());
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn the_judge_is_measured() {
    let found = json(&["bench", "judge", "--rows", "3", "--size", "32"], 0);
    let judged = found["sizes"][0]["judged"].as_array().unwrap();
    assert_eq!(judged.len(), 90);
    let clean = judged.iter().filter(|line| line["damage"] == "clean");
    assert!(
        clean
            .map(|line| line["accuracy"].as_f64().unwrap())
            .all(|accuracy| accuracy > 0.995)
    );
}
