//! Features: encoded once, whatever happens meanwhile, and trained on as if the language models were there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lidit::{debug_config, digest, error, json, losses, root, run, spawn, stderr, train, train_args};

/// Four samples a file, so that the fixture's 24 make six.
const SMALL_FILES: &str = "encoders.cache.rows_per_file=4";

fn cache_args<'a>(config: &'a str, out: &'a Path, extra: &[&'a str]) -> Vec<&'a str> {
    [&["cache", config, "--out", out.to_str().unwrap()], extra].concat()
}

/// Writes the debug run's features to `out`.
fn cache(out: &Path, sets: &[&str]) -> Value {
    let config = debug_config();
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
    json(&cache_args(config.to_str().unwrap(), out, &sets), 0)
}

/// The one-line refusal of a debug run on the features in `features`.
fn refused(features: &Path, sets: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let config = debug_config();
    let on = format!("encoders.features={}", features.to_str().unwrap());
    let sets: Vec<&str> = ["--set", &on]
        .into_iter()
        .chain(sets.iter().flat_map(|set| ["--set", *set]))
        .collect();
    let out = dir.path().join("run");
    error(&train_args(out.to_str().unwrap(), config.to_str().unwrap(), &sets))
}

/// Every visible file of a folder with its bytes, by name.
fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    files(folder)
        .into_iter()
        .map(|path| {
            (
                path.file_name().unwrap().to_str().unwrap().to_owned(),
                fs::read(path).unwrap(),
            )
        })
        .collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.'))
        .collect();
    files.sort();
    files
}

fn groups(folder: &Path) -> Vec<PathBuf> {
    let is_group = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("group-");
    files(folder).into_iter().filter(is_group).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in files(from) {
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

fn wait_until(holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_mins(1), "waited a minute in vain");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn training_on_features_is_training_with_the_models() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let report = cache(&path("features"), &[SMALL_FILES]);
    assert_eq!(
        (report["rows"].as_u64(), report["captions"].as_u64()),
        (Some(24), Some(24))
    );
    assert_eq!(report["fingerprint"].as_str().unwrap().len(), 64);
    let on_disk: u64 = files(&path("features"))
        .iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "parquet"))
        .map(|file| fs::metadata(file).unwrap().len())
        .sum();
    assert_eq!(report["bytes"].as_u64(), Some(on_disk));

    let on = format!("encoders.features={}", path("features").display());
    train(&path("models"), &[], 0);
    train(&path("on"), &["--set", &on], 0);
    let (models, on_features) = (losses(&path("models")), losses(&path("on")));
    assert_eq!(models.len(), 20);
    for ((step, a), (_, b)) in on_features.iter().zip(&models) {
        assert!(
            (a - b).abs() <= 1e-6 * b,
            "step {step}: {a} on features, {b} with the models"
        );
    }

    // A run may move between both, whatever it began with.
    train(&path("moved"), &["--set", &on, "--set", "train.stop_after=7"], 75);
    train(
        &path("moved"),
        &[
            "--resume",
            "--set",
            "encoders.features=",
            "--set",
            "train.stop_after=14",
        ],
        75,
    );
    train(&path("moved"), &["--resume", "--set", &on], 0);
    for ((step, a), (_, b)) in losses(&path("moved")).iter().zip(&models) {
        assert!((a - b).abs() <= 1e-6 * b, "step {step}: {a} moved, {b} with the models");
    }
    // The same run again has the same bits.
    train(&path("again"), &["--set", &on], 0);
    assert_eq!(digest(&path("on")), digest(&path("again")));
}

#[test]
fn bf16_features_are_half_as_large_and_train_nearly_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let bf16 = "encoders.cache.precision=\"bf16\"";
    let (small, large) = (cache(&path("bf16"), &[bf16]), cache(&path("f32"), &[]));
    assert!(small["bytes"].as_u64() < large["bytes"].as_u64());
    assert_ne!(small["fingerprint"], large["fingerprint"]);
    let on = format!("encoders.features={}", path("bf16").display());
    train(&path("models"), &[], 0);
    train(&path("on"), &["--set", &on, "--set", bf16], 0);
    let (models, on_features) = (losses(&path("models")), losses(&path("on")));
    let difference = |((_, a), (_, b)): (&(u64, f64), &(u64, f64))| (a - b).abs() / b;
    let largest = on_features.iter().zip(&models).map(difference).fold(0.0, f64::max);
    // docs/features.md names what was measured.
    assert!(largest > 0.0 && largest <= 2e-3, "losses differ by {largest}");
    // Rounded states are others, so a run that began with them stays with them.
    let config = debug_config();
    let on_dir = path("on");
    let resume = ["--resume", "--set", "encoders.features="];
    let message = error(&train_args(on_dir.to_str().unwrap(), config.to_str().unwrap(), &resume));
    assert!(message.contains("encoders.features changes the results"), "{message}");
    let message = refused(&path("bf16"), &[]);
    assert!(
        message.contains(r#"cache.precision is "bf16" there and "f32" here"#),
        "{message}"
    );
}

