//! `lidit eval`: loss and scores of a trained run, once, whole, and never of the wrong thing.

use std::fs;
use std::path::{Path, PathBuf};

use lidit_scaling::scenes::{HeldOut, Suite, Verdict, World};
use serde_json::Value;

use crate::lidit::{command, error, json, root, run as run_lidit, spawn, stderr, train};
use crate::resume::wait_until;
use crate::sampling::texts;

/// The debug run of two steps at 32 pixels, in `dir`.
fn trained(dir: &Path, more: &[&str]) -> PathBuf {
    let run = dir.join("run");
    let shards = format!("data.path={}", fixture().join("shard-0000[01].parquet").display());
    let sets = ["train.steps=2", "data.image_size=32", "train.sample_every=0", &shards];
    let sets = sets.iter().chain(more).flat_map(|set| ["--set", *set]);
    train(&run, &sets.collect::<Vec<_>>(), 0);
    run
}

fn fixture() -> PathBuf {
    root().join("datasets/fixtures/emoji")
}

/// Two prompts of two categories, two pictures each, and twelve validation triples.
fn write_config(dir: &Path) -> PathBuf {
    let path = dir.join("small.toml");
    let text = format!(
        "include = [\"{}\"]\n[scenes]\ncategories = [\"single_object\", \"counting\"]\nprompts = 2\n[sampler]\nsteps = 2\n\
         [validation]\ndata = \"{}\"\nsamples = 4\nlevels = 3\nseed = 5\n\
         prompt_gain = true\n",
        root().join("configs/eval/scenes-32.toml").display(),
        fixture().join("shard-00002.parquet").display(),
    );
    fs::write(&path, text).unwrap();
    path
}

