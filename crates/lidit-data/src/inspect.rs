//! What a set of shards holds, without a run's configuration.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::block::Columns;
use crate::error::DataError;
use crate::image::dimensions;
use crate::shard::{Shard, type_name};
use crate::shard_set::ShardSet;

// Picture headers read: enough to see what sizes there are, little enough to answer at once.
const IMAGES_LOOKED_AT: u64 = 1000;

/// What a set of shards holds.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// Rows of all shards.
    pub rows: u64,
    /// Number of shards.
    pub shards: usize,
    /// Number of row groups.
    pub row_groups: usize,
    /// Size of all shards on disk.
    pub bytes: u64,
    /// Rows that are read at once, at most: a run's shuffle window should hold many such blocks.
    pub largest_block: u64,
    /// Rows of each bucket, as `WIDTHxHEIGHT`, in a set that is sorted by them.
    pub buckets: BTreeMap<String, u64>,
    /// The first shard's columns.
    pub columns: Vec<ColumnInfo>,
    /// Captions, where the caption column is there.
    pub captions: Option<CaptionStats>,
    /// Pictures, where the image column is there.
    pub images: Option<ImageStats>,
    /// The set's name, where it has a manifest.
    pub name: Option<String>,
    /// Licences of its parts, where it has a manifest.
    pub licences: Vec<String>,
}

/// A column: its name and type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ColumnInfo {
    /// Name in the Parquet schema.
    pub name: String,
    /// Type, as `binary`, `list<string>`, `struct<bytes, path>`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// How long the captions are and how many can't be used. An alternative counts as a caption of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CaptionStats {
    /// Captions that are there.
    pub count: u64,
    /// Rows without one.
    pub null: u64,
    /// Captions without a character.
    pub empty: u64,
    /// Captions unlike each other.
    pub distinct: u64,
    /// Fewest characters.
    pub min_chars: u64,
    /// Mean number of characters.
    pub mean_chars: f64,
    /// Most characters.
    pub max_chars: u64,
}

/// Sizes of the first pictures, from their headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImageStats {
    /// Pictures looked at.
    pub looked_at: u64,
    /// Of those, the ones that are no JPEG, PNG, WebP or GIF, or null.
    pub unreadable: u64,
    /// How many there are of each `WIDTHxHEIGHT`.
    pub sizes: BTreeMap<String, u64>,
}

/// Looks at the shards behind a path: footers, all captions, the headers of the first thousand pictures.
///
/// A column that is not there leaves its statistics out; one of a type that can't be read is an error.
pub fn inspect(path: &Path, image_column: &str, caption_column: &str) -> Result<Inspection, DataError> {
    let set = ShardSet::open(path)?;
    let (shards, manifest) = (&set.shards, &set.manifest);
    let has = |column: &str| {
        let holds = |shard: &Shard| shard.fields().any(|field| field.name() == column);
        shards.iter().all(holds)
    };
    let columns = shards.iter().take(1).flat_map(Shard::fields).map(|field| ColumnInfo {
        name: field.name().clone(),
        kind: type_name(field.data_type()),
    });
    Ok(Inspection {
        rows: set.rows(),
        shards: shards.len(),
        row_groups: shards.iter().map(Shard::num_groups).sum(),
        bytes: shards.iter().map(|shard| shard.bytes).sum(),
        largest_block: set
            .blocks
            .iter()
            .map(|block| block.ids.end - block.ids.start)
            .max()
            .unwrap_or(0),
        buckets: buckets(&set),
        columns: columns.collect(),
        captions: has(caption_column)
            .then(|| captions(&set, caption_column))
            .transpose()?,
        images: has(image_column).then(|| images(&set, image_column)).transpose()?,
        name: manifest.as_ref().map(|manifest| manifest.name.clone()),
        licences: manifest
            .iter()
            .flat_map(|manifest| &manifest.licences)
            .map(|licence| format!("{}: {}, {}", licence.part, licence.licence, licence.source))
            .collect(),
    })
}