#[test]
fn a_killed_encoding_goes_on_keeps_what_was_finished_and_ends_in_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let single = "encoders.cache.rows_per_file=1";
    cache(&path("whole"), &[single]);
    let config = debug_config();
    let parts = path("parts");
    let args = cache_args(config.to_str().unwrap(), &parts, &["--set", single]);
    let mut kept: Vec<(PathBuf, u64, i64)> = Vec::new();
    let stamp = |path: &PathBuf| {
        let metadata = fs::metadata(path).unwrap();
        (path.clone(), metadata.ino(), metadata.mtime_nsec())
    };
    let mut attempts = 0;
    let mut kills = [2, 9].iter();
    while let Some(files_there) = kills.next() {
        let mut child = spawn(&args);
        wait_until(|| groups(&parts).len() >= *files_there);
        child.kill().unwrap();
        child.wait().unwrap();
        let now: Vec<_> = groups(&parts).iter().map(stamp).collect();
        if now.len() == 24 {
            // On a busy machine it may end before it is killed.
            attempts += 1;
            assert!(attempts < 20, "it was always too fast to be killed");
            fs::remove_dir_all(&parts).unwrap();
            kept.clear();
            kills = [2, 9].iter();
            continue;
        }
        assert!(
            kept.iter().all(|file| now.contains(file)),
            "a finished file was written again"
        );
        kept = now;
    }
    // Half-written features are no features.
    let message = refused(&parts, &[]);
    assert!(
        message.contains("not complete") && message.contains("lidit cache"),
        "{message}"
    );
    // What a kill in the middle of a write leaves.
    fs::write(parts.join(".group-00020.partial"), "PAR1").unwrap();
    json(&args, 0);
    let now: Vec<_> = groups(&parts).iter().map(stamp).collect();
    assert!(
        kept.iter().all(|file| now.contains(file)),
        "a finished file was written again"
    );
    assert_eq!(content(&parts), content(&path("whole")));
    assert!(!parts.join(".group-00020.partial").exists());
}

#[test]
fn a_signal_finishes_the_file_and_leaves_75_and_two_ranks_write_what_one_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let single = "encoders.cache.rows_per_file=1";
    cache(&path("one"), &[single]);
    let config = debug_config();
    let two = path("two");
    let inner = cache_args(config.to_str().unwrap(), &two, &["--set", single]);
    let args = [&["--json", "launch", "--nproc", "2", "--"], inner.as_slice()].concat();
    let mut child = spawn(&args);
    wait_until(|| groups(&two).len() >= 2);
    Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status()
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(75));
    let written = groups(&two).len();
    assert!((2..24).contains(&written), "{written} files");
    let names: Vec<String> = fs::read_dir(&two)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned())
        .collect();
    assert!(names.iter().all(|name| !name.ends_with(".partial")), "{names:?}");
    let output = run(&args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(content(&two), content(&path("one")));
}

#[test]
fn damage_and_gaps_are_refused_before_the_first_step_and_mended_by_the_same_command() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    cache(&path("good"), &[SMALL_FILES]);
    let good = content(&path("good"));

    let damaged = path("damaged");
    copy(&path("good"), &damaged);
    let victim = groups(&damaged).remove(2);
    let mut bytes = fs::read(&victim).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&victim, bytes).unwrap();
    let message = refused(&damaged, &[]);
    assert!(
        message.contains("group-00002") && message.contains("its manifest says"),
        "{message}"
    );
    cache(&damaged, &[SMALL_FILES]);
    assert_eq!(content(&damaged), good);

    let gap = path("gap");
    copy(&path("good"), &gap);
    let victim = groups(&gap).remove(4);
    fs::remove_file(&victim).unwrap();
    let message = refused(&gap, &[]);
    assert!(
        message.contains("group-00004") && message.contains("lidit cache again"),
        "{message}"
    );
    cache(&gap, &[SMALL_FILES]);
    assert_eq!(content(&gap), good);

    let prefix = path("prefix");
    copy(&path("good"), &prefix);
    let victim = files(&prefix)
        .into_iter()
        .find(|file| file.to_str().unwrap().contains("/prefix."))
        .unwrap();
    let bytes = fs::read(&victim).unwrap();
    fs::write(&victim, &bytes[..bytes.len() - 1]).unwrap();
    let message = refused(&prefix, &[]);
    assert!(message.contains("prefix.") && message.contains("damaged"), "{message}");

    assert!(refused(&path("nowhere"), &[]).contains("lidit cache CONFIG --out"));
}

