//! webdataset tars: consecutive members that share a name up to its first dot are one sample.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};
use tar::{Archive, Entry};

use super::file::stamp;
use super::item::{
    Bad, Item, MAX_PICTURE_BYTES, Row, Survey, Texts, captions, captions_kind, json, plain_text, synthetic,
};
use super::picture::too_long;
use crate::error::DataError;
use crate::manifest::hex;
use crate::shard_file::CaptionColumn;

/// One tar, a folder of them or a glob, read in the order of their paths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TarSource {
    /// The tar, folder or glob.
    #[serde(skip)]
    pub path: PathBuf,
    /// Endings of members that are pictures, the wanted one first.
    pub image_keys: Vec<String>,
    /// Endings of members that hold the caption, the wanted one first: `json` by a field, any other as plain text.
    pub caption_keys: Vec<String>,
    /// Field of captions in a `json` member: a string, or a list of alternatives.
    pub json_field: String,
    /// Field of a synthetic caption in a `json` member: kept as a column of its own.
    pub synthetic_field: Option<String>,
}

pub(super) struct Tars<'a> {
    source: &'a TarSource,
    files: Vec<PathBuf>,
}

// A sample while its members pass by.
struct Sample {
    position: u64,
    name: String,
    members: Vec<Member>,
    wrong: Option<String>,
}

struct Member {
    ending: String,
    // None where it was not read.
    content: Option<Vec<u8>>,
}

impl<'a> Tars<'a> {
    pub fn open(source: &'a TarSource) -> Result<Self, DataError> {
        let files = files(&source.path)?;
        for path in &files {
            let mut magic = [0; 2];
            let mut file = File::open(path).map_err(DataError::io(path))?;
            let read = file.read(&mut magic).map_err(DataError::io(path))?;
            if magic[..read] == [0x1F, 0x8B] {
                return Err(refuse(path, "is compressed: unpack it first, with gunzip"));
            }
        }
        Ok(Self { source, files })
    }

    pub fn survey(&self) -> Result<Survey, DataError> {
        let (mut rows, mut kind) = (0, CaptionColumn::One);
        let is_json = |ending: &str| ending == "json" && self.source.caption_keys.iter().any(|key| key == ending);
        let field = &self.source.json_field;
        self.samples(&|_, ending| is_json(ending), &mut |sample| {
            rows = sample.position + 1;
            let caption = self.source.caption_keys.iter().find_map(|key| sample.member(key));
            if kind == CaptionColumn::One
                && let Some(bytes) = caption.and_then(|member| member.content.as_ref())
                && let Ok(object) = json(bytes)
            {
                kind = captions_kind(&object, field);
            }
            Ok(())
        })?;
        let mut hasher = Sha256::new();
        for path in &self.files {
            let found = fs::metadata(path).map_err(DataError::io(path))?;
            hasher.update(stamp(&file_name(path), &found));
        }
        if rows == 0 {
            return Err(refuse(&self.source.path, "holds no samples"));
        }
        Ok(Survey {
            rows,
            captions: kind,
            digest: hex(&hasher.finalize()),
        })
    }

    pub fn read(
        &self,
        wanted: &dyn Fn(u64) -> bool,
        each: &mut dyn FnMut(u64, Row) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let source = self.source;
        let is_used = |position, ending: &str| {
            let mut keys = source.image_keys.iter().chain(&source.caption_keys);
            let is_synthetic = source.synthetic_field.is_some() && ending == "json";
            (is_synthetic || keys.any(|key| key == ending)) && wanted(position)
        };
        self.samples(&is_used, &mut |mut sample| {
            let position = sample.position;
            if !wanted(position) {
                return Ok(());
            }
            let row = self.row(&mut sample);
            let place = sample.name;
            each(
                position,
                match row {
                    Ok((image, texts)) => Ok(Item {
                        key: place.clone(),
                        image,
                        captions: texts.captions,
                        synthetic: texts.synthetic,
                        place,
                    }),
                    Err(reason) => Err(Bad { place, reason }),
                },
            )
        })
    }

    fn row(&self, sample: &mut Sample) -> Result<(Vec<u8>, Texts), String> {
        if let Some(wrong) = sample.wrong.take() {
            return Err(wrong);
        }
        let source = self.source;
        let caption = source.caption_keys.iter().find_map(|key| sample.member(key));
        let missing = || format!("it has no caption: no member .{}", source.caption_keys.join(", ."));
        let Member { ending, content } = caption.ok_or_else(missing)?;
        let bytes = content.as_ref().ok_or_else(missing)?;
        let captions = if ending == "json" {
            captions(&json(bytes)?, &source.json_field)?
        } else {
            vec![plain_text(bytes)?]
        };
        let object = sample.member("json").and_then(|member| member.content.as_ref());
        let synthetic = match (&source.synthetic_field, object) {
            (Some(field), Some(bytes)) => synthetic(&json(bytes)?, Some(field))?,
            _ => None,
        };
        let image = source.image_keys.iter().find_map(|key| sample.take(key));
        let image = image.ok_or_else(|| format!("it has no picture: no member .{}", source.image_keys.join(", .")))?;
        Ok((image, Texts { captions, synthetic }))
    }

