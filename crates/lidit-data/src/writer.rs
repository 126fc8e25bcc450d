//! Records to Parquet shards with a manifest, as one folder that appears whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::error::DataError;
use crate::manifest::{FILE_NAME, FORMAT_VERSION, Licence, Manifest, ManifestFile, ManifestShard, hex};
use crate::shard_file::{CaptionColumn, Layout, MetadataColumn, ShardFile, ShardRow, Synthetic};

// Bytes of a row group: what a shard in the making holds in memory.
pub(crate) const GROUP_BYTES: u64 = 64 << 20;

/// One picture and its captions, as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Identifies the picture in the set it came from.
    pub key: String,
    /// The encoded picture.
    pub image: Vec<u8>,
    /// Its captions: one, or as many as [`WriterConfig::captions`] allows.
    pub captions: Vec<String>,
    /// What else is known of it, where [`WriterConfig::metadata`] has a column for it.
    pub metadata: Option<String>,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

/// What a set of shards is called and how it is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriterConfig {
    /// The set's name, for its manifest.
    pub name: String,
    /// How it is built: the command's words after `lidit`.
    pub recipe: String,
    /// Rows of every shard but the last.
    pub rows_per_shard: usize,
    /// Rows of every row group but a shard's last.
    pub rows_per_group: usize,
    /// How many captions a row has.
    pub captions: CaptionColumn,
    /// Whether rows have metadata.
    pub metadata: MetadataColumn,
}

/// Writes records in order into a hidden folder beside the output and renames it when finished.
///
/// The same records give the same bytes. Dropped before [`ShardWriter::finish`], it leaves nothing behind.
pub struct ShardWriter {
    config: WriterConfig,
    out: PathBuf,
    folder: TempDir,
    open: Option<ShardFile>,
    shards: Vec<ManifestShard>,
    files: Vec<ManifestFile>,
}

impl ShardWriter {
    /// Prepares to write `out`, which is new, empty, or holds nothing but an earlier set with its manifest.
    pub fn create(out: &Path, config: WriterConfig) -> Result<Self, DataError> {
        check_replaceable(out)?;
        for (key, rows) in [
            ("rows_per_shard", config.rows_per_shard),
            ("rows_per_group", config.rows_per_group),
        ] {
            if rows == 0 {
                let problem = "is 0, must be at least 1".to_owned();
                return Err(DataError::Config { key, problem });
            }
        }
        let out = std::path::absolute(out).map_err(DataError::io(out))?;
        let parent = out.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(DataError::io(parent))?;
        let folder = tempfile::Builder::new()
            .prefix(".lidit-building-")
            .tempdir_in(parent)
            .map_err(DataError::io(parent))?;
        Ok(Self {
            config,
            out,
            folder,
            open: None,
            shards: Vec::new(),
            files: Vec::new(),
        })
    }

    /// Adds a record; a full shard is written out.
    pub fn push(&mut self, record: Record) -> Result<(), DataError> {
        let mut shard = match self.open.take() {
            Some(shard) => shard,
            None => self.begin()?,
        };
        shard.push(ShardRow {
            key: record.key,
            image: record.image,
            captions: record.captions,
            synthetic: None,
            metadata: record.metadata,
            width: record.width,
            height: record.height,
        })?;
        if shard.rows == self.config.rows_per_shard as u64 {
            self.shards.push(shard.finish(None)?);
        } else {
            self.open = Some(shard);
        }
        Ok(())
    }

    /// Writes a list beside the shards.
    pub fn add_list(&mut self, file: &str, lines: &[String]) -> Result<(), DataError> {
        let path = self.folder.path().join(file);
        let text = lines.join("\n") + "\n";
        fs::write(&path, &text).map_err(DataError::io(&path))?;
        self.files.push(ManifestFile {
            file: file.to_owned(),
            lines: lines.len() as u64,
            sha256: hex(&Sha256::digest(text)),
        });
        Ok(())
    }

    /// Writes the rest and the manifest, then puts the folder in its place.
    pub fn finish(mut self, licences: Vec<Licence>) -> Result<Manifest, DataError> {
        let last = match self.open.take() {
            None if self.shards.is_empty() => Some(self.begin()?),
            open => open,
        };
        if let Some(shard) = last {
            self.shards.push(shard.finish(None)?);
        }
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            name: self.config.name.clone(),
            recipe: self.config.recipe.clone(),
            rows: self.shards.iter().map(|shard| shard.rows).sum(),
            columns: self.layout().columns(),
            buckets: None,
            shards: std::mem::take(&mut self.shards),
            files: std::mem::take(&mut self.files),
            licences,
        };
        manifest.write(self.folder.path())?;
        put_in_place(self.folder, &self.out)?;
        Ok(manifest)
    }

    fn begin(&self) -> Result<ShardFile, DataError> {
        let file = format!("shard-{:05}.parquet", self.shards.len());
        ShardFile::create(self.folder.path(), file, self.layout())
    }

    fn layout(&self) -> Layout {
        Layout {
            captions: self.config.captions,
            synthetic: Synthetic::LeftOut,
            metadata: self.config.metadata,
            group_rows: self.config.rows_per_group,
            group_bytes: GROUP_BYTES,
        }
    }
}

