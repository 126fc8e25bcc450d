//! Runs behind a VAE: encoded as they train, or from latents that were written before.

use std::path::Path;

use crate::data_sets::write_set;
use crate::lidit::{debug_config, draw_one, error, json, losses, root, train, train_args};

/// A tiny VAE with random weights: 4 channels, two pixels a latent.
fn vae() -> String {
    root().join("tests/golden/vae/four").to_str().unwrap().to_owned()
}

/// The debug run in latents of `vae`, two of them a token: as many tokens as without.
fn sets(vae: &str) -> Vec<String> {
    [
        format!("vae.kl.model={vae}"),
        "vae.kl.precision=f32".to_owned(),
        "vae.kl.tile=64".to_owned(),
        "model.in_channels=4".to_owned(),
        "model.patch_size=2".to_owned(),
    ]
    .into_iter()
    .flat_map(|set| ["--set".to_owned(), set])
    .collect()
}

fn strs(sets: &[String]) -> Vec<&str> {
    sets.iter().map(String::as_str).collect()
}

fn refused(extra: &[String]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let config = debug_config();
    let run = dir.path().join("run");
    error(&train_args(
        run.to_str().unwrap(),
        config.to_str().unwrap(),
        &strs(extra),
    ))
}

fn close(a: &[(u64, f64)], b: &[(u64, f64)]) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() <= 1e-5 * b.1.abs())
}

#[test]
fn a_run_in_latents_trains_draws_and_goes_on_from_written_latents() {
    let dir = tempfile::tempdir().unwrap();
    let [run, cached, features, pictures] = ["run", "cached", "features", "pictures"].map(|name| dir.path().join(name));
    let sets = sets(&vae());
    train(&run, &strs(&sets), 0);
    draw_one(&run, &pictures, 16);

    let config = debug_config();
    let cache = ["cache", config.to_str().unwrap(), "--out", features.to_str().unwrap()];
    json(&[&cache[..], &strs(&sets)].concat(), 0);
    let on = format!("encoders.features={}", features.display());
    let with_features = [&strs(&sets)[..], &["--set", &on]].concat();
    train(&cached, &with_features, 0);
    assert!(
        close(&losses(&cached), &losses(&run)),
        "{:?} {:?}",
        losses(&cached),
        losses(&run)
    );
    // The captions' states serve a run in pixels, too.
    train(&dir.path().join("pixels"), &["--set", &on], 0);
}

#[test]
fn two_ranks_on_written_latents_train_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let features = dir.path().join("features");
    let config = debug_config();
    let mut sets = sets(&vae());
    let cache = ["cache", config.to_str().unwrap(), "--out", features.to_str().unwrap()];
    json(&[&cache[..], &strs(&sets)].concat(), 0);
    sets.extend(["--set".to_owned(), format!("encoders.features={}", features.display())]);
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    train(&one, &strs(&sets), 0);
    let launch = ["launch", "--nproc", "2", "--"];
    let args = train_args(two.to_str().unwrap(), config.to_str().unwrap(), &strs(&sets));
    let output = crate::lidit::run(&[&launch[..], &args].concat());
    assert!(output.status.success(), "{}", crate::lidit::stderr(&output));
    assert!(close(&losses(&two), &losses(&one)));
}

#[test]
fn pictures_that_could_not_be_encoded_are_trained_around() {
    let dir = tempfile::tempdir().unwrap();
    let [data, features, run, live] = ["data", "features", "run", "live"].map(|name| dir.path().join(name));
    write_set(&data, 32, 8);
    let config = debug_config();
    let mut sets = sets(&vae());
    sets.extend(["--set".to_owned(), format!("data.path={}", data.display())]);
    train(&live, &strs(&sets), 0);
    let cache = ["cache", config.to_str().unwrap(), "--out", features.to_str().unwrap()];
    json(&[&cache[..], &strs(&sets)].concat(), 0);
    sets.extend(["--set".to_owned(), format!("encoders.features={}", features.display())]);
    train(&run, &strs(&sets), 0);
    assert!(close(&losses(&run), &losses(&live)));
    let rows = std::fs::read_to_string(run.join("quarantine.jsonl")).unwrap();
    assert_eq!(rows.lines().count(), 4);
    assert!(rows.contains("when latents were written"), "{rows}");
    json(&["data", "audit", run.to_str().unwrap()], 0);
}

#[test]
fn latents_that_do_not_fit_are_refused_with_the_key() {
    let with = |sets: Vec<String>, extra: &[&str]| {
        let extra = extra.iter().flat_map(|set| ["--set".to_owned(), (*set).to_owned()]);
        refused(&sets.into_iter().chain(extra).collect::<Vec<_>>())
    };
    let message = with(sets(&vae()), &["model.in_channels=3"]);
    assert!(
        message.contains("model.in_channels is 3") && message.contains("4 channels"),
        "{message}"
    );
    let message = with(sets(&vae()), &["data.image_size=18"]);
    assert!(
        message.contains("4 pixels wide") && message.contains("18 x 18"),
        "{message}"
    );
    let message = with(sets(&vae()), &["vae.kl.tile=3"]);
    assert!(message.contains("vae.kl.tile"), "{message}");
    let message = with(sets("/nowhere/vae"), &[]);
    assert!(message.contains("/nowhere/vae"), "{message}");
    let message = with(Vec::new(), &["model.in_channels=4"]);
    assert!(message.contains("vae = \"identity\""), "{message}");
}

#[test]
fn another_vae_than_the_checkpoint_s_or_the_features_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = debug_config();
    let (features, run) = (dir.path().join("features"), dir.path().join("run"));
    // The same weights under a scale that was changed: other latents.
    let own = dir.path().join("vae");
    copy(Path::new(&vae()), &own);
    let own = own.to_str().unwrap();
    let cache = ["cache", config.to_str().unwrap(), "--out", features.to_str().unwrap()];
    json(&[&cache[..], &strs(&sets(own))].concat(), 0);
    train(
        &run,
        &[&strs(&sets(own))[..], &["--set", "train.stop_after=2"]].concat(),
        75,
    );
    let path = Path::new(own).join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("0.18215", "0.2")).unwrap();
    let on = ["--set".to_owned(), format!("encoders.features={}", features.display())];
    let message = refused(&[&sets(own)[..], &on].concat());
    assert!(message.contains("latents.vae is"), "{message}");
    let resumed = train_args(run.to_str().unwrap(), config.to_str().unwrap(), &["--resume"]);
    let message = error(&resumed);
    assert!(message.contains("vae has fingerprint"), "{message}");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}
