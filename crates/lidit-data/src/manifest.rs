//! `manifest.json`: what a folder of shards holds, where it came from and under which licences.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::bucket::{Bucket, BucketGrid};
use crate::error::DataError;

/// The version of `manifest.json` that this program writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// The name of a manifest in its folder.
pub(crate) const FILE_NAME: &str = "manifest.json";

/// What a folder of shards holds, where it came from and under which licences.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The set's name.
    pub name: String,
    /// How it was built: the command's words after `lidit`.
    pub recipe: String,
    /// Rows of all shards.
    pub rows: u64,
    /// Columns that every shard has.
    pub columns: Vec<ManifestColumn>,
    /// The sizes that its rows are sorted by, where they are: then every shard is of one bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub buckets: Option<BucketGrid>,
    /// The shards, in reading order.
    pub shards: Vec<ManifestShard>,
    /// Its other files: rows that were skipped, pairs that were held out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<ManifestFile>,
    /// Under which terms the parts of the set come.
    pub licences: Vec<Licence>,
}

/// A column: its name and type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestColumn {
    /// Name in the Parquet schema.
    pub name: String,
    /// Type, as `binary`, `string`, `uint32`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// One shard of a set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestShard {
    /// File name in the manifest's folder.
    pub file: String,
    /// Its rows.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, in hex.
    pub sha256: String,
    /// The bucket of all its rows, in a set that is sorted by buckets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bucket: Option<Bucket>,
}

/// A list beside the shards of a set: JSON Lines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// File name in the manifest's folder.
    pub file: String,
    /// Its lines.
    pub lines: u64,
    /// Its SHA-256, in hex.
    pub sha256: String,
}

/// The terms of one part of a set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Licence {
    /// Which part: `images`, `captions`, ..
    pub part: String,
    /// Where it came from: package and version.
    pub source: String,
    /// SPDX identifier or expression.
    pub licence: String,
    /// The notice that must go with it.
    pub notice: String,
}

impl Manifest {
    /// Reads a manifest and checks that it is one of this version.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        Self::parse(path, &fs::read(path).map_err(DataError::io(path))?)
    }

    /// The manifest that `path` holds, checked to be one of this version.
    pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Self, DataError> {
        let refuse = |problem: String| DataError::Manifest {
            path: path.to_owned(),
            problem,
        };
        let value: serde_json::Value = serde_json::from_slice(text).map_err(|error| refuse(error.to_string()))?;
        let version = value.get("format_version").and_then(serde_json::Value::as_u64);
        if version != Some(u64::from(FORMAT_VERSION)) {
            let found = version.map_or_else(|| "none".to_owned(), |version| version.to_string());
            return Err(refuse(format!(
                "format_version is {found}, this program reads {FORMAT_VERSION}"
            )));
        }
        let manifest: Self = serde_json::from_value(value).map_err(|error| refuse(error.to_string()))?;
        let lists = manifest.files.iter().map(|list| &list.file);
        let mut files = manifest.shards.iter().map(|shard| &shard.file).chain(lists);
        if let Some(file) = files.find(|file| !is_plain_name(file)) {
            return Err(refuse(format!("`{file}` is not a file name")));
        }
        Ok(manifest)
    }

    /// Writes `manifest.json` into a folder: indented, with a newline at the end.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, DataError> {
        let path = folder.join(FILE_NAME);
        let mut text = serde_json::to_string_pretty(self).map_err(|error| DataError::Manifest {
            path: path.clone(),
            problem: error.to_string(),
        })?;
        text.push('\n');
        let mut file = fs::File::create(&path).map_err(DataError::io(&path))?;
        file.write_all(text.as_bytes()).map_err(DataError::io(&path))?;
        file.sync_all().map_err(DataError::io(&path))?;
        Ok(path)
    }

    /// SHA-256 over the shards' digests in order, in hex: what the data is, wherever it lies.
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        for shard in &self.shards {
            hasher.update(format!("{} {}\n", shard.sha256, shard.rows));
        }
        hex(&hasher.finalize())
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn is_plain_name(file: &str) -> bool {
    Path::new(file).file_name().is_some_and(|name| name == file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format_version: FORMAT_VERSION,
            name: "two".into(),
            recipe: "data build two".into(),
            rows: 2,
            columns: vec![ManifestColumn {
                name: "image".into(),
                kind: "binary".into(),
            }],
            buckets: None,
            shards: vec![ManifestShard {
                file: "shard-00000.parquet".into(),
                rows: 2,
                bytes: 10,
                sha256: "ab".into(),
                bucket: None,
            }],
            files: vec![],
            licences: vec![],
        }
    }

    fn refusal(change: impl Fn(&mut serde_json::Value)) -> String {
        let folder = tempfile::tempdir().unwrap();
        let mut value = serde_json::to_value(manifest()).unwrap();
        change(&mut value);
        let path = folder.path().join(FILE_NAME);
        fs::write(&path, value.to_string()).unwrap();
        Manifest::read(&path).unwrap_err().to_string()
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = manifest().write(folder.path()).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), manifest());
    }

    #[test]
    fn another_version_an_unknown_key_and_a_path_out_of_the_folder_are_refused() {
        assert!(refusal(|m| m["format_version"] = 2.into()).contains("format_version is 2"));
        assert!(refusal(|m| m["extra"] = 2.into()).contains("extra"));
        assert!(refusal(|m| m["shards"][0]["file"] = "../x.parquet".into()).contains("../x.parquet"));
    }

    #[test]
    fn the_digest_follows_the_shards_alone() {
        let mut other = manifest();
        other.name = "renamed".into();
        assert_eq!(other.digest(), manifest().digest());
        other.shards[0].sha256 = "cd".into();
        assert_ne!(other.digest(), manifest().digest());
    }
}