fn args<'a>(config: &'a Path, run: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let words = ["eval", config.to_str().unwrap(), "--run", run.to_str().unwrap()];
    [&words, more].concat()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn an_evaluation_says_what_its_pictures_show_and_what_the_run_itself_would_have_said_of_its_loss() {
    let dir = tempfile::tempdir().unwrap();
    let held_out = format!("validation.data={}", fixture().join("shard-00002.parquet").display());
    let in_training = [
        "samples=4",
        "levels=3",
        "seed=5",
        "every=0",
        "weights=raw",
        "prompt_gain=true",
    ];
    let mut sets = vec![held_out];
    sets.extend(in_training.map(|set| format!("validation.{set}")));
    let run = trained(dir.path(), &sets.iter().map(String::as_str).collect::<Vec<_>>());
    let config = write_config(dir.path());
    let said = json(&args(&config, &run, &["--weights", "raw"]), 0);
    let out = run.join("eval/small");
    assert_eq!(Path::new(said["out"].as_str().unwrap()), out);

    // The loss is the one that training wrote, triple by triple.
    let of_training = read(&run.join("validation/step-2.json"));
    let of_eval = read(&out.join("validation.json"));
    assert_eq!(of_eval["digest"], of_training["digest"]);
    let (a, b) = (
        said["val_loss"].as_f64().unwrap(),
        of_training["val_loss"].as_f64().unwrap(),
    );
    assert!((a - b).abs() <= 1e-5 * b, "{a} and {b}");
    let gain = of_training["prompt_gain"]["mean"].as_f64().unwrap();
    assert!(
        (said["prompt_gain"].as_f64().unwrap() - gain).abs() <= 2e-5 * b,
        "{said}"
    );
    let validation = out.join("validation.json");
    let compared = json(
        &["eval", "compare", run.to_str().unwrap(), validation.to_str().unwrap()],
        0,
    );
    assert!(compared["difference"].as_f64().unwrap().abs() <= 1e-5 * b, "{compared}");
    let gain = compared["prompt_gain"]["difference"].as_f64().unwrap();
    assert!(gain.abs() <= 2e-5 * b, "{compared}");

    // The pictures on the disk are those that were judged.
    let suite = Suite::new(World::new(32, 1..=2, HeldOut::draw(8, 0).unwrap()).unwrap(), 1);
    let whole = read(&out.join("eval.json"));
    let scenes = &whole["scenes"];
    let pictures = scenes["pictures"].as_array().unwrap();
    assert_eq!(pictures.len(), 8);
    for (number, picture) in pictures.iter().enumerate() {
        let category = suite.categories()[if number < 4 { 0 } else { 5 }];
        assert_eq!(picture["category"], category.name());
        let prompt = &suite.prompts(category, 2).unwrap()[number % 4 / 2];
        assert_eq!(
            (&picture["prompt"], &picture["held_out"]),
            (&prompt.text.clone().into(), &prompt.held_out.into())
        );
        let file = out.join(picture["file"].as_str().unwrap());
        let verdict = Verdict::of(&image::open(&file).unwrap().into_rgb8(), prompt);
        assert_eq!(picture["right"], serde_json::json!(verdict.right));
        let texts = texts(&file);
        let wanted = if verdict.all_right() { "right" } else { "wrong" };
        assert_eq!(
            (texts["prompt"].as_str(), texts["verdict"].as_str()),
            (prompt.text.as_str(), wanted)
        );
        assert_eq!((texts["weights"].as_str(), texts["steps"].as_str()), ("raw", "2"));
        assert_eq!(texts["seed"], picture["seed"].to_string());
    }
    let lines = scenes["categories"].as_array().unwrap();
    let of = |name: &str, split: &str| {
        lines
            .iter()
            .find(|line| line["category"] == name && line["split"] == split)
            .unwrap()
    };
    assert_eq!(
        (&of("counting", "all")["n"], &of("counting", "held_out")["n"]),
        (&4.into(), &2.into())
    );
    assert_eq!(
        (&said["scenes"]["categories"], &said["scenes"]["counts"]),
        (&scenes["categories"], &scenes["counts"])
    );
    assert!(scenes["quartiles"].as_array().unwrap().is_empty() && out.join("grid.png").is_file());

    // What `lidit sample` draws of the same prompt and seed.
    let again = dir.path().join("again");
    let [prompt, seed] = [
        pictures[1]["prompt"].as_str().unwrap().to_owned(),
        pictures[1]["seed"].to_string(),
    ];
    let words = [
        "sample",
        "--run",
        run.to_str().unwrap(),
        "--out",
        again.to_str().unwrap(),
        "--prompt",
        &prompt,
    ];
    json(
        &[&words[..], &["--seed", &seed, "--steps", "2", "--weights", "raw"]].concat(),
        0,
    );
    let [a, b] = [again.join("0000.png"), out.join(pictures[1]["file"].as_str().unwrap())]
        .map(|path| image::open(path).unwrap().into_rgb8());
    assert!(a.as_raw().iter().zip(b.as_raw()).all(|(a, b)| a.abs_diff(*b) <= 1));
}

#[test]
fn what_was_evaluated_is_not_evaluated_again_unless_something_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (run, config) = (trained(dir.path(), &[]), write_config(dir.path()));
    let file = run.join("eval/small/eval.json");
    let evaluate = |more: &[&str]| {
        let output = run_lidit(&args(&config, &run, &[&["--json"], more].concat()));
        assert!(output.status.success(), "{}", stderr(&output));
        let repeated = !stderr(&output).contains("was evaluated by this config before");
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        (repeated, said, read(&file)["seconds"].clone())
    };
    let (first, said, seconds) = evaluate(&[]);
    assert!(first);
    assert_eq!(evaluate(&[]), (false, said.clone(), seconds.clone()));
    assert!(
        !evaluate(&["--set", "weights=ema:120"]).0,
        "the same average by its half-life"
    );
    let forced = evaluate(&["--force"]);
    assert!(forced.0 && forced.1 == said && forced.2 != seconds);
    for change in [
        &["--set", "scenes.seed=2"][..],
        &["--weights", "raw"],
        &["--set", "sampler.steps=3"],
    ] {
        assert!(evaluate(change).0, "{change:?}");
    }
    // Fewer pictures leave none of the earlier ones behind.
    evaluate(&["--set", "scenes.images=1"]);
    assert_eq!(fs::read_dir(run.join("eval/small/pictures")).unwrap().count(), 4);
    evaluate(&[]);
    train(&run, &["--resume", "--set", "train.steps=3"], 0);
    let (again, said, _) = evaluate(&[]);
    assert!(again && said["step"] == 3);
    // Another folder is another evaluation.
    let out = dir.path().join("out");
    assert!(evaluate(&["--out", out.to_str().unwrap()]).0 && out.join("eval.json").is_file());
}

