//! Autoencoders through the program: goldens of diffusers, pictures, wrong input.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use crate::lidit::{error, json, root};

fn golden(name: &str) -> String {
    root().join("tests/golden/vae").join(name).to_str().unwrap().to_owned()
}

fn tensor(path: &Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor(name).unwrap();
    let values = view
        .data()
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    (view.shape().to_vec(), values.collect())
}

/// The largest `|a - b| / |b|` over rows.
fn relative_error(found: &[f32], expected: &[f32], width: usize) -> f64 {
    let length = |row: &mut dyn Iterator<Item = f32>| row.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let rows = found.chunks(width).zip(expected.chunks(width));
    let errors = rows.map(|(a, b)| length(&mut a.iter().zip(b).map(|(a, b)| a - b)) / length(&mut b.iter().copied()));
    errors.fold(0.0, |worst, e| if e > worst || e.is_nan() { e } else { worst })
}

fn check(found: &Path, found_name: &str, expected: &Path, expected_name: &str) {
    let (shape, values) = tensor(found, found_name);
    let (expected_shape, expected) = tensor(expected, expected_name);
    assert_eq!(shape, expected_shape);
    let error = relative_error(&values, &expected, shape[3]);
    assert!(error < 1e-4, "{}: relative error {error:.2e}", found.display());
}

#[test]
fn latents_and_pictures_match_diffusers() {
    let dir = tempfile::tempdir().unwrap();
    let (latents, decoded) = (dir.path().join("l.safetensors"), dir.path().join("d.safetensors"));
    for name in ["four", "sixteen", "no-attention", "bf16"] {
        let (model, file) = (golden(name), golden(&format!("{name}.safetensors")));
        let answer = json(
            &[
                "vae",
                "encode",
                "--model",
                &model,
                "--images",
                &file,
                "--out",
                latents.to_str().unwrap(),
            ],
            0,
        );
        check(&latents, "latents", Path::new(&file), "latents");
        assert_eq!(answer["latents"], serde_json::json!(tensor(&latents, "latents").0));
        json(
            &[
                "vae",
                "decode",
                "--model",
                &model,
                "--latents",
                &file,
                "--out",
                decoded.to_str().unwrap(),
            ],
            0,
        );
        check(&decoded, "decoded", Path::new(&file), "decoded");
    }
}

/// A PNG and a lossless WebP with the same pixels, and those as a tensor.
fn pictures(dir: &Path, width: u32, height: u32) -> [PathBuf; 3] {
    let picture = image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8 * 9, y as u8 * 7, 200]));
    let paths = ["a.png", "a.webp", "a.safetensors"].map(|name| dir.join(format!("{width}x{height}-{name}")));
    picture.save(&paths[0]).unwrap();
    picture.save(&paths[1]).unwrap();
    let bytes: Vec<u8> = (0..3)
        .flat_map(|c| picture.pixels().map(move |p| f32::from(p[c]) / 127.5 - 1.0))
        .flat_map(f32::to_le_bytes)
        .collect();
    let shape = vec![1, 3, height as usize, width as usize];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape, &bytes).unwrap();
    fs::write(&paths[2], safetensors::serialize([("image", view)], None).unwrap()).unwrap();
    paths
}

#[test]
fn picture_files_are_encoded_as_their_pixels_and_come_back_as_pngs() {
    let dir = tempfile::tempdir().unwrap();
    let files = pictures(dir.path(), 24, 16);
    let [png, webp, tensors] = files.each_ref().map(|path| path.to_str().unwrap());
    let latents = dir.path().join("l.safetensors");
    let out = latents.to_str().unwrap();
    let model = golden("sixteen");
    json(
        &[
            "vae", "encode", "--model", &model, "--images", png, webp, tensors, "--out", out,
        ],
        0,
    );
    let (shape, values) = tensor(&latents, "latents");
    assert_eq!(shape, [3, 16, 2, 3]);
    let one = values.len() / 3;
    assert_eq!(values[..one], values[one..2 * one]);
    assert_eq!(values[..one], values[2 * one..]);

    let folder = dir.path().join("pngs");
    let answer = json(
        &[
            "vae",
            "decode",
            "--model",
            &model,
            "--latents",
            out,
            "--out",
            folder.to_str().unwrap(),
        ],
        0,
    );
    let images = answer["images"].as_array().unwrap();
    assert_eq!(images.len(), 3);
    let decoded = image::open(images[2].as_str().unwrap()).unwrap();
    assert_eq!((decoded.width(), decoded.height()), (24, 16));
}