#[test]
fn features_of_another_encoder_or_other_data_are_refused_with_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let out = path("features");
    cache(&out, &["data.max_samples=10", SMALL_FILES]);
    for (set, named) in [
        (
            "encoders.llm.0.layer=-2",
            "encoders.0.llm.layer is -3 there and -2 here",
        ),
        (
            "encoders.instruction=\"Paint:\"",
            "encoders.1.template.instruction is \"Describe the image",
        ),
        (
            "encoders.max_caption_tokens=4",
            "encoders.0.template.max_caption_tokens is 128 there and 4 here",
        ),
        (
            "encoders.precision=\"bf16\"",
            r#"encoders.0.precision is "f32" there and "bf16" here"#,
        ),
        ("data.subset_seed=1", "holds no features of sample"),
        ("data.max_samples=11", "holds no features of sample"),
    ] {
        let sets = [["data.max_samples=10"].as_slice(), &[set]].concat();
        let message = refused(&out, &sets);
        assert!(message.contains(named), "--set {set} said: {message}");
    }
    // A smaller part is in it; prompts that came later are not, until they are added.
    let on = format!("encoders.features={}", out.display());
    let few = ["--set", &on, "--set", "data.max_samples=6", "--set", "train.steps=2"];
    train(&path("few"), &few, 0);
    let prompts = "sample.prompts=[\"a new prompt\"]";
    let message = refused(&out, &["data.max_samples=10", prompts]);
    assert!(
        message.contains("a new prompt") && message.contains("lidit cache again"),
        "{message}"
    );
    let before = groups(&out);
    cache(&out, &["data.max_samples=10", SMALL_FILES, prompts]);
    assert_eq!(groups(&out), before);
    train(&path("new"), &[&few[..], &["--set", prompts]].concat(), 0);

    // Other pictures: the fixture's first two shards only.
    let data = path("data");
    copy(&root().join("datasets/fixtures/emoji"), &data);
    fs::remove_file(data.join("manifest.json")).unwrap();
    let message = refused(&out, &["data.max_samples=10", &format!("data.path={}", data.display())]);
    assert!(message.contains("data.digest is"), "{message}");

    // Another config never writes into the folder.
    let config = debug_config();
    let args = cache_args(config.to_str().unwrap(), &out, &["--set", SMALL_FILES]);
    let message = error(&args);
    assert!(
        message.contains("data.max_samples is 10 there and null here"),
        "{message}"
    );
    let message = error(&cache_args(config.to_str().unwrap(), &data, &[]));
    assert!(message.contains("no folder of features"), "{message}");
}

#[test]
fn without_the_models_files_all_but_their_weights_is_compared() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    cache(&path("features"), &[]);
    let config = debug_config();
    let on = format!("encoders.features={}", path("features").display());
    let train_with = |run_dir: &Path, model: &str, more: &[&str]| {
        let model = format!("encoders.llm.0.model=/moved/away/{model}");
        let sets = ["--set", &on, "--set", &model, "--set", "train.steps=2"];
        run(&train_args(
            run_dir.to_str().unwrap(),
            config.to_str().unwrap(),
            &[&sets, more].concat(),
        ))
    };
    let output = train_with(&path("run"), "tiny-llama.gguf", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("weights can't be compared"),
        "{}",
        stderr(&output)
    );
    for (model, more) in [
        ("other.gguf", &[][..]),
        ("tiny-llama.gguf", &["--set", "encoders.llm.0.layer=-2"]),
        ("tiny-llama.gguf", &["--set", "encoders.instruction=\"Paint:\""]),
    ] {
        let output = train_with(&path("refused"), model, more);
        assert_eq!(output.status.code(), Some(1), "{model} {more:?}");
        assert!(stderr(&output).contains("there and"), "{}", stderr(&output));
        let _ = fs::remove_dir_all(path("refused"));
    }
}

#[test]
fn cut_caption_tokens_are_counted_on_every_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let counts = |name: &str| -> Vec<u64> {
        let text = fs::read_to_string(path(name).join("metrics.jsonl")).unwrap();
        let line = |line: &str| {
            serde_json::from_str::<Value>(line).unwrap()["caption_tokens_cut"]
                .as_u64()
                .unwrap()
        };
        text.lines().map(line).collect()
    };
    let short = ["--set", "encoders.max_caption_tokens=3", "--set", "train.steps=3"];
    train(&path("whole"), &["--set", "train.steps=3"], 0);
    train(&path("remembered"), &short, 0);
    train(
        &path("fly"),
        &[&short[..], &["--set", "encoders.remember=\"nothing\""]].concat(),
        0,
    );
    cache(&path("features"), &["encoders.max_caption_tokens=3"]);
    let on = format!("encoders.features={}", path("features").display());
    train(&path("features-run"), &[&short[..], &["--set", &on]].concat(), 0);
    assert_eq!(counts("whole"), [0; 3]);
    assert!(
        counts("remembered").iter().all(|count| *count > 24),
        "{:?}",
        counts("remembered")
    );
    assert_eq!(counts("fly"), counts("remembered"));
    assert_eq!(counts("features-run"), counts("remembered"));
}
