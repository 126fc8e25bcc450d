//! A set of shards opened for reading: any sample by its id, decoded.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use crate::config::DataConfig;
use crate::error::DataError;
use crate::image::Limits;
use crate::manifest::Manifest;
use crate::order::{Draw, SampleOrder, Share};
use crate::row_group::Columns;
use crate::sample::Sample;
use crate::shard_set::ShardSet;
use crate::subset::Subset;

// Decoded pictures kept in memory. A set that fits is decoded once; of a larger one the first met stay, since under a
// fresh permutation each epoch no other choice would be met sooner.
const CACHE_BYTES: usize = 256 << 20;

/// A set of shards opened for reading. Clones share footers, decoded pictures and the list of unusable rows.
#[derive(Clone)]
pub struct Dataset {
    inner: Arc<Inner>,
}

struct Inner {
    config: DataConfig,
    set: ShardSet,
    subset: Subset,
    digest: String,
    cache: Mutex<Cache>,
    quarantine: Mutex<BTreeMap<u64, Quarantined>>,
}

#[derive(Default)]
struct Cache {
    samples: HashMap<u64, Arc<Sample>>,
    bytes: usize,
}

/// A row that can't be used. It keeps its position in the stream with weight 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Row number in the whole dataset.
    pub id: u64,
    /// The shard.
    pub shard: PathBuf,
    /// Row in the shard, from 0.
    pub row: u64,
    /// Why.
    pub reason: String,
}

impl Dataset {
    /// Reads the manifest, where there is one, and every footer; checks columns, sizes and keys against them.
    pub fn open(config: &DataConfig) -> Result<Self, DataError> {
        config.validate()?;
        let set = ShardSet::open(&config.path)?;
        for shard in &set.shards {
            shard.check_image_column(&config.image_column)?;
            shard.check_caption_column(&config.caption_column)?;
        }
        let rows = set.rows();
        if rows == 0 {
            return Err(DataError::NoShards {
                path: config.path.clone(),
            });
        }
        if let Some(wanted) = config.max_samples.filter(|wanted| *wanted > rows) {
            return Err(DataError::Config {
                key: "data.max_samples",
                problem: format!("is {wanted}, but {} has {rows} rows", config.path.display()),
            });
        }
        Ok(Self {
            inner: Arc::new(Inner {
                subset: Subset::new(rows, config.max_samples, config.subset_seed),
                config: config.clone(),
                digest: set.digest(),
                set,
                cache: Mutex::default(),
                quarantine: Mutex::default(),
            }),
        })
    }

    /// Samples that the run sees in an epoch: all rows, or `data.max_samples`.
    pub fn len(&self) -> u64 {
        self.inner.subset.len()
    }

    /// Whether there is nothing to see. Never true: an empty dataset is not opened.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows of all shards; ids are below it.
    pub fn rows(&self) -> u64 {
        self.inner.set.rows()
    }

    /// Which rows the run sees.
    pub fn subset(&self) -> &Subset {
        &self.inner.subset
    }

    /// The configuration it was opened with.
    pub fn config(&self) -> &DataConfig {
        &self.inner.config
    }

