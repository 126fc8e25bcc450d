//! Autoencoders against diffusers: tiny random weights in every shape that folders come in.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData};
use common::{f32s, relative_error};
use lidit_encoders::{AutoencoderKl, EncoderError, Precision};
use safetensors::SafeTensors;
use serde_json::{Value, json};

/// Folder, golden, and the tile that diffusers used.
const MODELS: [(&str, &str, usize); 5] = [
    ("four", "four", 16),
    ("old-names", "four", 16),
    ("sixteen", "sixteen", 32),
    ("no-attention", "no-attention", 16),
    ("bf16", "bf16", 16),
];

const TOLERANCE: f64 = 1e-4;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/golden/vae")
        .join(name)
}

fn load(folder: &Path) -> Result<AutoencoderKl, EncoderError> {
    AutoencoderKl::load(folder, Precision::F32, &Device::flex())
}

struct Golden(Vec<u8>);

impl Golden {
    fn open(name: &str) -> Self {
        Self(fs::read(golden(&format!("{name}.safetensors"))).unwrap())
    }

    fn tensor(&self, name: &str) -> Tensor<4> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let shape = file.tensor(name).unwrap().shape().to_vec();
        Tensor::from_data(TensorData::new(f32s(&file, name), shape), (&Device::flex(), DType::F32))
    }

    fn error(&self, name: &str, found: Tensor<4>) -> f64 {
        let expected = self.tensor(name);
        assert_eq!(found.dims(), expected.dims(), "shape of {name}");
        let width = found.dims()[3];
        relative_error(&values(found), &values(expected), width)
    }

    fn check(&self, model: &str, name: &str, found: Tensor<4>) {
        let error = self.error(name, found);
        assert!(error < TOLERANCE, "{model}: {name}: relative error {error:.2e}");
    }
}

