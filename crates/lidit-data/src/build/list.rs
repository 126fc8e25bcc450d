//! A list of pictures and captions: CSV, TSV or JSON Lines.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use csv::{ByteRecord, Reader, ReaderBuilder};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::file::load;
use super::item::{Bad, Item, Row, Survey, captions, captions_kind, json, synthetic};
use crate::error::DataError;
use crate::manifest::hex;
use crate::shard_file::CaptionColumn;

const IMAGE_COLUMNS: [&str; 3] = ["image", "file_name", "path"];
const CAPTION_COLUMNS: [&str; 2] = ["caption", "text"];

/// A table with a column of paths, relative to the list, and one of captions: `.csv` or `.tsv` with a header, or
/// `.jsonl` (`.ndjson`) with an object a line, where a caption may be a list of alternatives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListSource {
    /// The list.
    #[serde(skip)]
    pub path: PathBuf,
    /// Column of paths; without it the one of `image`, `file_name`, `path` that is there.
    pub image_column: Option<String>,
    /// Column of captions; without it the one of `caption`, `text` that is there.
    pub caption_column: Option<String>,
    /// Column of synthetic captions: kept as a column of its own.
    pub synthetic_column: Option<String>,
}

pub(super) struct List<'a> {
    source: &'a ListSource,
    format: Format,
}

#[derive(Clone, Copy)]
enum Format {
    Table { delimiter: u8 },
    Lines,
}

// What a line says, before its picture is read.
struct Line {
    image: String,
    captions: Vec<String>,
    synthetic: Option<String>,
}

type VisitText<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), DataError>;
type Visit<'a> = &'a mut dyn FnMut(u64, Result<Line, Bad>) -> Result<(), DataError>;

impl<'a> List<'a> {
    pub fn open(source: &'a ListSource) -> Result<Self, DataError> {
        let extension = source
            .path
            .extension()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        let format = match extension.as_str() {
            "csv" => Format::Table { delimiter: b',' },
            "tsv" => Format::Table { delimiter: b'\t' },
            "jsonl" | "ndjson" => Format::Lines,
            _ => {
                return Err(refuse(
                    &source.path,
                    "is no list: its name must end in .csv, .tsv, .jsonl or .ndjson",
                ));
            }
        };
        Ok(Self { source, format })
    }

    pub fn survey(&self) -> Result<Survey, DataError> {
        let mut rows = 0;
        let mut kind = CaptionColumn::One;
        match self.format {
            Format::Table { .. } => self.table(&|_| false, &mut rows, &mut |_, _| Ok(()))?,
            Format::Lines => self.lines(&mut |_, text| {
                rows += 1;
                if kind == CaptionColumn::One
                    && let Ok(object) = json(text)
                    && let Ok(column) = self.column(&object, Column::Caption)
                {
                    kind = captions_kind(&object, &column);
                }
                Ok(())
            })?,
        }
        if rows == 0 {
            return Err(refuse(&self.source.path, "holds no rows"));
        }
        Ok(Survey {
            rows,
            captions: kind,
            digest: self.digest()?,
        })
    }

    pub fn read(
        &self,
        wanted: &dyn Fn(u64) -> bool,
        each: &mut dyn FnMut(u64, Row) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let mut number = 0;
        match self.format {
            Format::Table { .. } => self.table(wanted, &mut number, &mut |position, line| {
                each(position, self.row(line)?)
            }),
            Format::Lines => self.lines(&mut |line_number, text| {
                let position = number;
                number += 1;
                if !wanted(position) {
                    return Ok(());
                }
                let line = self.line(text).map_err(|reason| self.bad(line_number, reason));
                each(position, self.row(line)?)
            }),
        }
    }

    fn row(&self, line: Result<Line, Bad>) -> Result<Row, DataError> {
        let line = match line {
            Ok(line) => line,
            Err(bad) => return Ok(Err(bad)),
        };
        let list = self.name();
        let place = format!("{list}: {}", line.image);
        let image = match line.image.as_str() {
            "" => Err("its path is empty".to_owned()),
            url if url.contains("://") => Err("is an address, not a path: download the pictures first".to_owned()),
            path => load(&self.source.path.parent().unwrap_or(Path::new("")).join(path))?,
        };
        Ok(match image {
            Ok(image) => Ok(Item {
                key: line.image,
                image,
                captions: line.captions,
                synthetic: line.synthetic,
                place,
            }),
            Err(reason) => Err(Bad { place, reason }),
        })
    }

    // JSON Lines: hands on the number of each line that is not blank, from 1, with its text.
    fn lines(&self, each: VisitText) -> Result<(), DataError> {
        let path = &self.source.path;
        let mut reader = BufReader::new(File::open(path).map_err(DataError::io(path))?);
        let mut text = Vec::new();
        for number in 1.. {
            text.clear();
            if reader.read_until(b'\n', &mut text).map_err(DataError::io(path))? == 0 {
                break;
            }
            if !text.trim_ascii().is_empty() {
                each(number, &text)?;
            }
        }
        Ok(())
    }

