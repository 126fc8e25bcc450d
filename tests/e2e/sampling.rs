//! `lidit sample`: which pictures come out, what they say of themselves, and what is refused.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use image::RgbImage;
use serde_json::Value;

use crate::lidit::{command, debug_config, error, json, metrics, root, run as run_lidit, stderr, train};

/// A debug run of two steps in `dir`.
fn trained(dir: &Path) -> PathBuf {
    let run = dir.join("run");
    train(&run, &["--set", "train.steps=2"], 0);
    run
}

/// `lidit sample` into `out` with `extra` arguments.
fn sample_args<'a>(run: &'a Path, out: &'a Path, extra: &[&'a str]) -> Vec<&'a str> {
    let named = ["sample", "--run", run.to_str().unwrap(), "--out", out.to_str().unwrap()];
    [&named, extra].concat()
}

/// Draws; returns the pictures' files.
fn draw(run: &Path, out: &Path, extra: &[&str]) -> Vec<PathBuf> {
    let report = json(&sample_args(run, out, extra), 0);
    let images = report["images"].as_array().unwrap();
    images.iter().map(|path| path.as_str().unwrap().into()).collect()
}

/// All text of a PNG, by keyword.
pub fn texts(path: &Path) -> BTreeMap<String, String> {
    let reader = png::Decoder::new(BufReader::new(File::open(path).unwrap()))
        .read_info()
        .unwrap();
    let info = reader.info();
    let latin = info
        .uncompressed_latin1_text
        .iter()
        .map(|chunk| (chunk.keyword.clone(), chunk.text.clone()));
    let unicode = info
        .utf8_text
        .iter()
        .map(|chunk| (chunk.keyword.clone(), chunk.get_text().unwrap()));
    latin.chain(unicode).collect()
}

fn pixels(path: &Path) -> RgbImage {
    image::open(path).unwrap().into_rgb8()
}

/// Other batch mates pad prompts differently, which may round one level away.
fn assert_near(a: &Path, b: &Path) {
    let (a, b) = (pixels(a), pixels(b));
    assert_eq!(a.dimensions(), b.dimensions());
    for (a, b) in a.as_raw().iter().zip(b.as_raw()) {
        assert!(a.abs_diff(*b) <= 1, "{a} and {b}");
    }
}

#[test]
fn every_prompt_is_drawn_with_every_seed_and_says_how() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let out = dir.path().join("out");
    let settings = "--seeds 3..5 --size 24x16 --steps 3 --guidance 2.5 --guidance-interval 0.2,0.9 \
                    --guidance-rescale 0.5 --sampler dpm_solver_pp_2m --weights raw";
    let mut settings: Vec<_> = settings.split_whitespace().collect();
    settings.extend(["--prompt", "a café", "--prompt", "海 at night"]);
    let images = draw(&run, &out, &settings);
    let names: Vec<_> = images
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap())
        .collect();
    assert_eq!(names, ["0000.png", "0001.png", "0002.png", "0003.png"]);
    let wanted = [
        ("a café", "3"),
        ("a café", "4"),
        ("海 at night", "3"),
        ("海 at night", "4"),
    ];
    for (path, (prompt, seed)) in images.iter().zip(wanted) {
        assert_eq!(pixels(path).dimensions(), (24, 16));
        let texts = texts(path);
        for (key, value) in [
            ("prompt", prompt),
            ("seed", seed),
            ("size", "24x16"),
            ("sampler", "dpm_solver_pp_2m"),
            ("steps", "3"),
            ("guidance", "2.5"),
            ("guidance_interval", "0.2,0.9"),
            ("guidance_rescale", "0.5"),
            ("weights", "raw"),
            ("step", "2"),
            ("Software", concat!("lidit ", env!("CARGO_PKG_VERSION"))),
        ] {
            assert_eq!(texts.get(key).map(String::as_str), Some(value), "{key}");
        }
    }
    assert_ne!(pixels(&images[0]), pixels(&images[1]), "another seed, the same picture");
    assert!(out.join("grid.png").is_file());

    // Without any of them, the run's own prompts and settings.
    let own = draw(&run, &dir.path().join("own"), &[]);
    let texts: Vec<_> = own.iter().map(|path| texts(path)).collect();
    let of = |key: &str| texts.iter().map(|texts| texts[key].as_str()).collect::<Vec<_>>();
    assert_eq!(of("prompt"), ["a beetle, animals & nature", "sunglasses, objects"]);
    assert_eq!((of("sampler"), of("size")), (vec!["euler"; 2], vec!["16x16"; 2]));
    assert_eq!(of("weights"), ["ema:120"; 2]);
}

#[test]
fn a_picture_depends_on_its_prompt_seed_and_size_alone() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let list = dir.path().join("prompts.jsonl");
    let lines = [
        r#"{"prompt": "a beetle, animals & nature"}"#,
        "",
        r#"{"prompt": "sunglasses, objects and a much longer caption than the others have", "width": 32, "height": 8}"#,
        r#"{"prompt": "a whale", "seed": 18446744073709551615}"#,
        r#"{"prompt": "a whale", "seed": 7, "width": 32, "height": 8}"#,
    ];
    fs::write(&list, lines.join("\n")).unwrap();
    let of_list = ["--prompts", list.to_str().unwrap(), "--seed", "1"];
    let together = draw(&run, &dir.path().join("together"), &of_list);
    let alone = draw(
        &run,
        &dir.path().join("alone"),
        &[&of_list[..], &["--batch", "1"]].concat(),
    );
    assert_eq!(together.len(), 4);
    let sizes: Vec<_> = together.iter().map(|path| pixels(path).dimensions()).collect();
    assert_eq!(sizes, [(16, 16), (32, 8), (16, 16), (32, 8)]);
    let seeds: Vec<_> = together.iter().map(|path| texts(path)["seed"].clone()).collect();
    assert_eq!(seeds, ["1", "1", "18446744073709551615", "7"]);
    for (a, b) in together.iter().zip(&alone) {
        assert_near(a, b);
    }
    // The last one again, as the only picture of another command: four times as wide as high, of the run's area.
    let last = ["--prompt", "a whale", "--seed", "7", "--aspect", "4:1"];
    assert_near(&draw(&run, &dir.path().join("last"), &last)[0], &together[3]);

    let mut stdin = command(&sample_args(
        &run,
        &dir.path().join("stdin"),
        &["--prompts", "-", "--seed", "1", "--json"],
    ))
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    stdin
        .stdin
        .take()
        .unwrap()
        .write_all(b"\na beetle, animals & nature\n\n")
        .unwrap();
    let output = stdin.wait_with_output().unwrap();
    assert!(output.status.success());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["images"].as_array().unwrap().len(), 1);
    assert_near(Path::new(report["images"][0].as_str().unwrap()), &together[0]);
}