fn values(tensor: Tensor<4>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

#[test]
fn moments_latents_and_pictures_match_diffusers() {
    for (model, name, _) in MODELS {
        let golden_file = Golden::open(name);
        let vae = load(&golden(model)).unwrap();
        let (mean, logvar) = vae.moments(golden_file.tensor("image"));
        golden_file.check(model, "mean", mean);
        golden_file.check(model, "logvar", logvar);
        golden_file.check(model, "latents", vae.encode(golden_file.tensor("image")));
        golden_file.check(model, "decoded", vae.decode(golden_file.tensor("latents")));
    }
}

#[test]
fn tiles_match_diffusers_and_one_tile_is_the_whole() {
    for (model, name, tile) in MODELS {
        let golden_file = Golden::open(name);
        let vae = load(&golden(model)).unwrap();
        let (scale, shift) = (vae.config().scaling_factor, vae.config().shift_factor);
        let tiling = vae.tiling(tile).unwrap();
        let latents = vae.encode_tiled(golden_file.tensor("large"), tiling);
        golden_file.check(model, "large.mean", latents / scale + shift);
        let latents = (golden_file.tensor("large.mean") - shift) * scale;
        golden_file.check(model, "large.decoded", vae.decode_tiled(latents, tiling));

        let whole = vae.tiling(4 * tile).unwrap();
        let image = golden_file.tensor("large");
        let latents = vae.encode(image.clone());
        assert_eq!(
            values(vae.encode_tiled(image, whole)),
            values(latents.clone()),
            "{model}"
        );
        assert_eq!(
            values(vae.decode_tiled(latents.clone(), whole)),
            values(vae.decode(latents)),
            "{model}"
        );
    }
}

/// Far from its borders a tile differs from the whole picture by its norms' statistics alone; of a picture that repeats
/// with the tile those are nearly the same, and fading leaves no seam.
#[test]
fn tiles_of_a_repeating_picture_are_close_to_the_whole() {
    let vae = load(&golden("no-attention")).unwrap();
    let side = 96;
    let wave = |i: usize| {
        let (y, x) = ((i / side) % side, i % side);
        ((x as f32) * std::f32::consts::TAU / 12.0).sin() * ((y as f32) * std::f32::consts::TAU / 12.0).cos()
    };
    let data = TensorData::new((0..3 * side * side).map(wave).collect::<Vec<_>>(), [1, 3, side, side]);
    let image = Tensor::<4>::from_data(data, (&Device::flex(), DType::F32));
    let whole = vae.encode(image.clone());
    let tiled = vae.encode_tiled(image, vae.tiling(48).unwrap());
    let size = whole.clone().abs().mean().into_scalar::<f32>();
    let difference = (whole - tiled).abs();
    let mean = difference.clone().mean().into_scalar::<f32>() / size;
    let worst = difference.max().into_scalar::<f32>() / size;
    assert!(mean < 0.1, "mean difference {mean}");
    assert!(worst < 1.5, "worst difference {worst}");
}

#[test]
fn bf16_stays_close_to_f32() {
    for (model, name, _) in MODELS {
        let golden_file = Golden::open(name);
        let vae = AutoencoderKl::load(&golden(model), Precision::Bf16, &Device::flex()).unwrap();
        let latents = vae.encode(golden_file.tensor("image"));
        let error = golden_file.error("latents", latents);
        assert!(error > 0.0 && error < 0.1, "{model}: relative error {error:.2e}");
    }
}

#[test]
fn sizes_and_fingerprints_tell_autoencoders_apart() {
    let four = load(&golden("four")).unwrap();
    assert_eq!((four.factor(), four.latent_channels()), (2, 4));
    let sixteen = load(&golden("sixteen")).unwrap();
    assert_eq!((sixteen.factor(), sixteen.latent_channels()), (8, 16));
    assert!((sixteen.config().shift_factor - 0.0609).abs() < 1e-12);
    let print = |vae: &AutoencoderKl| vae.fingerprint(None).unwrap();
    assert_eq!(print(&four), print(&load(&golden("four")).unwrap()));
    assert_ne!(print(&four), print(&sixteen));
    let bf16 = AutoencoderKl::load(&golden("four"), Precision::Bf16, &Device::flex()).unwrap();
    assert_ne!(print(&four), print(&bf16));
    let dir = copy_of("four");
    change_config(dir.path(), |config| config["scaling_factor"] = json!(0.2));
    assert_ne!(
        print(&four),
        print(&load(dir.path()).unwrap()),
        "another scale, other latents"
    );
    for tile in [0, 12, 15] {
        assert!(four.tiling(tile).is_err(), "{tile}");
    }
}

fn copy_of(model: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(golden(model)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

fn change_config(folder: &Path, change: impl Fn(&mut Value)) {
    let path = folder.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(&path, config.to_string()).unwrap();
}

fn refusal(folder: &Path) -> String {
    load(folder).expect_err("should be refused").to_string()
}

#[test]
fn configs_of_other_networks_are_refused_by_key() {
    for (key, value) in [
        ("_class_name", json!("AutoencoderTiny")),
        ("_class_name", Value::Null),
        (
            "down_block_types",
            json!(["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]),
        ),
        ("up_block_types", json!(["UpDecoderBlock2D"])),
        ("latents_mean", json!([0.0, 0.0, 0.0, 0.0])),
        ("latents_std", json!([1.0, 1.0, 1.0, 1.0])),
        ("in_channels", json!(4)),
        ("act_fn", json!("gelu")),
        ("norm_num_groups", json!(3)),
        ("norm_num_groups", json!(0)),
        ("scaling_factor", json!(0)),
        ("scaling_factor", json!("0.18")),
        ("block_out_channels", json!([])),
        ("block_out_channels", json!([4, -8])),
        ("decoder_block_out_channels", json!([4, 8])),
    ] {
        let dir = copy_of("four");
        change_config(dir.path(), |config| config[key] = value.clone());
        let message = refusal(dir.path());
        assert!(
            message.contains(&format!("`{key}`")) && message.contains("config.json"),
            "{key} = {value}: {message}"
        );
    }
}

#[test]
fn missing_surplus_and_misshapen_tensors_are_named_with_their_file() {
    let named = |change: &dyn Fn(&mut Value), tensor: &str| {
        let dir = copy_of("four");
        change_config(dir.path(), change);
        let message = refusal(dir.path());
        assert!(
            message.contains(&format!("`{tensor}`")) && message.contains("diffusion_pytorch_model.safetensors"),
            "{tensor}: {message}"
        );
    };
    named(&|config| config["use_quant_conv"] = json!(false), "quant_conv.bias");
    named(
        &|config| config["layers_per_block"] = json!(2),
        "encoder.down_blocks.0.resnets.1.norm1.weight",
    );
    named(
        &|config| config["latent_channels"] = json!(8),
        "encoder.conv_out.weight",
    );
    named(
        &|config| config["mid_block_add_attention"] = json!(false),
        "decoder.mid_block.attentions.0.group_norm.bias",
    );
}

#[test]
fn folders_without_weights_and_truncated_files_are_refused() {
    let dir = copy_of("four");
    let weights = dir.path().join("diffusion_pytorch_model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 100]).unwrap();
    let message = refusal(dir.path());
    assert!(message.contains("truncated"), "{message}");
    fs::remove_file(&weights).unwrap();
    let message = refusal(dir.path());
    assert!(message.contains("diffusion_pytorch_model.safetensors"), "{message}");
    let shard = "diffusion_pytorch_model-00002-of-00004.safetensors";
    let dir = copy_of("no-attention");
    fs::remove_file(dir.path().join(shard)).unwrap();
    assert!(refusal(dir.path()).contains(shard));
    assert!(refusal(&dir.path().join("nowhere")).contains("nowhere"));
}