#[test]
fn an_evaluation_that_is_killed_leaves_none_and_the_next_one_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (run, config) = (trained(dir.path(), &[]), write_config(dir.path()));
    let long = ["--set", "scenes.prompts=200", "--set", "batch=1"];
    let out = run.join("eval/small");
    let mut child = spawn(&args(&config, &run, &long));
    wait_until(|| fs::read_dir(out.join("pictures")).is_ok_and(|files| files.count() >= 3));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!out.join("eval.json").exists());
    let said = json(&args(&config, &run, &[]), 0);
    assert_eq!(said["scenes"]["categories"][0]["n"], 4);
    assert_eq!(fs::read_dir(out.join("pictures")).unwrap().count(), 8);
}

#[test]
fn what_can_not_be_evaluated_is_refused_with_one_error() {
    let dir = tempfile::tempdir().unwrap();
    let (run, config) = (trained(dir.path(), &[]), write_config(dir.path()));
    let bare = dir.path().join("bare");
    fs::create_dir(&bare).unwrap();
    fs::copy(run.join("config.toml"), bare.join("config.toml")).unwrap();
    let refused = |run: &Path, sets: &[&str]| {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", *set]).collect();
        error(&args(&config, run, &sets))
    };
    assert!(refused(&bare, &[]).contains("has no checkpoint that verifies"));
    for (sets, named) in [
        (
            &["scenes.size=64", "scenes.objects=[1, 8]"][..],
            &["scenes.size is 64", "data.image_size = 32"][..],
        ),
        (
            &["scenes.categories=[\"colours\"]"],
            &["scenes.categories", "colours", "attribution"],
        ),
        (
            &["scenes.position_prompts=4"],
            &["[scenes]", "position_bias", "64 pixels"],
        ),
        (&["scenes.objects=[1, 3]"], &["[scenes]", "1 to 3 objects"]),
        (&["scenes.prompt=3"], &["scenes", "prompt"]),
        (&["weights=ema:7"], &["7"]),
        (&["sampler.kind=ddim"], &["sampler.kind", "euler"]),
        (&["validation.samples=5"], &["[validation]", "4 rows"]),
        (&["validation.every=5"], &["every"]),
        (&["format_version=2"], &["format_version is 2"]),
    ] {
        let message = refused(&run, sets);
        for part in named {
            assert!(message.contains(part), "{sets:?} said: {message}");
        }
    }
    assert!(!run.join("eval").exists(), "a refused command left a folder behind");
    let output = command(&["eval", config.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn other_pairs_than_training_left_out_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (copy, config) = (dir.path().join("scenes"), write_config(dir.path()));
    fs::create_dir(&copy).unwrap();
    for file in fs::read_dir(fixture()).unwrap() {
        let file = file.unwrap().path();
        fs::copy(&file, copy.join(file.file_name().unwrap())).unwrap();
    }
    let mut manifest = read(&copy.join("manifest.json"));
    manifest["name"] = "scenes".into();
    manifest["recipe"] = "data build scenes --rows 24 --held-out 4 --held-out-seed 0".into();
    fs::write(copy.join("manifest.json"), manifest.to_string()).unwrap();
    let run = trained(dir.path(), &[&format!("data.path={}", copy.display())]);
    let only_scenes = |held_out: &str| {
        let other = dir.path().join("only-scenes.toml");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&other, &text[..text.find("[validation]").unwrap()]).unwrap();
        args(&other, &run, &["--set", held_out, "--json"])
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let run_with = |held_out: &str| {
        let words = only_scenes(held_out);
        run_lidit(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let message = stderr(&run_with("scenes.held_out=8"));
    assert!(
        message.contains("scenes.held_out = 8") && message.contains("--held-out 4"),
        "{message}"
    );
    let output = run_with("scenes.held_out=4");
    assert!(output.status.success(), "{}", stderr(&output));
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        said["val_loss"].is_null() && said["scenes"]["categories"].is_array(),
        "{said}"
    );
}
