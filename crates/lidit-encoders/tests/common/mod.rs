//! Where goldens and models lie, and how states are compared.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::env;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

/// A file of `tests/golden/encoders`.
pub fn golden(name: &str) -> PathBuf {
    repository().join("tests/golden/encoders").join(name)
}

/// A file of `datasets/fixtures/llm`.
pub fn fixture(name: &str) -> PathBuf {
    repository().join("datasets/fixtures/llm").join(name)
}

/// A model that `lidit fetch` brought into the cache; a missing one fails the test.
pub fn fetched(name: &str) -> PathBuf {
    let path = cache().join("models").join(name);
    assert!(
        path.exists(),
        "no `{}`: run `lidit fetch smollm2 gemma3`",
        path.display()
    );
    path
}

/// The largest distance of a row from its reference row, relative to the latter's length.
pub fn relative_error(found: &[f32], expected: &[f32], dim: usize) -> f64 {
    assert_eq!(found.len(), expected.len());
    let rows = found.chunks(dim).zip(expected.chunks(dim));
    worst(rows.map(|(found, expected)| {
        let difference: Vec<_> = found.iter().zip(expected).map(|(a, b)| a - b).collect();
        length(&difference) / length(expected)
    }))
}

/// The largest error; a NaN does not lose against any number.
pub fn worst(errors: impl Iterator<Item = f64>) -> f64 {
    errors.fold(
        0.0,
        |worst, error| if error > worst || error.is_nan() { error } else { worst },
    )
}

/// Where `text` ends in `bytes`, the first time.
pub fn after(bytes: &[u8], text: &str) -> usize {
    let begin = bytes.windows(text.len()).position(|window| window == text.as_bytes());
    begin.unwrap_or_else(|| panic!("no `{text}` in the file")) + text.len()
}

/// A copy of `good` with `bytes` written over what is at `at`.
pub fn patched(good: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = good.to_vec();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

/// A tensor of 32-bit floats.
pub fn f32s(file: &SafeTensors, name: &str) -> Vec<f32> {
    let data = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    data.data()
        .chunks(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

/// A tensor of 32-bit whole numbers.
pub fn u32s(file: &SafeTensors, name: &str) -> Vec<u32> {
    let data = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    data.data()
        .chunks(4)
        .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

fn length(row: &[f32]) -> f64 {
    row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn cache() -> PathBuf {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("LIDIT_CACHE")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("lidit")))
        .or_else(|| Some(variable("HOME")?.join(".cache/lidit")))
        .expect("LIDIT_CACHE, XDG_CACHE_HOME or HOME is set")
}