    fn line(&self, text: &[u8]) -> Result<Line, String> {
        let object = json(text)?;
        let image = self.column(&object, Column::Image)?;
        let image = object.get(&image).and_then(Value::as_str);
        Ok(Line {
            image: image.ok_or("its path is not a string")?.to_owned(),
            captions: captions(&object, &self.column(&object, Column::Caption)?)?,
            synthetic: synthetic(&object, self.source.synthetic_column.as_deref())?,
        })
    }

    fn column(&self, object: &Value, column: Column) -> Result<String, String> {
        let (chosen, defaults) = self.names(column);
        if let Some(name) = chosen {
            return Ok(name.clone());
        }
        let name = defaults.iter().find(|name| object.get(**name).is_some());
        let name = name.ok_or_else(|| format!("it has none of the fields {}", defaults.join(", ")))?;
        Ok((*name).to_owned())
    }

    // A table: counts records in `number` and hands on those that are wanted.
    fn table(&self, wanted: &dyn Fn(u64) -> bool, number: &mut u64, each: Visit) -> Result<(), DataError> {
        let mut reader = self.reader()?;
        let header = reader.byte_headers().map_err(|error| self.wrong(&error))?.clone();
        let image = self.place_of(&header, Column::Image)?;
        let caption = self.place_of(&header, Column::Caption)?;
        let synthetic = match &self.source.synthetic_column {
            Some(_) => Some(self.place_of(&header, Column::Synthetic)?),
            None => None,
        };
        let mut record = ByteRecord::new();
        while reader
            .read_byte_record(&mut record)
            .map_err(|error| self.wrong(&error))?
        {
            let position = *number;
            *number += 1;
            if !wanted(position) {
                continue;
            }
            let line_number = record.position().map_or(0, csv::Position::line);
            let line = of_record(&record, header.len(), image, caption, synthetic);
            each(position, line.map_err(|reason| self.bad(line_number, reason)))?;
        }
        Ok(())
    }

    fn reader(&self) -> Result<Reader<File>, DataError> {
        let path = &self.source.path;
        let file = File::open(path).map_err(DataError::io(path))?;
        let delimiter = match self.format {
            Format::Table { delimiter } => delimiter,
            Format::Lines => b',',
        };
        Ok(ReaderBuilder::new()
            .delimiter(delimiter)
            .flexible(true)
            .from_reader(file))
    }

    fn place_of(&self, header: &ByteRecord, column: Column) -> Result<usize, DataError> {
        let (chosen, defaults) = self.names(column);
        let names: Vec<&str> = chosen.map_or_else(|| defaults.to_vec(), |name| vec![name.as_str()]);
        let at = |name: &&str| header.iter().position(|found| found == name.as_bytes());
        names.iter().find_map(at).ok_or_else(|| {
            let present: Vec<_> = header.iter().map(String::from_utf8_lossy).collect();
            let (wanted, present) = (names.join("` or `"), present.join(", "));
            let problem = format!("no column `{wanted}` ({}); its columns are {present}", column.flag());
            refuse(&self.source.path, &problem)
        })
    }

    fn names(&self, column: Column) -> (Option<&String>, &'static [&'static str]) {
        match column {
            Column::Image => (self.source.image_column.as_ref(), &IMAGE_COLUMNS),
            Column::Caption => (self.source.caption_column.as_ref(), &CAPTION_COLUMNS),
            Column::Synthetic => (self.source.synthetic_column.as_ref(), &[]),
        }
    }

    fn digest(&self) -> Result<String, DataError> {
        let path = &self.source.path;
        let mut file = File::open(path).map_err(DataError::io(path))?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer).map_err(DataError::io(path))? {
                0 => return Ok(hex(&hasher.finalize())),
                count => hasher.update(&buffer[..count]),
            }
        }
    }

    fn name(&self) -> String {
        self.source
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    fn bad(&self, line: u64, reason: String) -> Bad {
        Bad {
            place: format!("{} line {line}", self.name()),
            reason,
        }
    }

    fn wrong(&self, error: &csv::Error) -> DataError {
        refuse(&self.source.path, &format!("not a table: {error}"))
    }
}

#[derive(Clone, Copy)]
enum Column {
    Image,
    Caption,
    Synthetic,
}

impl Column {
    fn flag(self) -> &'static str {
        match self {
            Self::Image => "--image-column",
            Self::Caption => "--caption-column",
            Self::Synthetic => "--synthetic-caption-column",
        }
    }
}

fn of_record(
    record: &ByteRecord,
    fields: usize,
    image: usize,
    caption: usize,
    synthetic: Option<usize>,
) -> Result<Line, String> {
    if record.len() != fields {
        return Err(format!("it has {} fields, the header {fields}", record.len()));
    }
    let text = |at: usize| {
        let text = std::str::from_utf8(record.get(at).unwrap_or_default());
        text.map(str::to_owned).map_err(|error| format!("not UTF-8: {error}"))
    };
    let synthetic = synthetic.map(text).transpose()?;
    Ok(Line {
        image: text(image)?,
        captions: vec![text(caption)?],
        // A table has no null.
        synthetic: synthetic.filter(|caption| !caption.is_empty()),
    })
}

fn refuse(path: &Path, problem: &str) -> DataError {
    DataError::BuildInput {
        path: path.to_owned(),
        problem: problem.to_owned(),
    }
}
