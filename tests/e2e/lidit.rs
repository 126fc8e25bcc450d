//! The program under test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// `configs/run/debug.toml`.
pub fn debug_config() -> PathBuf {
    root().join("configs/run/debug.toml")
}

/// `lidit` with `args`, not started. The environment's ranks are taken away, so that tests may run under a launcher.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lidit"));
    command.args(args).stdin(Stdio::null());
    for name in [
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
        "MASTER_ADDR",
        "MASTER_PORT",
        "SLURM_PROCID",
        "SLURM_NTASKS",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs `lidit` to its end.
pub fn run(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// Runs `lidit`, which must exit with `code`; returns its `--json` object.
pub fn json(args: &[&str], code: i32) -> Value {
    let output = run(&[args, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
    let stdout = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(stdout.lines().last().expect("no answer")).unwrap()
}

/// Runs `lidit`, which must fail with exit code 1; returns its one-line error.
pub fn error(args: &[&str]) -> String {
    let output = run(args);
    assert_eq!(
        output.status.code(),
        Some(1),
        "{args:?} should fail: {}",
        stderr(&output)
    );
    let text = stderr(&output);
    let line = text
        .lines()
        .find(|line| line.starts_with("error: "))
        .unwrap_or_else(|| panic!("no error in {text}"));
    line.to_owned()
}

/// What a process said.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Starts `lidit` in the background, silent.
pub fn spawn(args: &[&str]) -> Child {
    command(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Arguments of a debug run in `dir`, with `extra` behind.
pub fn train_args<'a>(dir: &'a str, config: &'a str, extra: &[&'a str]) -> Vec<&'a str> {
    [&["train", config, "--run-dir", dir], extra].concat()
}

/// Trains the debug run in `dir` with `extra` arguments; it must exit with `code`.
pub fn train(dir: &Path, extra: &[&str], code: i32) -> Value {
    let config = debug_config();
    json(
        &train_args(dir.to_str().unwrap(), config.to_str().unwrap(), extra),
        code,
    )
}

/// The digest of the newest checkpoint of the run in `dir`.
pub fn digest(dir: &Path) -> String {
    json(&["checkpoint", "digest", dir.to_str().unwrap()], 0)["digest"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// The logged steps of the run in `dir`.
pub fn metrics(dir: &Path) -> Vec<Value> {
    std::fs::read_to_string(dir.join("metrics.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The logged losses of the run in `dir`, by step.
pub fn losses(dir: &Path) -> Vec<(u64, f64)> {
    metrics(dir)
        .iter()
        .map(|line| (line["step"].as_u64().unwrap(), line["loss"].as_f64().unwrap()))
        .collect()
}

/// Draws one picture with `run` into `out`, `side` pixels wide and high.
pub fn draw_one(run: &Path, out: &Path, side: u32) -> Value {
    let [run, folder] = [run, out].map(|path| path.to_str().unwrap());
    let drawn = json(
        &["sample", "--run", run, "--out", folder, "--prompt", "a blue whale"],
        0,
    );
    assert_eq!(drawn["images"].as_array().unwrap().len(), 1);
    let picture = image::open(out.join("0000.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (side, side));
    drawn
}

/// All weights of the checkpoint of `step`, tensor by tensor in order of names.
pub fn weights(dir: &Path, step: u64) -> Vec<f32> {
    numbers(dir, step, "model")
}

/// The average of `half_life` in the checkpoint of `step`, in the order of [`weights`].
pub fn average(dir: &Path, step: u64, half_life: u64) -> Vec<f32> {
    numbers(dir, step, &format!("ema-{half_life}"))
}

fn numbers(dir: &Path, step: u64, file: &str) -> Vec<f32> {
    let path = dir.join(format!("checkpoints/step-{step}/{file}.safetensors"));
    let bytes = std::fs::read(path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut names = tensors.names();
    names.sort_unstable();
    names
        .iter()
        .flat_map(|name| {
            let data = tensors.tensor(name).unwrap().data().to_vec();
            data.chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// `|a - b| / |b|` over whole vectors.
pub fn relative_l2(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f64| x * x;
    let difference: f64 = a
        .iter()
        .zip(b)
        .map(|(&a, &b)| square(f64::from(a) - f64::from(b)))
        .sum();
    let size: f64 = b.iter().map(|&b| square(f64::from(b))).sum();
    (difference / size).sqrt()
}
