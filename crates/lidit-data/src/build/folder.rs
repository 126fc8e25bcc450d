//! A folder of pictures with captions in files beside them.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::file::{load, stamp};
use super::item::{Bad, Item, Row, Survey, Texts, captions, captions_kind, json, plain_text, synthetic};
use crate::error::DataError;
use crate::manifest::hex;
use crate::shard_file::CaptionColumn;

const PICTURES: [&str; 5] = ["jpg", "jpeg", "png", "webp", "gif"];

/// Pictures at any depth, in the order of their paths; the caption of `a.jpg` is all of `a.txt`, else a field of
/// `a.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FolderSource {
    /// The folder.
    #[serde(skip)]
    pub path: PathBuf,
    /// Field of captions in `a.json`: a string, or a list of alternatives.
    pub json_field: String,
    /// Field of a synthetic caption in `a.json`: kept as a column of its own.
    pub synthetic_field: Option<String>,
}

pub(super) struct Folder<'a> {
    source: &'a FolderSource,
    pictures: Vec<Entry>,
    digest: String,
}

struct Entry {
    // From the folder down, with `/`: its key.
    name: String,
    has_txt: bool,
    has_json: bool,
}

impl<'a> Folder<'a> {
    pub fn open(source: &'a FolderSource) -> Result<Self, DataError> {
        let mut found = Vec::new();
        let top = fs::canonicalize(&source.path).map_err(DataError::io(&source.path))?;
        walk(&source.path, "", &mut vec![top], &mut found)?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        let mut hasher = Sha256::new();
        for file in &found {
            hasher.update(&file.stamp);
        }
        let pictures: Vec<Entry> = found.into_iter().filter_map(|file| file.picture).collect();
        if pictures.is_empty() {
            return Err(DataError::BuildInput {
                path: source.path.clone(),
                problem: format!("holds no pictures ({})", PICTURES.join(", ")),
            });
        }
        Ok(Self {
            source,
            pictures,
            digest: hex(&hasher.finalize()),
        })
    }

    pub fn survey(&self) -> Result<Survey, DataError> {
        let mut kind = CaptionColumn::One;
        for entry in self.pictures.iter().filter(|entry| entry.has_json && !entry.has_txt) {
            let sidecar = load(&self.sidecar(entry, "json"))?.and_then(|bytes| json(&bytes));
            if let Ok(object) = sidecar
                && captions_kind(&object, &self.source.json_field) == CaptionColumn::Alternatives
            {
                kind = CaptionColumn::Alternatives;
                break;
            }
        }
        Ok(Survey {
            rows: self.pictures.len() as u64,
            captions: kind,
            digest: self.digest.clone(),
        })
    }

    pub fn read(
        &self,
        wanted: &dyn Fn(u64) -> bool,
        each: &mut dyn FnMut(u64, Row) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        for (position, entry) in (0..).zip(&self.pictures) {
            if wanted(position) {
                let row = self.row(entry)?.map_err(|reason| Bad {
                    place: entry.name.clone(),
                    reason,
                });
                each(position, row)?;
            }
        }
        Ok(())
    }

    fn row(&self, entry: &Entry) -> Result<Result<Item, String>, DataError> {
        let texts = if entry.has_txt || entry.has_json {
            self.texts(entry)?
        } else {
            Err("it has no caption: no .txt or .json beside it".to_owned())
        };
        let Texts { captions, synthetic } = match texts {
            Ok(texts) => texts,
            Err(reason) => return Ok(Err(reason)),
        };
        let image = load(&self.source.path.join(&entry.name))?;
        Ok(image.map(|image| Item {
            key: entry.name.clone(),
            image,
            captions,
            synthetic,
            place: entry.name.clone(),
        }))
    }

    fn texts(&self, entry: &Entry) -> Result<Result<Texts, String>, DataError> {
        let text = if entry.has_txt {
            Some(load(&self.sidecar(entry, "txt"))?.and_then(|bytes| plain_text(&bytes)))
        } else {
            None
        };
        let object = if entry.has_json && (text.is_none() || self.source.synthetic_field.is_some()) {
            Some(load(&self.sidecar(entry, "json"))?.and_then(|bytes| json(&bytes)))
        } else {
            None
        };
        let read = || {
            let object = object.transpose()?;
            let captions = match (text, &object) {
                (Some(text), _) => vec![text?],
                (None, Some(object)) => captions(object, &self.source.json_field)?,
                (None, None) => return Err("it has no caption".to_owned()),
            };
            let field = self.source.synthetic_field.as_deref();
            let synthetic = object.as_ref().map_or(Ok(None), |object| synthetic(object, field))?;
            Ok(Texts { captions, synthetic })
        };
        Ok(read())
    }

    fn sidecar(&self, entry: &Entry, extension: &str) -> PathBuf {
        self.source.path.join(&entry.name).with_extension(extension)
    }
}

// A picture, or the text beside one.
struct Found {
    name: String,
    stamp: String,
    picture: Option<Entry>,
}

fn walk(folder: &Path, prefix: &str, above: &mut Vec<PathBuf>, found: &mut Vec<Found>) -> Result<(), DataError> {
    let mut files: BTreeMap<String, Metadata> = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(DataError::io(folder))? {
        let entry = entry.map_err(DataError::io(folder))?;
        let path = entry.path();
        let Ok(name) = entry.file_name().into_string() else {
            return Err(DataError::BuildInput {
                path,
                problem: "its name is not UTF-8: rename it".to_owned(),
            });
        };
        let metadata = match fs::metadata(&path) {
            // A link to nothing: a picture that can't be read, or no matter of ours.
            Err(error) if error.kind() == ErrorKind::NotFound => fs::symlink_metadata(&path),
            found => found,
        };
        let metadata = metadata.map_err(DataError::io(&path))?;
        if metadata.is_file() || metadata.is_symlink() {
            files.insert(name, metadata);
        } else if metadata.is_dir() {
            let real = fs::canonicalize(&path).map_err(DataError::io(&path))?;
            if above.contains(&real) {
                return Err(DataError::BuildInput {
                    path,
                    problem: "links to a folder that it lies in: remove the link".to_owned(),
                });
            }
            above.push(real);
            walk(&path, &format!("{prefix}{name}/"), above, found)?;
            above.pop();
        }
    }
    for (name, metadata) in &files {
        let path = Path::new(name);
        let extension = path.extension().map(|found| found.to_string_lossy().to_lowercase());
        let Some(extension) = extension else {
            continue;
        };
        let beside = |extension: &str| {
            let sidecar = path.with_extension(extension);
            files.contains_key(sidecar.to_string_lossy().as_ref())
        };
        let is_picture = PICTURES.contains(&extension.as_str());
        if !is_picture && extension != "txt" && extension != "json" {
            continue;
        }
        let full = format!("{prefix}{name}");
        found.push(Found {
            stamp: stamp(&full, metadata),
            picture: is_picture.then(|| Entry {
                name: full.clone(),
                has_txt: beside("txt"),
                has_json: beside("json"),
            }),
            name: full,
        });
    }
    Ok(())
}
