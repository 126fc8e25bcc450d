//! Every architecture against transformers, on tiny random models in the Hugging Face layout and in GGUF.
//!
//! Prompts of 1, 6 and 60 tokens: longer than every window and than the lengths that rotary positions were stretched from.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use common::{f32s, golden, relative_error, u32s, worst};
use lidit_encoders::gguf::GgufFile;
use lidit_encoders::{LayerChoice, Llm, ModelFiles, Precision, Shared};
use safetensors::SafeTensors;

const NUM_PROMPTS: usize = 3;

/// Every model of `tests/golden/encoders/models`, and the file with its states.
fn models() -> Vec<(PathBuf, PathBuf)> {
    let mut paths: Vec<_> = fs::read_dir(golden("models"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.retain(|path| path.join("config.json").exists() || path.is_file());
    paths.sort();
    assert!(paths.len() >= 24, "only {} golden models", paths.len());
    paths.into_iter().map(|path| (path.clone(), states_of(&path))).collect()
}

/// A file in GGUF and a folder in an older layout have the states of the folder they were made from; only Gemma 2's
/// GGUF can't say what its folder says.
fn states_of(model: &Path) -> PathBuf {
    let name = model.file_name().unwrap().to_str().unwrap();
    let own = golden(&format!("{}.safetensors", name.replace('.', "-")));
    if own.exists() {
        own
    } else {
        golden(&format!(
            "{}.safetensors",
            name.trim_end_matches("-old").trim_end_matches(".gguf")
        ))
    }
}

fn load(path: &Path, choice: LayerChoice, precision: Precision) -> Llm {
    let files = ModelFiles::open(path).unwrap();
    Llm::load(&files, choice, precision, &Device::flex()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The largest relative error of a token over all prompts, encoded together.
fn error(llm: &Llm, reference: &SafeTensors, tensor: &str) -> f64 {
    let prompts: Vec<_> = (0..NUM_PROMPTS)
        .map(|i| u32s(reference, &format!("p{i}.ids")))
        .collect();
    let prompts: Vec<_> = prompts.iter().map(Vec::as_slice).collect();
    let states = llm.forward(&prompts, None).unwrap();
    let dim = llm.shape().hidden_size;
    worst(
        states
            .iter()
            .enumerate()
            .map(|(i, found)| relative_error(found, &f32s(reference, &format!("p{i}.{tensor}")), dim)),
    )
}

#[test]
fn every_layer_of_every_architecture_equals_transformers() {
    for (folder, states) in models() {
        let bytes = fs::read(&states).unwrap();
        let reference = SafeTensors::deserialize(&bytes).unwrap();
        let shape = ModelFiles::open(&folder).unwrap().shape().unwrap();
        let num_layers = shape.num_layers() as i32;
        for layer in 0..=num_layers {
            let llm = load(&folder, LayerChoice::Layer(layer), Precision::F32);
            let error = error(&llm, &reference, &format!("hidden.{layer}"));
            assert!(
                error < 1e-4,
                "{}, layer {layer}: relative error {error:e}",
                folder.display()
            );
        }
        let llm = load(&folder, LayerChoice::Mean, Precision::F32);
        let error = error(&llm, &reference, "mean");
        assert!(
            error < 1e-4,
            "{}, mean of layers: relative error {error:e}",
            folder.display()
        );
    }
}

#[test]
fn bf16_is_as_exact_as_transformers_bf16() {
    for (folder, states) in models().into_iter().filter(|(path, _)| path.is_dir()) {
        let bytes = fs::read(&states).unwrap();
        let reference = SafeTensors::deserialize(&bytes).unwrap();
        let num_layers = ModelFiles::open(&folder).unwrap().shape().unwrap().num_layers() as i32;
        for layer in [num_layers - 2, num_layers] {
            let theirs = (0..NUM_PROMPTS).map(|i| f32s(&reference, &format!("p{i}.bf16_error.{layer}"))[0]);
            let theirs = f64::from(theirs.fold(0.0, f32::max));
            let ours = error(
                &load(&folder, LayerChoice::Layer(layer), Precision::Bf16),
                &reference,
                &format!("hidden.{layer}"),
            );
            assert!(
                ours > 0.0 && ours <= 1.5 * theirs,
                "{}, layer {layer}: relative error {ours:e}, transformers' {theirs:e}",
                folder.display()
            );
        }
    }
}

#[test]
fn every_type_of_gguf_tensor_is_read() {
    let bytes = fs::read(golden("quantised.safetensors")).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let file = GgufFile::open(&golden("quantised.gguf")).unwrap();
    let names = reference.names();
    assert_eq!(names.len(), 11);
    for name in names {
        let (found, expected) = (file.tensor(name).unwrap(), f32s(&reference, name));
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                (found - expected).abs() <= 1e-6 * expected.abs(),
                "{name}: {found} and {expected}"
            );
        }
    }
}

/// The expected values are those that transformers' config classes have.
#[test]
fn keys_left_out_mean_what_transformers_takes() {
    let text = fs::read_to_string(golden("config_defaults.json")).unwrap();
    let defaults: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
    for (model_type, keys) in defaults {
        let mut whole = keys;
        whole["model_type"] = model_type.clone().into();
        let shape = |config: serde_json::Value| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
            let header = b"{}      ";
            let empty = [&(header.len() as u64).to_le_bytes()[..], header].concat();
            fs::write(dir.path().join("model.safetensors"), empty).unwrap();
            ModelFiles::open(dir.path()).unwrap().shape().unwrap()
        };
        let bare = serde_json::json!({ "model_type": model_type });
        assert!(shape(bare) == shape(whole), "{model_type}");
    }
}

#[test]
fn older_configs_mean_the_same() {
    let mut count = 0;
    for (folder, _) in models() {
        let old = folder.join("config.old.json"); // none beside a file
        if !old.exists() {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            fs::copy(&entry, dir.path().join(entry.file_name().unwrap())).unwrap();
        }
        fs::copy(&old, dir.path().join("config.json")).unwrap();
        let shape = |folder: &Path| ModelFiles::open(folder).unwrap().shape().unwrap();
        assert!(shape(dir.path()) == shape(&folder), "{}", folder.display());
        count += 1;
    }
    assert!(count >= 6, "only {count} older configs");
}

#[test]
fn reused_beginnings_give_the_same_states() {
    for (folder, _) in models() {
        let llm = load(&folder, LayerChoice::Layer(-1), Precision::F32);
        if !llm.shape().is_causal() {
            continue;
        }
        let vocab = llm.shape().vocab_size as u32;
        let ids: Vec<u32> = (0..40).map(|i| (i * 37 + 11) % vocab).collect();
        let dim = llm.shape().hidden_size;
        let whole = llm.forward(&[&ids], None).unwrap().remove(0);
        // As long as the beginning itself, shorter than it, and none of it.
        let beginning = llm.begin(&ids[..26]).unwrap();
        let error = relative_error(&beginning.states, &whole[..26 * dim], dim);
        assert!(error < 1e-5, "{}: {error:e}", folder.display());
        for count in [26, 25, 9, 1, 0] {
            let shared = Shared {
                beginning: &beginning,
                count,
            };
            let rest = llm
                .forward(&[&ids[count..], &ids[count..count + 3]], Some(shared))
                .unwrap();
            let error = relative_error(&rest[0], &whole[count * dim..], dim);
            assert!(error < 1e-5, "{}, {count} shared: {error:e}", folder.display());
            let error = relative_error(&rest[1], &whole[count * dim..(count + 3) * dim], dim);
            assert!(error < 1e-5, "{}, {count} shared, padded: {error:e}", folder.display());
        }
    }
}
