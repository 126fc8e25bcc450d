//! From a path in the configuration to the files that hold the rows.

use std::fs;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};

use crate::error::DataError;
use crate::location::{Scheme, Url, join};
use crate::manifest::{FILE_NAME, Manifest};
use crate::storage::Storage;

const WILDCARDS: [char; 3] = ['*', '?', '['];

/// The shard files behind a path, in reading order, with their manifest where there is one.
pub(crate) struct Source {
    pub files: Vec<PathBuf>,
    pub manifest: Option<Manifest>,
}

impl Source {
    /// Finds the shards behind a manifest, its folder, a Parquet file, a folder of them (at any depth) or a glob; of this
    /// machine or behind a URL, whose folders are prefixes.
    ///
    /// Without a manifest the order is that of the sorted paths.
    pub fn find(path: &Path, storage: &Storage) -> Result<Self, DataError> {
        match Url::parse(path)? {
            Some(url) => Self::find_remote(path, &url, storage),
            None => Self::find_local(path),
        }
    }

    fn find_local(path: &Path) -> Result<Self, DataError> {
        if path.is_dir() {
            let manifest = path.join(FILE_NAME);
            if manifest.is_file() {
                return Self::of_manifest(&manifest, Manifest::read(&manifest)?);
            }
            let mut files = Vec::new();
            collect(path, &mut files)?;
            return Self::sorted(path, files);
        }
        if path.is_file() {
            if path.extension().is_some_and(|extension| extension == "json") {
                return Self::of_manifest(path, Manifest::read(path)?);
            }
            return Self::sorted(path, vec![path.to_owned()]);
        }
        let pattern = path.to_string_lossy();
        if !pattern.contains(WILDCARDS) {
            return Err(DataError::io(path)(std::io::ErrorKind::NotFound.into()));
        }
        let matches = glob::glob(&pattern).map_err(DataError::glob(&pattern))?;
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

    fn find_remote(path: &Path, url: &Url, storage: &Storage) -> Result<Self, DataError> {
        let read = |at: &Path| storage.read_if_there(at);
        // Signed addresses and those of web servers may hold any character; they are never patterns.
        if url.scheme != Scheme::Web && url.key.contains(WILDCARDS) {
            return Self::matching(path, url, storage);
        }
        if has_extension(&url.key, "parquet") {
            return Self::sorted(path, vec![path.to_owned()]);
        }
        if has_extension(&url.key, "json") {
            let text = read(path)?.ok_or_else(|| missing(path))?;
            return Self::of_manifest(path, Manifest::parse(path, &text)?);
        }
        // One request for the manifest spares the listing of a long folder.
        let manifest = join(path, FILE_NAME);
        if let Some(text) = read(&manifest)? {
            return Self::of_manifest(&manifest, Manifest::parse(&manifest, &text)?);
        }
        let mut files = storage.list(url)?;
        files.retain(|file| has_extension(&file.to_string_lossy(), "parquet"));
        Self::sorted(path, files)
    }

    // The objects that a pattern matches: those below its folder without wildcards are listed.
    fn matching(path: &Path, url: &Url, storage: &Storage) -> Result<Self, DataError> {
        let pattern = Pattern::new(&url.key).map_err(DataError::glob(&path.to_string_lossy()))?;
        let plain = url.key.split(WILDCARDS).next().unwrap_or_default();
        let folder = plain.rsplit_once('/').map_or("", |(folder, _)| folder);
        let prefix = Url {
            key: folder.to_owned(),
            ..url.clone()
        };
        let options = MatchOptions {
            require_literal_separator: true,
            ..MatchOptions::default()
        };
        let store = format!("{}/", url.store);
        let mut files = storage.list(&prefix)?;
        files.retain(|file| {
            let file = file.to_string_lossy();
            let key = file.strip_prefix(&store);
            key.is_some_and(|key| pattern.matches_with(key, options))
        });
        Self::sorted(path, files)
    }

    fn of_manifest(path: &Path, manifest: Manifest) -> Result<Self, DataError> {
        if manifest.shards.is_empty() {
            return Err(DataError::NoShards { path: path.to_owned() });
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let files = manifest.shards.iter().map(|shard| join(folder, &shard.file));
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

fn missing(path: &Path) -> DataError {
    DataError::io(path)(std::io::ErrorKind::NotFound.into())
}

fn has_extension(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|own| own == extension)
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

    fn find(path: &Path) -> Result<Source, DataError> {
        Source::find(path, &Storage::new())
    }

    fn names(path: &Path) -> Vec<String> {
        let source = find(path).unwrap();
        let name = |file: &PathBuf| file.file_name().unwrap().to_string_lossy().into_owned();
        source.files.iter().map(name).collect()
    }

    fn message(path: impl AsRef<Path>) -> String {
        find(path.as_ref()).err().unwrap().to_string()
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
        assert!(message(folder.path()).contains("no Parquet files"));
        assert!(message(folder.path().join("*.parquet")).contains("no Parquet files"));
        assert!(message(folder.path().join("missing")).contains("missing: entity not found"));
        assert!(message("ftp://host/x.parquet").contains("no scheme that is read"));
    }

    #[test]
    fn a_remote_file_is_taken_by_its_name_alone() {
        let signed = Path::new("https://nowhere.invalid/a.parquet?sig=x*/y");
        assert_eq!(find(signed).unwrap().files, [signed]);
    }
}