fn buckets(set: &ShardSet) -> BTreeMap<String, u64> {
    let mut rows = BTreeMap::new();
    for (number, shard) in set.shards.iter().enumerate() {
        if let Some((_, bucket)) = set.bucket(number) {
            *rows.entry(format!("{}x{}", bucket.width, bucket.height)).or_default() += shard.rows();
        }
    }
    rows
}

fn captions(set: &ShardSet, column: &str) -> Result<CaptionStats, DataError> {
    let mut stats = CaptionStats::default();
    let mut distinct = std::collections::HashSet::new();
    let mut chars = 0;
    let columns = Columns {
        caption: Some(column),
        ..Columns::default()
    };
    for shard in &set.shards {
        shard.check_caption_column(column)?;
    }
    for (number, block) in set.blocks.iter().enumerate() {
        let places: Vec<u64> = (0..block.ids.end - block.ids.start).collect();
        set.read_block(number, &places, columns, |_, row| {
            stats.null += u64::from(row.captions.is_empty());
            for caption in &row.captions {
                let len = caption.chars().count() as u64;
                stats.min_chars = if stats.count == 0 {
                    len
                } else {
                    stats.min_chars.min(len)
                };
                stats.max_chars = stats.max_chars.max(len);
                stats.count += 1;
                stats.empty += u64::from(len == 0);
                chars += len;
                // A hash, so that a large set's captions are not all held.
                distinct.insert(fingerprint(caption));
            }
        })?;
    }
    stats.distinct = distinct.len() as u64;
    stats.mean_chars = if stats.count == 0 {
        0.0
    } else {
        chars as f64 / stats.count as f64
    };
    Ok(stats)
}

fn fingerprint(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn images(set: &ShardSet, column: &str) -> Result<ImageStats, DataError> {
    let mut stats = ImageStats::default();
    let columns = Columns {
        image: Some(column),
        ..Columns::default()
    };
    for shard in &set.shards {
        shard.check_image_column(column)?;
    }
    for (number, block) in set.blocks.iter().enumerate() {
        let rows = (block.ids.end - block.ids.start).min(IMAGES_LOOKED_AT - stats.looked_at);
        let places: Vec<u64> = (0..rows).collect();
        if places.is_empty() {
            break;
        }
        set.read_block(number, &places, columns, |_, row| {
            stats.looked_at += 1;
            match row.image.as_deref().map(dimensions) {
                Some(Ok((width, height))) => {
                    *stats.sizes.entry(format!("{width}x{height}")).or_default() += 1;
                }
                _ => stats.unreadable += 1,
            }
        })?;
    }
    Ok(stats)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::test_shards::{write_bad_rows, write_set};

    #[test]
    fn a_set_is_described_by_its_manifest_footers_and_rows() {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), 23, 9, 4);
        let found = inspect(folder.path(), "image", "caption").unwrap();
        assert_eq!((found.rows, found.shards, found.row_groups), (23, 3, 8));
        assert_eq!(found.name.as_deref(), Some("things"));
        let columns: Vec<String> = found.columns.iter().map(|c| format!("{} {}", c.name, c.kind)).collect();
        assert_eq!(
            columns,
            [
                "key string",
                "image binary",
                "caption string",
                "width uint32",
                "height uint32"
            ]
        );
        let captions = found.captions.unwrap();
        assert_eq!((captions.count, captions.distinct, captions.null), (23, 23, 0));
        assert_eq!((captions.min_chars, captions.max_chars), (7, 8));
        assert_eq!(found.images.unwrap().sizes["4x4"], 23);
    }

    #[test]
    fn what_can_not_be_used_is_counted_and_another_column_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        write_bad_rows(&path);
        let found = inspect(&path, "image", "caption").unwrap();
        let captions = found.captions.unwrap();
        assert_eq!((captions.count, captions.null, captions.empty), (4, 1, 1));
        assert_eq!(found.images.unwrap().unreadable, 1);
        assert_eq!(inspect(&path, "image", "text").unwrap().captions, None);
    }
}