#[test]
fn tiles_are_cut_only_where_a_picture_needs_them() {
    let dir = tempfile::tempdir().unwrap();
    let files = pictures(dir.path(), 24, 16);
    let model = golden("four");
    let encoded = |tile: &str| {
        let out = dir.path().join(format!("{tile}.safetensors"));
        let image = files[0].to_str().unwrap();
        let fixed = [
            "vae",
            "encode",
            "--model",
            &model,
            "--images",
            image,
            "--out",
            out.to_str().unwrap(),
        ];
        json(&[&fixed[..], &["--tile", tile]].concat(), 0);
        tensor(&out, "latents")
    };
    let (whole, one, many) = (encoded("1024"), encoded("24"), encoded("8"));
    assert_eq!(whole, one);
    assert_eq!(whole.0, many.0);
    assert_ne!(whole.1, many.1);
}

#[test]
fn wrong_input_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (model, out) = (golden("four"), path("out.safetensors"));
    let small = pictures(dir.path(), 24, 16);
    let other = pictures(dir.path(), 16, 16);
    let odd = pictures(dir.path(), 15, 16);
    let [small, other, odd] = [&small, &other, &odd].map(|files| files[0].to_str().unwrap());
    let encode = |model: &str, images: &[&str], more: &[&str]| {
        let fixed = ["vae", "encode", "--model", model, "--out", &out, "--images"];
        error(&[&fixed[..], images, more].concat())
    };
    let refused = |message: String, parts: &[&str]| {
        for part in parts {
            assert!(message.contains(part), "no `{part}` in: {message}");
        }
    };
    refused(encode(&path("nowhere"), &[small], &[]), &["nowhere", "config.json"]);
    refused(encode(&model, &[&path("absent.png")], &[]), &["absent.png"]);
    refused(
        encode(&model, &[small, other], &[]),
        &["24 x 16", "16 x 16", "24x16-a.png", "16x16-a.png"],
    );
    refused(encode(&model, &[odd], &[]), &["15 x 16", "multiples of 2"]);
    refused(encode(&model, &[small], &["--tile", "20"]), &["20", "8"]);
    fs::write(path("text.png"), "not a picture").unwrap();
    refused(encode(&model, &[&path("text.png")], &[]), &["text.png"]);
    refused(
        encode(&model, &[&golden("four/diffusion_pytorch_model.safetensors")], &[]),
        &["`image`"],
    );

    fs::create_dir(path("other")).unwrap();
    fs::write(path("other/config.json"), "{\"_class_name\": \"AutoencoderDC\"}").unwrap();
    refused(encode(&path("other"), &[small], &[]), &["AutoencoderDC", "_class_name"]);
    let bytes = fs::read(golden("four/diffusion_pytorch_model.safetensors")).unwrap();
    fs::copy(golden("four/config.json"), path("other/config.json")).unwrap();
    fs::write(
        path("other/diffusion_pytorch_model.safetensors"),
        &bytes[..bytes.len() / 2],
    )
    .unwrap();
    refused(encode(&path("other"), &[small], &[]), &["truncated"]);
    assert!(!Path::new(&out).exists(), "a refused call leaves a file");

    let decode = |latents: &str| error(&["vae", "decode", "--model", &model, "--latents", latents, "--out", &out]);
    refused(decode(&golden("sixteen.safetensors")), &["16 channels", "has 4"]);
    refused(decode(&path("absent.safetensors")), &["absent.safetensors"]);
    refused(decode(small), &["24x16-a.png"]);
}

/// Trains the debug autoencoder into `out`; it must exit with `code`.
fn train(out: &Path, more: &[&str], code: i32) -> serde_json::Value {
    let config = root().join("configs/vae/debug.toml");
    let fixed = ["vae", "train", config.to_str().unwrap(), "--out", out.to_str().unwrap()];
    json(&[&fixed[..], more].concat(), code)
}

