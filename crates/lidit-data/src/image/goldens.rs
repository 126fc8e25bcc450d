//! Pictures of every kind against their pixels as Pillow decodes them (`tests/golden/images/generate.py`).

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use image::{ImageFormat, RgbImage};

use super::{Limits, centre_crop, decode, decode_cropped, dimensions};

const ANY_SIZE: Limits = Limits::new(1);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/images")
}

/// Names and bytes of the encoded pictures.
pub(super) fn encoded() -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path))
        .filter(|(name, _)| !(name.ends_with(".rgb.png") || name.starts_with("crop") || name == "generate.py"))
        .map(|(name, path)| (name, fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

/// An 8-bit RGB PNG, without this project's decoder.
fn plain(name: &str) -> RgbImage {
    let bytes = fs::read(folder().join(name)).unwrap();
    image::load_from_memory_with_format(&bytes, ImageFormat::Png)
        .unwrap()
        .into_rgb8()
}

/// The mean and the largest difference of a value.
fn difference(a: &RgbImage, b: &RgbImage) -> (f64, u8) {
    assert_eq!(a.dimensions(), b.dimensions());
    let differences = a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| a.abs_diff(*b));
    let sum: f64 = differences.clone().map(f64::from).sum();
    (sum / a.as_raw().len() as f64, differences.max().unwrap())
}

/// The largest mean and single difference from Pillow: decoders of JPEG may round and interpolate colour as they like
/// (seen: 0.39 and 3); everything else is exact.
fn tolerance(name: &str) -> (f64, u8) {
    if name.starts_with("jpeg") { (0.5, 4) } else { (0.0, 0) }
}

#[test]
fn every_kind_of_picture_is_what_pillow_sees() {
    let files = encoded();
    assert_eq!(files.len(), 51);
    let mut failures = Vec::new();
    for (name, bytes) in files {
        let expected = plain(&format!("{name}.rgb.png"));
        let picture = decode(&bytes, &ANY_SIZE).unwrap_or_else(|reason| panic!("{name}: {reason}"));
        let (mean, max) = difference(&picture, &expected);
        println!("{name}: mean {mean:.3}, max {max}");
        let (most_mean, most_max) = tolerance(&name);
        if mean > most_mean || max > most_max {
            failures.push(format!("{name}: mean {mean:.3}, max {max}"));
        }
        assert_eq!(dimensions(&bytes), Ok(expected.dimensions()), "{name}");
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn crops_are_resized_as_pillow_does() {
    let picture = plain("crop.png");
    let bytes = fs::read(folder().join("crop.png")).unwrap();
    for name in ["square", "wide", "tall", "larger"] {
        let expected = plain(&format!("crop-{name}.png"));
        let ours = decode_cropped(&bytes, expected.dimensions(), &ANY_SIZE).unwrap();
        let (mean, max) = difference(&ours, &expected);
        println!("{name}: mean {mean:.3}, max {max}");
        // Lanczos in fixed point, of different precision: seen at an edge that is enlarged, 4; when shrinking, 1.
        assert!(
            mean < 0.4 && max <= if name == "larger" { 4 } else { 1 },
            "{name}: mean {mean:.3}, max {max}"
        );
        assert_eq!(ours, centre_crop(picture.clone(), expected.dimensions()));
    }
    assert_eq!(decode_cropped(&bytes, picture.dimensions(), &ANY_SIZE), Ok(picture));
}
