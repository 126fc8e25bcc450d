//! A folder of features on the disk: files that are whole under their names, the manifest last.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use lidit_data::{FeatureFile, FeatureRow, ManifestShard};
use serde::de::DeserializeOwned;

use super::identity::{FORMAT_VERSION, FeatureIdentity, FeatureManifest};
use crate::atomic::write_atomically;
use crate::digest::{hash_file, sync_folder};
use crate::folder_lock;

const IDENTITY: &str = "identity.json";
const MANIFEST: &str = "manifest.json";
const PARTIAL: &str = ".partial";
/// Digits of a file's SHA-256 that its name carries: a file that was damaged since is known without a manifest.
const NAME_DIGITS: usize = 16;

/// A folder of features: `identity.json` first, `prefix`, `prompts` and `group-NNNNN` files, `manifest.json` last.
pub(super) struct FeatureFolder {
    root: PathBuf,
}

/// Whole files by what they hold, as their names say; more than one where another prompt list was written.
pub(super) type Listing = BTreeMap<String, Vec<String>>;

impl FeatureFolder {
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Makes the folder, or takes up an earlier attempt at the same features, and holds its lock until the file is
    /// dropped. Half-written files of the earlier attempt go.
    pub fn claim(&self, identity: &FeatureIdentity) -> Result<Option<File>> {
        let lock = folder_lock::take(&self.root, "feature folder")?;
        if let Some(stored) = self.read::<FeatureIdentity>(IDENTITY)? {
            stored.check(identity, &self.root)?;
        } else {
            if let Some(stranger) = self.names()?.iter().find(|name| !name.starts_with('.')) {
                bail!(
                    "{} holds {stranger} but no {IDENTITY}, so it is no folder of features: name another --out",
                    self.root.display()
                );
            }
            let text = serde_json::to_vec_pretty(identity)?;
            write_atomically(&self.root.join(IDENTITY), &text)?;
        }
        for name in self.names()?.iter().filter(|name| name.ends_with(PARTIAL)) {
            let path = self.root.join(name);
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(lock)
    }

    /// The whole files that are there.
    pub fn listing(&self) -> Result<Listing> {
        let mut listing = Listing::new();
        for name in self.names()? {
            let item = name.strip_suffix(".parquet").and_then(|name| name.split_once('.'));
            if let Some((item, _)) = item.filter(|(item, _)| !item.is_empty()) {
                listing.entry(item.to_owned()).or_default().push(name);
            }
        }
        Ok(listing)
    }

    /// Writes the file of `item`; it is on the disk, whole and under its name, when this returns.
    pub fn put(&self, item: &str, rows: &[FeatureRow], num_encoders: usize) -> Result<ManifestShard> {
        self.reopen()?;
        let partial = self.root.join(format!(".{item}{PARTIAL}"));
        FeatureFile::write(&partial, rows, num_encoders).context("is the disk full?")?;
        let (bytes, sha256) = hash_file(&partial)?;
        let file = format!("{item}.{}.parquet", &sha256[..NAME_DIGITS]);
        let path = self.root.join(&file);
        fs::rename(&partial, &path).with_context(|| format!("renaming {} to {file}", partial.display()))?;
        sync_folder(&self.root)?;
        Ok(ManifestShard {
            file,
            rows: rows.len() as u64,
            bytes,
            sha256,
            bucket: None,
        })
    }

    /// The entry of a file whose content is what its name says; `None`, and the file removed, if it is damaged.
    pub fn verified(&self, file: &str, num_encoders: usize) -> Result<Option<ManifestShard>> {
        let path = self.root.join(file);
        let (bytes, sha256) = hash_file(&path)?;
        if !file.ends_with(&format!(".{}.parquet", &sha256[..NAME_DIGITS])) {
            eprintln!("warning: {} is damaged, its captions are encoded again", path.display());
            self.reopen()?;
            self.remove(file)?;
            return Ok(None);
        }
        Ok(Some(ManifestShard {
            file: file.to_owned(),
            rows: FeatureFile::open(&path, num_encoders)?.num_rows(),
            bytes,
            sha256,
            bucket: None,
        }))
    }

    /// The rows of a file that `entry` describes.
    pub fn rows(&self, entry: &ManifestShard, num_encoders: usize) -> Result<Vec<FeatureRow>> {
        let path = self.root.join(&entry.file);
        let (bytes, sha256) =
            hash_file(&path).with_context(|| format!("{MANIFEST} lists it: run the same lidit cache again"))?;
        ensure!(
            (bytes, &sha256) == (entry.bytes, &entry.sha256),
            "{} has {bytes} bytes and digest {sha256}, its manifest says {} and {}: it is damaged, run the same lidit \
             cache again",
            path.display(),
            entry.bytes,
            entry.sha256
        );
        Ok(FeatureFile::open(&path, num_encoders)?.read()?)
    }

    /// Completes the folder.
    pub fn finish(&self, manifest: &FeatureManifest) -> Result<()> {
        write_atomically(&self.root.join(MANIFEST), &serde_json::to_vec_pretty(manifest)?)
    }

    /// The manifest of a complete folder.
    pub fn manifest(&self) -> Result<FeatureManifest> {
        if let Some(manifest) = self.read::<FeatureManifest>(MANIFEST)? {
            return Ok(manifest);
        }
        let shown = self.root.display();
        if self.root.join(IDENTITY).exists() {
            bail!("the features in {shown} are not complete: run the same lidit cache again, it goes on");
        }
        bail!("{shown} holds no features: write them with lidit cache CONFIG --out {shown}")
    }

    /// Removes a file that nothing needs any more.
    pub fn remove(&self, file: &str) -> Result<()> {
        let path = self.root.join(file);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// The folder is about to change, so it is not complete.
    fn reopen(&self) -> Result<()> {
        self.remove(MANIFEST)
    }

    fn names(&self) -> Result<Vec<String>> {
        let read = || -> std::io::Result<Vec<String>> {
            let entries = fs::read_dir(&self.root)?;
            entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        };
        let mut names = read().with_context(|| format!("listing {}", self.root.display()))?;
        names.sort();
        Ok(names)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.root.join(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
        };
        let value: serde_json::Value =
            serde_json::from_slice(&text).with_context(|| format!("parsing {}", path.display()))?;
        let version = value.get("format_version").and_then(serde_json::Value::as_u64);
        ensure!(
            version == Some(u64::from(FORMAT_VERSION)),
            "{} has format_version {}, this program reads {FORMAT_VERSION}: write the features again",
            path.display(),
            version.map_or_else(|| "none".to_owned(), |version| version.to_string())
        );
        let read = serde_json::from_value(value).with_context(|| format!("reading {}", path.display()))?;
        Ok(Some(read))
    }
}