// Only a folder that a manifest accounts for to the last file is replaced: nothing of the user's is ever deleted.
pub(crate) fn check_replaceable(out: &Path) -> Result<(), DataError> {
    let refuse = |problem: String| {
        Err(DataError::NotOurs {
            path: out.to_owned(),
            problem,
        })
    };
    let mut present = match fs::read_dir(out) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(DataError::io(out))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => return refuse("is a file".to_owned()),
        Err(error) => return Err(DataError::io(out)(error)),
    };
    if present.is_empty() {
        return Ok(());
    }
    if !present.iter().any(|name| name == FILE_NAME) {
        return refuse("holds files but no manifest.json".to_owned());
    }
    let manifest = Manifest::read(&out.join(FILE_NAME))?;
    let listed = |name: &String| {
        let shards = manifest.shards.iter().map(|shard| &shard.file);
        let others = manifest.files.iter().map(|list| &list.file);
        name == FILE_NAME || shards.chain(others).any(|file| file == name)
    };
    present.retain(|name| !listed(name));
    match present.first() {
        Some(stranger) => refuse(format!("holds `{stranger}`, which its manifest does not list")),
        None => Ok(()),
    }
}

fn put_in_place(folder: TempDir, out: &Path) -> Result<(), DataError> {
    check_replaceable(out)?;
    let built = folder.keep();
    let restore = |error| DataError::io(out)(error);
    if out.exists() {
        let mut old = built.clone().into_os_string();
        old.push(".old");
        fs::rename(out, &old).map_err(restore)?;
        fs::rename(&built, out).map_err(restore)?;
        return fs::remove_dir_all(&old).map_err(DataError::io(Path::new(&old)));
    }
    fs::rename(&built, out).map_err(restore)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::test_shards::write_set;

    fn create(out: &Path) -> Result<ShardWriter, DataError> {
        let config = WriterConfig {
            name: "x".into(),
            recipe: "x".into(),
            rows_per_shard: 2,
            rows_per_group: 2,
            captions: CaptionColumn::One,
            metadata: MetadataColumn::LeftOut,
        };
        ShardWriter::create(out, config)
    }

    #[test]
    fn the_same_records_give_the_same_bytes_and_the_manifest_tells_them() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        for out in [&a, &b] {
            write_set(out, 5, 2, 2);
        }
        let manifest = Manifest::read(&a.join(FILE_NAME)).unwrap();
        assert_eq!(manifest.rows, 5);
        let rows: Vec<u64> = manifest.shards.iter().map(|shard| shard.rows).collect();
        assert_eq!(rows, [2, 2, 1]);
        for shard in &manifest.shards {
            let bytes = fs::read(a.join(&shard.file)).unwrap();
            assert_eq!(bytes, fs::read(b.join(&shard.file)).unwrap());
            assert_eq!(
                (bytes.len() as u64, hex(&Sha256::digest(&bytes))),
                (shard.bytes, shard.sha256.clone())
            );
        }
        let text = |out: &Path| fs::read_to_string(out.join(FILE_NAME)).unwrap();
        assert_eq!(text(&a), text(&b));
    }

    #[test]
    fn an_earlier_set_is_replaced_and_nothing_is_left_beside() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("set");
        write_set(&out, 9, 2, 2);
        write_set(&out, 3, 2, 2);
        assert_eq!(fs::read_dir(&out).unwrap().count(), 3);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_with_anything_else_is_refused_and_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("set");
        write_set(&out, 3, 2, 2);
        fs::write(out.join("notes.txt"), "mine").unwrap();
        let message = create(&out).err().unwrap().to_string();
        assert!(message.contains("holds `notes.txt`"), "{message}");
        let message = create(folder.path()).err().unwrap().to_string();
        assert!(message.contains("no manifest.json"), "{message}");
        assert_eq!(fs::read_to_string(out.join("notes.txt")).unwrap(), "mine");
    }

    #[test]
    fn a_build_that_breaks_off_leaves_the_old_set_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("set");
        write_set(&out, 3, 2, 2);
        let before = fs::read(out.join("shard-00000.parquet")).unwrap();
        drop(create(&out).unwrap());
        assert_eq!(fs::read(out.join("shard-00000.parquet")).unwrap(), before);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