#[test]
fn a_chain_trains_with_its_loss_by_time_and_draws_with_noise_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (config, run) = (dir.path().join("velocity.toml"), dir.path().join("run"));
    let velocity = root().join("configs/train/velocity.toml");
    fs::write(&config, format!("include = [{:?}, {velocity:?}]\n", debug_config())).unwrap();
    let args = [
        "train",
        config.to_str().unwrap(),
        "--run-dir",
        run.to_str().unwrap(),
        "--set",
        "train.steps=2",
        "--set",
        "objective.shift={ resolution = { reference_tokens = 4 } }",
    ];
    json(&args, 0);
    for line in metrics(&run) {
        let bins = line["loss_bins"].as_array().unwrap();
        let counts = line["loss_bin_counts"].as_array().unwrap();
        assert_eq!((bins.len(), counts.len()), (10, 10));
        let (mut sum, mut samples) = (0.0, 0);
        for (bin, count) in bins.iter().zip(counts) {
            let count = count.as_u64().unwrap();
            assert_eq!(bin.is_null(), count == 0);
            sum += bin.as_f64().unwrap_or(0.0) * count as f64;
            samples += count;
        }
        assert_eq!(samples, 12);
        let (mean, loss) = (sum / 12.0, line["loss"].as_f64().unwrap());
        assert!((mean - loss).abs() <= 1e-6 * loss, "{mean} and {loss}");
    }
    let prompts = [
        "--prompt",
        "a beetle",
        "--prompt",
        "a long-haired beetle",
        "--steps",
        "4",
        "--sampler",
        "ddpm",
    ];
    let together = draw(&run, &dir.path().join("together"), &prompts);
    let alone = draw(
        &run,
        &dir.path().join("alone"),
        &[&prompts[..], &["--batch", "1"]].concat(),
    );
    for (a, b) in together.iter().zip(&alone) {
        assert_near(a, b);
    }
    let ddim = draw(
        &run,
        &dir.path().join("ddim"),
        &[&prompts[..6], &["--sampler", "ddim"]].concat(),
    );
    assert_ne!(pixels(&ddim[0]), pixels(&together[0]), "ddpm added no noise");
}

#[test]
fn what_cannot_be_drawn_is_refused_with_one_error() {
    let dir = tempfile::tempdir().unwrap();
    let run = trained(dir.path());
    let out = dir.path().join("out");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let empty = file("empty.txt", "\n  \n");
    let misspelt = file("misspelt.jsonl", "{\"prompt\": \"a\"}\n{\"promt\": \"b\"}\n");
    let half = file("half.jsonl", r#"{"prompt": "a", "width": 16}"#);
    let odd = file("odd.jsonl", r#"{"prompt": "a hare", "width": 16, "height": 18}"#);
    for (extra, named) in [
        (vec!["--prompts", empty.as_str()], vec!["empty.txt"]),
        (vec!["--prompts", "/nowhere/prompts.txt"], vec!["/nowhere/prompts.txt"]),
        (
            vec!["--prompts", misspelt.as_str()],
            vec!["misspelt.jsonl line 2", "promt"],
        ),
        (vec!["--prompts", half.as_str()], vec!["half.jsonl line 1", "height"]),
        (
            vec!["--prompts", odd.as_str()],
            vec!["a hare", "16x18", "model.patch_size", "16x20"],
        ),
        (vec!["--size", "30x16"], vec!["30x16", "32x16"]),
        (vec!["--sampler", "ddim"], vec!["sampler.kind", "euler"]),
        (vec!["--steps", "0"], vec!["sampler.steps"]),
        (vec!["--guidance=-1"], vec!["sampler.guidance"]),
        (vec!["--guidance-interval", "0.9,0.1"], vec!["guidance_interval"]),
        (vec!["--weights", "ema:7"], vec!["7"]),
    ] {
        let message = error(&sample_args(&run, &out, &extra));
        for part in named {
            assert!(message.contains(part), "{extra:?} said: {message}");
        }
    }
    for (extra, named) in [
        (["--size", "16"], "96x64"),
        (["--size", "0x16"], "96x64"),
        (["--aspect", "16x9"], "16:9"),
        (["--seeds", "5..5"], "5..5"),
        (["--batch", "0"], "--batch"),
        (["--sampler", "heun"], "dpm_solver_pp_2m"),
        (["--guidance-interval", "0.5"], "0.2,0.8"),
    ] {
        let output = run_lidit(&sample_args(&run, &out, &extra));
        assert_eq!(output.status.code(), Some(2), "{extra:?}");
        assert!(stderr(&output).contains(named), "{extra:?} said: {}", stderr(&output));
    }
    assert!(!out.exists(), "a refused command left a folder behind");
}
