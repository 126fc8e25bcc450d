//! From a path in the configuration to the files that hold the rows.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::manifest::{FILE_NAME, Manifest};

/// The shard files behind a path, in reading order, with their manifest where there is one.
pub(crate) struct Source {
    pub files: Vec<PathBuf>,
    pub manifest: Option<Manifest>,
}

impl Source {
    /// Finds the shards behind a manifest, its folder, a Parquet file, a folder of them (at any depth) or a glob.
    ///
    /// Without a manifest the order is that of the sorted paths.
    pub fn find(path: &Path) -> Result<Self, DataError> {
        if path.is_dir() {
            let manifest = path.join(FILE_NAME);
            if manifest.is_file() {
                return Self::of_manifest(&manifest);
            }
            let mut files = Vec::new();
            collect(path, &mut files)?;
            return Self::sorted(path, files);
        }
        if path.is_file() {
            if path.extension().is_some_and(|extension| extension == "json") {
                return Self::of_manifest(path);
            }
            return Self::sorted(path, vec![path.to_owned()]);
        }
        let pattern = path.to_string_lossy();
        if !pattern.contains(['*', '?', '[']) {
            return Err(DataError::io(path)(std::io::ErrorKind::NotFound.into()));
        }
        let matches = glob::glob(&pattern).map_err(|source| DataError::Glob {
            pattern: pattern.into_owned(),
            source,
        })?;
        let files = matches
            .map(|entry| {
                entry.map_err(|error| {
                    let path = error.path().to_owned();
                    DataError::io(&path)(error.into())
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        Self::sorted(path, files.into_iter().filter(|file| file.is_file()).collect())
    }

    fn of_manifest(path: &Path) -> Result<Self, DataError> {
        let manifest = Manifest::read(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let files = manifest.shards.iter().map(|shard| folder.join(&shard.file));
        Ok(Self {
            files: files.collect(),
            manifest: Some(manifest),
        })
    }

    fn sorted(path: &Path, mut files: Vec<PathBuf>) -> Result<Self, DataError> {
        if files.is_empty() {
            return Err(DataError::NoShards { path: path.to_owned() });
        }
        files.sort();
        Ok(Self { files, manifest: None })
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
    for entry in fs::read_dir(folder).map_err(DataError::io(folder))? {
        let path = entry.map_err(DataError::io(folder))?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let source = Source::find(path).unwrap();
        let name = |file: &PathBuf| file.file_name().unwrap().to_string_lossy().into_owned();
        source.files.iter().map(name).collect()
    }

    #[test]
    fn files_folders_and_globs_give_their_shards_sorted() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sub")).unwrap();
        for file in ["b.parquet", "a.parquet", "notes.txt", "sub/c.parquet"] {
            fs::write(folder.path().join(file), "").unwrap();
        }
        assert_eq!(names(folder.path()), ["a.parquet", "b.parquet", "c.parquet"]);
        assert_eq!(names(&folder.path().join("?.parquet")), ["a.parquet", "b.parquet"]);
        assert_eq!(names(&folder.path().join("b.parquet")), ["b.parquet"]);
    }

    #[test]
    fn nothing_there_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let message = |path: &Path| Source::find(path).err().unwrap().to_string();
        assert!(message(folder.path()).contains("no Parquet files"));
        assert!(message(&folder.path().join("*.parquet")).contains("no Parquet files"));
        assert!(message(&folder.path().join("missing")).contains("missing: entity not found"));
    }
}
