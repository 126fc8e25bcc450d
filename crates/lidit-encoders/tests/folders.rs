//! Folders that can't be right: one error that names the file and the tensor or key, before anything is computed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use common::golden;
use lidit_encoders::{LayerChoice, Llm, ModelFiles, Precision};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

/// A copy of a golden folder that may be spoilt.
struct Folder(tempfile::TempDir);

impl Folder {
    fn of(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(golden("models").join(name))
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            fs::copy(&entry, dir.path().join(entry.file_name().unwrap())).unwrap();
        }
        Self(dir)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// Sets a key of `config.json`, or removes it with null... as a key that is null.
    fn set(self, key: &str, value: Value) -> Self {
        let path = self.path("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[key] = value;
        fs::write(path, config.to_string()).unwrap();
        self
    }

    /// Writes `model.safetensors` again, each tensor's name, shape and bytes changed as `change` says.
    fn tensors(self, change: impl Fn(String, Vec<usize>, Vec<u8>) -> Option<(String, Vec<usize>, Vec<u8>)>) -> Self {
        let path = self.path("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let all = file.tensors();
        let all = all.iter().filter_map(|(name, view)| {
            let (name, shape, data) = change(name.clone(), view.shape().to_vec(), view.data().to_vec())?;
            Some((name, (view.dtype(), shape, data)))
        });
        write(&path, &all.collect());
        self
    }

    fn error(&self) -> String {
        let load = || {
            let files = ModelFiles::open(self.0.path())?;
            Llm::load(&files, LayerChoice::Layer(-3), Precision::F32, &Device::flex())
        };
        load().err().expect("the folder is refused").to_string()
    }
}

fn write(path: &Path, tensors: &BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>) {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name.clone(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    fs::write(path, safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap()).unwrap();
}

fn check(folder: &Folder, parts: &[&str]) {
    let message = folder.error();
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn tensors_that_are_missing_misshapen_or_unknown_are_named() {
    let file = "model.safetensors`";
    let up = "model.layers.0.mlp.up_proj.weight";
    let without = Folder::of("llama2").tensors(|name, shape, data| (name != up).then_some((name, shape, data)));
    check(&without, &["has no tensor", up]);
    let flat = Folder::of("llama2").tensors(|name, shape, data| {
        let shape = if name == up {
            vec![shape.iter().product()]
        } else {
            shape
        };
        Some((name, shape, data))
    });
    check(&flat, &[file, up, "has shape"]);
    let renamed = Folder::of("llama2").tensors(|name, shape, data| {
        let name = if name == "lm_head.weight" {
            "model.adapter.weight".into()
        } else {
            name
        };
        Some((name, shape, data))
    });
    check(
        &renamed,
        &[file, "`model.adapter.weight` is unknown to architecture `llama`"],
    );
    let whole_numbers = Folder::of("llama2");
    let path = whole_numbers.path("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = tensors.tensors().into_iter().map(|(name, view)| {
        let dtype = if name == up { Dtype::I32 } else { view.dtype() };
        (name, (dtype, view.shape().to_vec(), view.data().to_vec()))
    });
    write(&path, &tensors.collect());
    check(&whole_numbers, &[file, up, "has type I32"]);
}

#[test]
fn heads_vision_towers_and_decoders_are_left_out_by_name() {
    for extra in [
        "lm_head.weight",
        "vision_tower.patch.weight",
        "visual.blocks.0.weight",
        "multi_modal_projector.w",
    ] {
        let folder = Folder::of("llama2").tensors(|name, shape, data| {
            let name = if name == "lm_head.weight" { extra.into() } else { name };
            Some((name, shape, data))
        });
        let files = ModelFiles::open(folder.0.path()).unwrap();
        Llm::load(&files, LayerChoice::Layer(-3), Precision::F32, &Device::flex()).unwrap();
    }
}

#[test]
fn configs_that_change_states_in_ways_unknown_here_are_refused() {
    let cases: [(&str, &str, Value, &[&str]); 12] = [
        (
            "llama2",
            "model_type",
            json!("mamba"),
            &["config.json", "unknown architecture `mamba`; known are llama, mistral"],
        ),
        ("llama2", "model_type", Value::Null, &["config.json", "`model_type`"]),
        (
            "llama2",
            "rope_parameters",
            json!({"rope_type": "yarn", "factor": 4.0}),
            &["rope_parameters.rope_type", "`yarn` is not supported"],
        ),
        (
            "llama2",
            "rope_parameters",
            json!({"rope_type": "llama3", "factor": 4.0}),
            &["rope_parameters.low_freq_factor"],
        ),
        ("llama2", "hidden_act", json!("mish"), &["hidden_act", "`mish`"]),
        (
            "llama2",
            "hidden_size",
            json!("32"),
            &["hidden_size", "a whole number from 1"],
        ),
        ("llama2", "hidden_size", json!(0), &["hidden_size"]),
        (
            "llama2",
            "num_hidden_layers",
            json!(1_000_000),
            &["num_hidden_layers", "up to 4096"],
        ),
        (
            "llama3",
            "num_key_value_heads",
            json!(3),
            &["num_key_value_heads", "a divisor of its 4 query heads"],
        ),
        (
            "qwen2",
            "quantization_config",
            json!({"quant_method": "gptq"}),
            &["quantization_config", "use GGUF"],
        ),
        (
            "gemma3-text",
            "use_bidirectional_attention",
            json!(true),
            &["use_bidirectional_attention"],
        ),
        (
            "t5-gated",
            "feed_forward_proj",
            json!("gated-tanh"),
            &["feed_forward_proj", "`gated-tanh`"],
        ),
    ];
    for (model, key, value, expected) in cases {
        check(&Folder::of(model).set(key, value), expected);
    }
}

#[test]
fn cut_and_missing_files_are_named() {
    let cut = Folder::of("llama2");
    let path = cut.path("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 10]).unwrap();
    check(
        &cut,
        &["model.safetensors` is truncated: tensor `model.", "fetch it again"],
    );

    let shard = Folder::of("llama3");
    fs::remove_file(shard.path("model-00002-of-00003.safetensors")).unwrap();
    check(&shard, &["cannot read", "model-00002-of-00003.safetensors"]);

    let elsewhere = Folder::of("llama3");
    let index = elsewhere.path("model.safetensors.index.json");
    let text = fs::read_to_string(&index).unwrap();
    fs::write(&index, text.replace("model-00002-of", "../model-00002-of")).unwrap();
    check(
        &elsewhere,
        &[
            "model.safetensors.index.json",
            "is not the name of a file in the folder",
        ],
    );

    let pickled = Folder::of("llama2");
    fs::rename(pickled.path("model.safetensors"), pickled.path("pytorch_model.bin")).unwrap();
    check(
        &pickled,
        &["neither `model.safetensors` nor", "save the model with safetensors"],
    );

    let bare = Folder::of("llama2");
    fs::remove_file(bare.path("config.json")).unwrap();
    check(&bare, &["cannot read", "config.json"]);
}