    /// The manifest, where the shards have one.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.inner.set.manifest.as_ref()
    }

    /// What the data is, in hex: over the manifest's shard digests, or without a manifest over sizes and layout of the
    /// shards. Paths, columns and `max_samples` don't enter.
    pub fn digest(&self) -> &str {
        &self.inner.digest
    }

    /// What a rank sees in a step under a seed: a pure function that reads nothing.
    pub fn draws(&self, seed: u64, step: u64, share: &Share) -> Vec<Draw> {
        let order = SampleOrder::new(seed, self.len());
        share.draws(step, &order, &self.inner.subset)
    }

    /// One row, decoded. An unusable one is an error that says why.
    pub fn sample(&self, id: u64) -> Result<Sample, DataError> {
        if id >= self.inner.set.rows() {
            let rows = self.inner.set.rows();
            return Err(DataError::NoSample { id, rows });
        }
        if let Some(sample) = self.load(&[id])?.pop().flatten() {
            return Ok(Sample::clone(&sample));
        }
        let (shard, row) = self.inner.set.place(id);
        let quarantine = lock(&self.inner.quarantine);
        Err(DataError::Unusable {
            shard,
            row,
            reason: quarantine
                .get(&id)
                .map_or_else(String::new, |entry| entry.reason.clone()),
        })
    }

    /// Every member's id and captions, in the order of [`Subset::id`]: a part starts with the smaller part's. Rows
    /// without a caption are left out. Reads the whole caption column.
    pub fn captions(&self) -> Result<Vec<(u64, Vec<String>)>, DataError> {
        let members: Vec<u64> = (0..self.len()).map(|index| self.inner.subset.id(index)).collect();
        self.captions_of(&members)
    }

    /// The ids and captions of some rows, in the order asked for. Rows without a caption are left out.
    pub fn captions_of(&self, ids: &[u64]) -> Result<Vec<(u64, Vec<String>)>, DataError> {
        let mut found = HashMap::new();
        self.inner.set.read(ids, self.columns(None), |id, row| {
            found.insert(id, row.captions);
        })?;
        let captions = ids
            .iter()
            .filter_map(|id| Some((*id, found.remove(id)?)))
            .filter(|(_, captions)| !captions.is_empty());
        Ok(captions.collect())
    }

    /// The first row of the whole dataset with this caption among its captions. Reads the caption column.
    pub fn find_caption(&self, caption: &str) -> Result<Option<u64>, DataError> {
        for group in &self.inner.set.groups {
            let mut found = None;
            let ids: Vec<u64> = group.ids.clone().collect();
            self.inner.set.read(&ids, self.columns(None), |id, row| {
                if found.is_none() && row.captions.iter().any(|own| own == caption) {
                    found = Some(id);
                }
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The unusable rows met so far, by id.
    pub fn quarantined(&self) -> Vec<Quarantined> {
        lock(&self.inner.quarantine).values().cloned().collect()
    }

    /// Decodes rows by id, in the order asked for and with repeats; `None` where a row is unusable.
    pub(crate) fn load(&self, ids: &[u64]) -> Result<Vec<Option<Arc<Sample>>>, DataError> {
        let mut found: HashMap<u64, Option<Arc<Sample>>> = HashMap::new();
        {
            let cache = lock(&self.inner.cache);
            let quarantine = lock(&self.inner.quarantine);
            for id in ids {
                if let Some(sample) = cache.samples.get(id) {
                    found.insert(*id, Some(sample.clone()));
                } else if quarantine.contains_key(id) {
                    found.insert(*id, None);
                }
            }
        }
        let mut raw = Vec::new();
        let missing: Vec<u64> = ids.iter().copied().filter(|id| !found.contains_key(id)).collect();
        let columns = self.columns(Some(&self.inner.config.image_column));
        self.inner.set.read(&missing, columns, |id, row| raw.push((id, row)))?;
        let side = self.inner.config.image_size;
        let limits = Limits::new(1);
        let decoded: Vec<_> = raw
            .into_par_iter()
            .map(|(id, row)| (id, Sample::decode(id, row, (side, side), &limits)))
            .collect();
        for (id, result) in decoded {
            found.insert(id, self.keep(id, result));
        }
        Ok(ids.iter().map(|id| found.get(id).cloned().flatten()).collect())
    }

    /// How many clones share this dataset, itself counted.
    #[cfg(test)]
    pub(crate) fn holders(&self) -> usize {
        Arc::strong_count(&self.inner)
    }

    fn keep(&self, id: u64, result: Result<Sample, String>) -> Option<Arc<Sample>> {
        match result {
            Ok(sample) => {
                let sample = Arc::new(sample);
                let mut cache = lock(&self.inner.cache);
                let bytes = cache.bytes + sample.pixels.len();
                if bytes <= CACHE_BYTES {
                    cache.bytes = bytes;
                    cache.samples.insert(id, sample.clone());
                }
                Some(sample)
            }
            Err(reason) => {
                let (shard, row) = self.inner.set.place(id);
                let entry = Quarantined { id, shard, row, reason };
                lock(&self.inner.quarantine).insert(id, entry);
                None
            }
        }
    }

    fn columns<'a>(&'a self, image: Option<&'a str>) -> Columns<'a> {
        Columns {
            image,
            caption: Some(&self.inner.config.caption_column),
        }
    }
}

// A panic in another thread leaves only whole entries behind, so the data stays good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use arrow::array::{ArrayRef, BinaryArray, Int64Array, LargeBinaryArray, LargeStringArray};
    use arrow::array::{ListBuilder, StringArray, StringBuilder, StructArray};
    use arrow::datatypes::{DataType, Field};

    use super::*;
    use crate::test_shards::{array, config, png, write_bad_rows, write_columns, write_set};

    fn open_error(config: &DataConfig) -> String {
        Dataset::open(config).err().unwrap().to_string()
    }

    #[test]
    fn any_row_is_read_by_its_id_across_shards_and_row_groups() {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), 23, 9, 4);
        let dataset = Dataset::open(&config(folder.path())).unwrap();
        assert_eq!((dataset.rows(), dataset.len()), (23, 23));
        for id in [22, 0, 8, 9, 3, 4, 17, 0] {
            let sample = dataset.sample(id).unwrap();
            assert_eq!(sample.captions, [format!("thing {id}")]);
            assert_eq!(sample.pixels[..3], [id as u8, 10, 20]);
        }
        assert!(dataset.sample(23).unwrap_err().to_string().contains("no sample 23"));
    }

    #[test]
    fn pixels_are_channels_first_from_minus_one_to_one() {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), 256, 256, 256);
        let dataset = Dataset::open(&config(folder.path())).unwrap();
        let mut out = [9.0; 48];
        dataset.sample(255).unwrap().write_chw(&mut out);
        assert_eq!(out[..16], [1.0; 16]);
        assert_eq!(out[16..32], [10.0 / 127.5 - 1.0; 16]);
        assert_eq!(out[32..], [20.0 / 127.5 - 1.0; 16]);
        dataset.sample(0).unwrap().write_chw(&mut out);
        assert_eq!(out[..16], [-1.0; 16]);
    }

    #[test]
    fn the_usual_types_of_pictures_and_captions_are_read() {
        let bytes = png(7);
        let structs = StructArray::from(vec![
            (
                Arc::new(Field::new("bytes", DataType::Binary, true)),
                array(BinaryArray::from_vec(vec![&bytes])),
            ),
            (
                Arc::new(Field::new("path", DataType::Utf8, true)),
                array(StringArray::from(vec![None::<&str>])),
            ),
        ]);
        let mut list = ListBuilder::new(StringBuilder::new());
        list.values().append_value("one");
        list.values().append_null();
        list.values().append_value("two");
        list.append(true);
        let images: [ArrayRef; 3] = [
            array(BinaryArray::from_vec(vec![&bytes])),
            array(LargeBinaryArray::from_vec(vec![&bytes])),
            array(structs),
        ];
        let captions: [(ArrayRef, &[&str]); 3] = [
            (array(StringArray::from(vec!["one"])), &["one"]),
            (array(LargeStringArray::from(vec!["one"])), &["one"]),
            (array(list.finish()), &["one", "two"]),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        for image in &images {
            for (caption, expected) in &captions {
                write_columns(&path, vec![("image", image.clone()), ("caption", caption.clone())]);
                let sample = Dataset::open(&config(&path)).unwrap().sample(0).unwrap();
                assert_eq!(
                    (sample.captions, sample.pixels[0]),
                    (expected.iter().map(|text| (*text).to_owned()).collect(), 7)
                );
            }
        }
    }

    #[test]
    fn a_missing_column_names_those_there_are_and_a_wrong_type_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let numbers = || array(Int64Array::from(vec![1]));
        write_columns(&path, vec![("picture", numbers()), ("text", numbers())]);
        let message = open_error(&config(&path));
        assert!(
            message.ends_with("no column `image` (data.image_column); its columns are picture, text"),
            "{message}"
        );
        let message = open_error(&DataConfig {
            image_column: "picture".into(),
            ..config(&path)
        });
        assert!(
            message.contains("`picture` is int64; data.image_column must name binary"),
            "{message}"
        );
    }

    #[test]
    fn unusable_rows_are_named_with_shard_row_and_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        write_bad_rows(&path);
        let dataset = Dataset::open(&config(&path)).unwrap();
        let loaded = dataset.load(&[4, 3, 2, 1, 0, 1]).unwrap();
        let usable: Vec<bool> = loaded.iter().map(Option::is_some).collect();
        assert_eq!(usable, [true, false, false, false, true, false]);
        let quarantined = dataset.quarantined();
        let rows: Vec<u64> = quarantined.iter().map(|entry| entry.row).collect();
        assert_eq!(rows, [1, 2, 3]);
        assert_eq!(quarantined[0].shard, path);
        assert_eq!(quarantined[1].reason, "its picture is null");
        assert_eq!(quarantined[2].reason, "its caption is null");
        let message = dataset.sample(3).unwrap_err().to_string();
        assert!(
            message.ends_with("row 3 can't be used: its caption is null"),
            "{message}"
        );
    }

    #[test]
    fn captions_are_listed_and_found() {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), 20, 7, 3);
        let subset = |max_samples| DataConfig {
            max_samples,
            ..config(folder.path())
        };
        let ten = Dataset::open(&subset(Some(10))).unwrap().captions().unwrap();
        let five = Dataset::open(&subset(Some(5))).unwrap().captions().unwrap();
        assert_eq!((ten.len(), &ten[..5]), (10, &five[..]));
        assert!(ten.iter().all(|(id, captions)| captions[0] == format!("thing {id}")));
        let dataset = Dataset::open(&subset(None)).unwrap();
        assert_eq!(dataset.find_caption("thing 13").unwrap(), Some(13));
        assert_eq!(dataset.find_caption("thing").unwrap(), None);
    }

    #[test]
    fn more_samples_than_rows_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), 3, 3, 3);
        let message = open_error(&DataConfig {
            max_samples: Some(4),
            ..config(folder.path())
        });
        assert!(message.starts_with("data.max_samples is 4, but"), "{message}");
    }

    #[test]
    fn the_digest_is_of_the_content_and_a_changed_shard_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| folder.path().join(name));
        write_set(&a, 6, 3, 3);
        write_set(&b, 6, 3, 3);
        let digest = |path: &std::path::Path| Dataset::open(&config(path)).unwrap().digest().to_owned();
        assert_eq!(digest(&a), digest(&b));
        let glob = |folder: &std::path::Path| digest(&folder.join("*.parquet"));
        assert_eq!(glob(&a), glob(&b));
        fs::copy(a.join("shard-00000.parquet"), b.join("shard-00001.parquet")).unwrap();
        write_set(&folder.path().join("c"), 5, 5, 5);
        fs::copy(
            folder.path().join("c/shard-00000.parquet"),
            b.join("shard-00000.parquet"),
        )
        .unwrap();
        let message = open_error(&config(&b));
        assert!(message.contains("but its manifest says"), "{message}");
        assert_ne!(glob(&a), glob(&b));
    }
}
