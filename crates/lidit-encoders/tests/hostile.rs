//! Thousands of damaged and altered files: an error each, or states; never a panic, never an allocation that the
//! file could not justify.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::alloc::System;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use cap::Cap;
use common::{fixture, golden};
use lidit_encoders::{EncoderError, LayerChoice, ModelFiles, Precision, PromptEncoder, TemplateConfig};

/// An allocation beyond the limit ends the process, which fails the test. The models have less than half a megabyte.
#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, 512 << 20);

/// A small generator with a fixed seed, so that a failure can be met again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// Changes up to eight places of `bytes[..region]`, or cuts the file, or moves a piece of it.
fn altered(good: &[u8], region: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = good.to_vec();
    match random.below(10) {
        0 => bytes.truncate(random.below(good.len())),
        1 => {
            let (from, to, len) = (random.below(region), random.below(region), random.below(64));
            let piece = bytes[from..(from + len).min(region)].to_vec();
            bytes.splice(to..to, piece);
        }
        2 => {
            let from = random.below(region);
            bytes.drain(from..(from + 1 + random.below(32)).min(region));
        }
        3 | 4 => {
            // Lengths, counts, offsets.
            let extremes = [0, 1, u64::MAX, 1 << 63, 1 << 32, (1 << 32) - 1, 1 << 40, 0xffff];
            let at = random.below(region.saturating_sub(8));
            bytes[at..at + 8].copy_from_slice(&extremes[random.below(extremes.len())].to_le_bytes());
        }
        _ => {
            for _ in 0..=random.below(8) {
                let at = random.below(region);
                bytes[at] = match random.below(4) {
                    0 => 0,
                    1 => 255,
                    2 => bytes[at] ^ (1 << random.below(8)),
                    _ => random.below(256) as u8,
                };
            }
        }
    }
    bytes
}

/// Loads a model and, where that works, encodes with it.
fn try_all(path: &Path) -> Result<(), EncoderError> {
    let files = ModelFiles::open(path)?;
    let llm = lidit_encoders::Llm::load(&files, LayerChoice::Layer(1), Precision::F32, &Device::flex())?;
    llm.forward(&[&[0, 1, 2]], None)?;
    Ok(())
}

fn must_not_panic(path: &Path, what: &str, mut run: impl FnMut() -> Result<(), EncoderError>) -> bool {
    let result = catch_unwind(std::panic::AssertUnwindSafe(&mut run));
    let result = result.unwrap_or_else(|_| panic!("{what}: panicked; the file is left at {}", path.display()));
    if let Err(error) = &result {
        assert!(!error.to_string().is_empty());
    }
    result.is_ok()
}

/// `count` altered copies of `good` at `path`; most must be refused, and some must still load.
fn attack(good: &[u8], region: usize, path: &Path, count: usize, run: impl Fn() -> Result<(), EncoderError>) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut loaded = 0;
    for number in 0..count {
        fs::write(path, altered(good, region, &mut random)).unwrap();
        loaded += usize::from(must_not_panic(path, &format!("alteration {number}"), &run));
    }
    println!("{}: {loaded} of {count} alterations still load", path.display());
    assert!(
        loaded > 0 && loaded < count,
        "{loaded} of {count} alterations of {} load",
        path.display()
    );
}

#[test]
fn altered_gguf_files_never_panic() {
    for name in ["tiny-llama.gguf", "tiny-gemma3.gguf"] {
        let good = fs::read(fixture(name)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        // Metadata, vocabulary and tensor list come first.
        let region = good.len() / 3;
        attack(&good, region, &path, 1500, || try_all(&path));
        // Fewer with the tokenizer, which takes longer to build.
        attack(&good, region, &path, 150, || {
            let choice = LayerChoice::Layer(1);
            let encoder = PromptEncoder::load(&path, choice, TemplateConfig::bare(), Precision::F32, &Device::flex())?;
            encoder.encode(&["a red apple", ""])?;
            Ok(())
        });
    }
}

#[test]
fn altered_folders_never_panic() {
    for (name, file, region) in [
        ("llama2", "model.safetensors", 4000),
        ("llama2", "config.json", usize::MAX),
        ("llama3", "model.safetensors.index.json", usize::MAX),
        ("t5-gated", "config.json", usize::MAX),
        ("gemma3-text", "config.json", usize::MAX),
    ] {
        let dir = tempfile::tempdir().unwrap();
        copy_folder(&golden("models").join(name), dir.path());
        let path = dir.path().join(file);
        let good = fs::read(&path).unwrap();
        attack(&good, region.min(good.len()), &path, 800, || try_all(dir.path()));
    }
}

/// What alterations seldom hit, each refused for its own reason.
#[test]
fn headers_that_claim_too_much_are_named() {
    let good = fs::read(fixture("tiny-llama.gguf")).unwrap();
    let after = |text| common::after(&good, text);
    let patched = |at, bytes: &[u8]| common::patched(&good, at, bytes);
    let mut aligned = good.clone();
    // One key more, right after the counts: general.alignment = 0.
    let entry = [
        &17_u64.to_le_bytes()[..],
        b"general.alignment",
        &4_u32.to_le_bytes(),
        &0_u32.to_le_bytes(),
    ]
    .concat();
    let keys = u64::from_le_bytes(good[16..24].try_into().unwrap());
    aligned[16..24].copy_from_slice(&(keys + 1).to_le_bytes());
    aligned.splice(24..24, entry);
    let cases = [
        (aligned, "general.alignment is 0"),
        (patched(4, &9_u32.to_le_bytes()), "version 9"),
        (patched(16, &u64::MAX.to_le_bytes()), "metadata keys and"),
        (patched(8, &(1_u64 << 40).to_le_bytes()), "tensors"),
        (
            patched(after("general.architecture") + 4, &(1_u64 << 50).to_le_bytes()),
            "something of 1125899906842624 bytes",
        ),
        (
            patched(after("tokenizer.ggml.tokens") + 8, &(1_u64 << 60).to_le_bytes()),
            "more than 16777216 values",
        ),
        (
            patched(after("blk.1.attn_q.weight"), &5_u32.to_le_bytes()),
            "`blk.1.attn_q.weight` has 5 dimensions",
        ),
        (
            patched(after("blk.1.attn_q.weight") + 4, &(1_u64 << 50).to_le_bytes()),
            "impossibly large",
        ),
        (
            patched(after("blk.1.attn_q.weight") - 19, b"blk.1.attn_k.weight"),
            "is there twice",
        ),
        (
            patched(after("llama.block_count") + 4, &u32::MAX.to_le_bytes()),
            "up to 4096, not 4294967295",
        ),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("claims.gguf");
    for (bytes, expected) in cases {
        fs::write(&path, bytes).unwrap();
        let message = try_all(&path).expect_err(expected).to_string();
        assert!(
            message.contains(expected) && message.contains("claims.gguf"),
            "{expected}: {message}"
        );
    }
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let target: PathBuf = to.join(entry.file_name().unwrap());
        fs::copy(&entry, target).unwrap();
    }
}
