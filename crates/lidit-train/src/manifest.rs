//! What a checkpoint says it holds.

use serde::{Deserialize, Serialize};

use crate::layout::Entry;

/// Version of the checkpoint format. 2: groups are part and kind of a parameter, and the VAE is named.
pub const FORMAT_VERSION: u32 = 2;

/// Written last; a folder without it is not a checkpoint.
pub const MANIFEST: &str = "manifest.json";

/// The weights' file: named f32 tensors, from the masters.
pub const MODEL_FILE: &str = "model.safetensors";

/// What a checkpoint holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always `FORMAT_VERSION` of this file.
    pub format_version: u32,
    /// Version of the binary that wrote it.
    pub lidit_version: String,
    /// Optimizer steps made.
    pub step: u64,
    /// Ranks that wrote it. Any number reads it.
    pub world_size: usize,
    /// Where the sample stream stood.
    pub data: DataPosition,
    /// Fingerprints of the frozen encoders, in config order.
    pub encoders: Vec<String>,
    /// Fingerprint of the VAE; `identity` for pixels.
    pub vae: String,
    /// Half-lives of the stored weight averages, in samples.
    pub ema_half_lives: Vec<u64>,
    /// Flat space: names, shapes, offsets, groups.
    pub layout: Vec<Entry>,
    /// Every other file of the folder.
    pub files: Vec<FileEntry>,
}

/// Where the sample stream stood when a checkpoint was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataPosition {
    /// Samples drawn from the stream.
    pub position: u64,
    /// Running digest of all sample ids drawn.
    pub digest: String,
    /// Digest of the data set's manifest.
    pub dataset: String,
}

/// One file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Name inside the folder.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 of the content, hexadecimal.
    pub sha256: String,
}

/// The file of one weight average.
pub fn ema_file(half_life: u64) -> String {
    format!("ema-{half_life}.safetensors")
}

/// The file of one rank's optimizer state.
pub fn optimizer_file(rank: usize) -> String {
    format!("optimizer-{rank:04}.safetensors")
}
