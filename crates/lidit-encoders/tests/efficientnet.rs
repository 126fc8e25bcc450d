//! EfficientNet-lite0 against `efficientnet_lite_pytorch`, both with weights that a formula makes.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::fs;
use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use common::{f32s, relative_error};
use lidit_encoders::{EfficientNetLite0, EncoderError};
use safetensors::SafeTensors;

/// The same numbers as `made_up` in `tests/golden/vae/generate_efficientnet.py`.
#[expect(clippy::unnecessary_wraps, reason = "the type of a reader of files")]
fn made_up(name: &str, shape: &[usize]) -> Result<Vec<f32>, EncoderError> {
    let phase = 78.233 * f64::from(name.bytes().map(u32::from).sum::<u32>());
    let fan_in: usize = shape[1..].iter().product();
    let value = |i: usize| {
        let wave = (12.9898 * (i + 1) as f64 + phase).sin();
        let value = if name.ends_with("running_var") {
            1.0 + 0.5 * wave
        } else if name.contains("bn") {
            0.2 * wave + f64::from(u8::from(name.ends_with("weight")))
        } else {
            wave * 2.0 / (fan_in as f64).sqrt()
        };
        value as f32
    };
    Ok((0..shape.iter().product()).map(value).collect())
}

fn bytes() -> Vec<u8> {
    let path = "../../tests/golden/vae/efficientnet.safetensors";
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn pictures(file: &SafeTensors, name: &str, device: &Device) -> Tensor<4> {
    let data = TensorData::new(f32s(file, name), file.tensor(name).unwrap().shape().to_vec());
    Tensor::from_data(data, (device, DType::F32))
}

#[test]
fn features_and_distance_match_pytorch() {
    let (bytes, device) = (bytes(), Device::flex());
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let network = EfficientNetLite0::with_weights(&made_up, &device).unwrap();
    let [image, other] = ["image", "other"].map(|name| pictures(&file, name, &device));
    for (i, feature) in network.features(image.clone()).into_iter().enumerate() {
        let name = format!("feature.{i}");
        assert_eq!(feature.dims(), *file.tensor(&name).unwrap().shape());
        let width = feature.dims()[3];
        let error = relative_error(&feature.into_data().try_into_vec().unwrap(), &f32s(&file, &name), width);
        assert!(error < 1e-4, "{name}: relative error {error:.2e}");
    }
    let distance = network
        .distance(image.clone(), other)
        .into_data()
        .try_into_vec::<f32>()
        .unwrap();
    let error = relative_error(&distance, &f32s(&file, "distance"), 1);
    assert!(error < 1e-4, "distance: relative error {error:.2e}");
    let same = network
        .distance(image.clone(), image)
        .into_data()
        .try_into_vec::<f32>()
        .unwrap();
    assert_eq!(same, [0.0, 0.0]);
}

#[test]
fn the_gradient_of_the_distance_leads_towards_the_other_picture() {
    let (bytes, device) = (bytes(), Device::flex().autodiff());
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let network = EfficientNetLite0::with_weights(&made_up, &device).unwrap();
    let [image, other] = ["image", "other"].map(|name| pictures(&file, name, &device));
    let image = image.require_grad();
    let distance = network.distance(image.clone(), other.clone()).sum();
    let before = distance.clone().into_scalar::<f32>();
    let gradient = image.grad(&distance.backward()).unwrap();
    let square = (gradient.clone() * gradient.clone()).sum().into_scalar::<f32>();
    let step = 1e-3 / square.sqrt();
    let moved = Tensor::from_inner(image.inner() - gradient * step);
    let after = network.distance(moved, other).sum().into_scalar::<f32>();
    let predicted = 1e-3 * square.sqrt();
    assert!(
        ((before - after) / predicted - 1.0).abs() < 0.05,
        "{before} -> {after}, predicted {predicted} less"
    );
}