#[test]
fn a_trained_autoencoder_is_a_folder_that_encode_and_decode_read() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    let answer = train(&model, &[], 0);
    assert_eq!(answer["step"], 6);
    let lines = fs::read_to_string(model.join("metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 6);
    for key in ["loss", "reconstruction", "kl", "perceptual", "psnr", "lr"] {
        assert!(lines.iter().all(|line| line[key].is_number()), "{key}");
    }
    let loss = |line: &serde_json::Value| line["loss"].as_f64().unwrap();
    assert!(loss(&lines[5]) < loss(&lines[0]), "{lines:?}");
    for step in [3, 6] {
        assert!(image::open(model.join(format!("samples/step-{step}.png"))).is_ok());
    }

    let config: serde_json::Value = serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
    let (scale, shift) = (&config["scaling_factor"], &config["shift_factor"]);
    assert!(scale.as_f64().unwrap() > 0.0 && shift.is_number());
    let [png, ..] = pictures(dir.path(), 24, 16);
    let (model, out) = (model.to_str().unwrap(), dir.path().join("l.safetensors"));
    let (image, out) = (png.to_str().unwrap(), out.to_str().unwrap());
    let answer = json(&["vae", "encode", "--model", model, "--images", image, "--out", out], 0);
    assert_eq!(answer["latents"], serde_json::json!([1, 4, 8, 12]));
    let folder = dir.path().join("pngs");
    json(
        &[
            "vae",
            "decode",
            "--model",
            model,
            "--latents",
            out,
            "--out",
            folder.to_str().unwrap(),
        ],
        0,
    );
}

#[test]
fn a_resumed_training_ends_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| dir.path().join(name));
    train(&whole, &[], 0);
    train(&parts, &["--steps", "4"], 0);
    train(&parts, &["--resume", "--steps", "6"], 0);
    for file in ["diffusion_pytorch_model.safetensors", "config.json"] {
        assert!(
            fs::read(whole.join(file)).unwrap() == fs::read(parts.join(file)).unwrap(),
            "{file}"
        );
    }
    let steps = |folder: &Path| {
        fs::read_to_string(folder.join("metrics.jsonl"))
            .unwrap()
            .lines()
            .count()
    };
    assert_eq!((steps(&whole), steps(&parts)), (6, 6));
}

#[test]
fn a_training_that_is_told_to_stop_saves_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    let config = root().join("configs/vae/debug.toml");
    let fixed = ["vae", "train", config.to_str().unwrap(), "--out", out.to_str().unwrap()];
    let mut child = crate::lidit::spawn(&[&fixed[..], &["--steps", "1000000"]].concat());
    while !out.join("training.safetensors").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before its first save");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let id = child.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(75));
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    let next = (last["step"].as_u64().unwrap() + 1).to_string();
    let answer = train(&out, &["--resume", "--steps", &next], 0);
    assert_eq!(answer["step"].to_string(), next);
}

#[test]
fn wrong_trainings_are_refused_before_the_first_step() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("model");
    let config = root().join("configs/vae/debug.toml");
    let refused = |more: &[&str], part: &str| {
        let fixed = ["vae", "train", config.to_str().unwrap(), "--out", out.to_str().unwrap()];
        let message = error(&[&fixed[..], more].concat());
        assert!(message.contains(part), "no `{part}` in: {message}");
    };
    for (set, part) in [
        ("network.norm_num_groups=3", "network.norm_num_groups"),
        ("network.blocks=3", "blocks"),
        ("loss.reconstruction=\"l3\"", "loss.reconstruction"),
        ("loss.perceptual=-1.0", "loss.perceptual"),
        ("train.batch=0", "train.batch"),
        ("train.lr=0.0", "train.lr"),
        ("network.block_out_channels=[4,4,4,4,4,4]", "data.image_size"),
        ("data.path=\"/nowhere/at/all\"", "/nowhere/at/all"),
    ] {
        refused(&["--set", set], part);
    }
    refused(
        &[
            "--set",
            "loss.perceptual=1.0",
            "--set",
            "loss.features=\"./absent.pth\"",
        ],
        "loss.features",
    );
    train(&out, &["--steps", "1"], 0);
    refused(&[], "--resume");
    refused(&["--resume", "--set", "train.lr=1.0"], "--steps");
}