    // Walks the members' headers and hands on whole samples; reads only members that are used.
    fn samples(
        &self,
        is_used: &dyn Fn(u64, &str) -> bool,
        each: &mut dyn FnMut(Sample) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let mut next = 0;
        for path in &self.files {
            let wrap = || DataError::io(path);
            let file = File::open(path).map_err(wrap())?;
            let length = file.metadata().map_err(wrap())?.len();
            let tar = file_name(path);
            let mut archive = Archive::new(file);
            let mut open: Option<Sample> = None;
            for entry in archive.entries_with_seek().map_err(wrap())? {
                let mut entry = entry.map_err(wrap())?;
                let Some((name, ending)) = member(path, &entry)? else {
                    continue;
                };
                // Seeking beyond the end is no error of its own.
                if entry.raw_file_position() + entry.header().entry_size().unwrap_or(0) > length {
                    return Err(refuse(path, &format!("is cut off inside its member {name}.{ending}")));
                }
                let name = format!("{tar}/{name}");
                if open.as_ref().is_none_or(|sample| sample.name != name) {
                    if let Some(sample) = open.take() {
                        each(sample)?;
                    }
                    open = Some(Sample {
                        position: next,
                        name,
                        members: Vec::new(),
                        wrong: None,
                    });
                    next += 1;
                }
                if let Some(sample) = &mut open {
                    let is_used = is_used(sample.position, &ending);
                    sample.add(ending, is_used.then_some(&mut entry), path)?;
                }
            }
            if let Some(sample) = open {
                each(sample)?;
            }
        }
        Ok(())
    }
}

impl Sample {
    fn add(&mut self, ending: String, entry: Option<&mut Entry<File>>, path: &Path) -> Result<(), DataError> {
        if self.member(&ending).is_some() {
            self.wrong = Some(format!("it has more than one member .{ending}"));
            return Ok(());
        }
        let mut content = None;
        if let Some(entry) = entry {
            let size = entry.size();
            if size > MAX_PICTURE_BYTES {
                self.wrong = Some(format!(".{ending}: {}", too_long(size)));
            } else {
                let mut bytes = Vec::with_capacity(size as usize);
                entry.read_to_end(&mut bytes).map_err(DataError::io(path))?;
                if bytes.len() as u64 != size {
                    let (name, found) = (&self.name, bytes.len());
                    let problem = format!("gives {found} of {size} bytes of {name}.{ending}: it is cut off");
                    return Err(refuse(path, &problem));
                }
                content = Some(bytes);
            }
        }
        self.members.push(Member { ending, content });
        Ok(())
    }

    fn member(&self, ending: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.ending == ending)
    }

    fn take(&mut self, ending: &str) -> Option<Vec<u8>> {
        let found = self.members.iter_mut().find(|member| member.ending == ending);
        found.and_then(|member| member.content.take())
    }
}

// A member's folder and name up to the first dot, and the rest in lower case; none for folders, links, hidden files.
fn member(path: &Path, entry: &Entry<File>) -> Result<Option<(String, String)>, DataError> {
    if !entry.header().entry_type().is_file() {
        return Ok(None);
    }
    let full = entry.path_bytes();
    let Ok(full) = std::str::from_utf8(&full) else {
        let shown = String::from_utf8_lossy(&full);
        return Err(refuse(path, &format!("the name of its member {shown} is not UTF-8")));
    };
    let full = full.trim_start_matches("./");
    let (folder, file) = full
        .rsplit_once('/')
        .map_or(("", full), |(folder, file)| (folder, file));
    let Some((stem, ending)) = file.split_once('.').filter(|(stem, _)| !stem.is_empty()) else {
        return Ok(None);
    };
    let name = if folder.is_empty() {
        stem.to_owned()
    } else {
        format!("{folder}/{stem}")
    };
    Ok(Some((name, ending.to_lowercase())))
}

fn files(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(DataError::io(path))? {
            let file = entry.map_err(DataError::io(path))?.path();
            if file.is_file() && is_tar(&file) {
                files.push(file);
            }
        }
    } else {
        let pattern = path.to_string_lossy();
        let matches = glob::glob(&pattern).map_err(|source| DataError::Glob {
            pattern: pattern.to_string(),
            source,
        })?;
        for entry in matches {
            let file = entry.map_err(|error| DataError::io(error.path())(std::io::ErrorKind::Other.into()))?;
            if file.is_file() {
                files.push(file);
            }
        }
    }
    if files.is_empty() {
        return Err(refuse(path, "no tars: name a .tar, a folder of them or a glob"));
    }
    files.sort();
    Ok(files)
}

/// Whether a file is called a tar, compressed or not.
pub(super) fn is_tar(path: &Path) -> bool {
    let name = file_name(path).to_lowercase();
    [".tar", ".tar.gz", ".tgz"].iter().any(|ending| name.ends_with(ending))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn refuse(path: &Path, problem: &str) -> DataError {
    DataError::BuildInput {
        path: path.to_owned(),
        problem: problem.to_owned(),
    }
}
