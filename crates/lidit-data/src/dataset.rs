//! A set of shards opened for reading: any sample by its id, decoded.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::config::DataConfig;
use crate::error::DataError;
use crate::image::{centre_square, decode};
use crate::manifest::{Manifest, hex};
use crate::order::{Draw, SampleOrder, Share};
use crate::row_group::{Columns, RawRow, RowGroup};
use crate::shard::Shard;
use crate::source::Source;
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
    shards: Vec<Shard>,
    groups: Vec<RowGroup>,
    rows: u64,
    subset: Subset,
    digest: String,
    manifest: Option<Manifest>,
    cache: Mutex<Cache>,
    quarantine: Mutex<BTreeMap<u64, Quarantined>>,
}

#[derive(Default)]
struct Cache {
    samples: HashMap<u64, Arc<Sample>>,
    bytes: usize,
}

/// A decoded row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Row number in the whole dataset.
    pub id: u64,
    /// The captions it may be shown with; at least one, which may be empty.
    pub captions: Vec<String>,
    /// RGB, row by row: `[S, S, 3]`, 0 to 255.
    pub pixels: Vec<u8>,
    /// The side `S`.
    pub image_size: usize,
}

impl Sample {
    /// Writes the picture as `[3, S, S]` in [-1, 1] into `out`, which has that many elements.
    pub fn write_chw(&self, out: &mut [f32]) {
        let area = self.image_size * self.image_size;
        for (index, pixel) in self.pixels.chunks_exact(3).enumerate() {
            for (channel, value) in pixel.iter().enumerate() {
                out[channel * area + index] = f32::from(*value) / 127.5 - 1.0;
            }
        }
    }
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
        let (shards, manifest) = open_shards(&config.path)?;
        for shard in &shards {
            shard.check_image_column(&config.image_column)?;
            shard.check_caption_column(&config.caption_column)?;
        }
        let groups = row_groups(&shards);
        let rows = groups.last().map_or(0, |group| group.ids.end);
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
        let digest = manifest
            .as_ref()
            .map_or_else(|| outline_digest(&shards), Manifest::digest);
        Ok(Self {
            inner: Arc::new(Inner {
                subset: Subset::new(rows, config.max_samples, config.subset_seed),
                config: config.clone(),
                shards,
                groups,
                rows,
                digest,
                manifest,
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
        self.inner.rows
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
        self.inner.manifest.as_ref()
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
        if id >= self.inner.rows {
            let rows = self.inner.rows;
            return Err(DataError::NoSample { id, rows });
        }
        if let Some(sample) = self.load(&[id])?.pop().flatten() {
            return Ok(Sample::clone(&sample));
        }
        let (shard, row) = self.place(id);
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
        let mut found = HashMap::new();
        let columns = self.columns(None);
        self.read(&members, columns, |id, row| {
            found.insert(id, row.captions);
        })?;
        let captions = members
            .into_iter()
            .filter_map(|id| Some((id, found.remove(&id)?)))
            .filter(|(_, captions)| !captions.is_empty());
        Ok(captions.collect())
    }

    /// The first row of the whole dataset with this caption among its captions. Reads the caption column.
    pub fn find_caption(&self, caption: &str) -> Result<Option<u64>, DataError> {
        for group in &self.inner.groups {
            let mut found = None;
            let ids: Vec<u64> = group.ids.clone().collect();
            self.read(&ids, self.columns(None), |id, row| {
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
        self.read(&missing, columns, |id, row| raw.push((id, row)))?;
        let side = self.inner.config.image_size;
        let decoded: Vec<_> = raw
            .into_par_iter()
            .map(|(id, row)| (id, decode_row(id, row, side)))
            .collect();
        for (id, result) in decoded {
            found.insert(id, self.keep(id, result));
        }
        Ok(ids.iter().map(|id| found.get(id).cloned().flatten()).collect())
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
                let (shard, row) = self.place(id);
                let entry = Quarantined { id, shard, row, reason };
                lock(&self.inner.quarantine).insert(id, entry);
                None
            }
        }
    }

    // Each row group that holds one of the ids is met once, however the ids are ordered.
    fn read(&self, ids: &[u64], columns: Columns, mut each: impl FnMut(u64, RawRow)) -> Result<(), DataError> {
        let mut by_group: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
        for id in ids {
            by_group.entry(self.group_of(*id)).or_default().insert(*id);
        }
        for (number, ids) in by_group {
            let group = &self.inner.groups[number];
            let places: Vec<u64> = ids.iter().map(|id| id - group.ids.start).collect();
            let mut ids = ids.into_iter();
            group.read(&self.inner.shards[group.shard], columns, &places, |row| {
                if let Some(id) = ids.next() {
                    each(id, row);
                }
            })?;
        }
        Ok(())
    }

    fn columns<'a>(&'a self, image: Option<&'a str>) -> Columns<'a> {
        Columns {
            image,
            caption: Some(&self.inner.config.caption_column),
        }
    }

    fn group_of(&self, id: u64) -> usize {
        self.inner.groups.partition_point(|group| group.ids.end <= id)
    }

    fn place(&self, id: u64) -> (PathBuf, u64) {
        let group = &self.inner.groups[self.group_of(id)];
        let shard = self.inner.shards[group.shard].path.clone();
        (shard, group.first_row + id - group.ids.start)
    }
}

/// Opens the shards behind a path and holds them against their manifest.
pub(crate) fn open_shards(path: &std::path::Path) -> Result<(Vec<Shard>, Option<Manifest>), DataError> {
    let Source { files, manifest } = Source::find(path)?;
    let shards = files
        .iter()
        .map(|file| Shard::open(file))
        .collect::<Result<Vec<_>, _>>()?;
    for (shard, entry) in shards.iter().zip(manifest.iter().flat_map(|manifest| &manifest.shards)) {
        let pairs = [("bytes", entry.bytes, shard.bytes), ("rows", entry.rows, shard.rows())];
        if let Some((what, expected, found)) = pairs.into_iter().find(|(_, a, b)| a != b) {
            return Err(DataError::ShardChanged {
                path: shard.path.clone(),
                what,
                expected,
                found,
            });
        }
    }
    Ok((shards, manifest))
}

/// Every row group of every shard, with the ids of its rows; empty ones are left out.
pub(crate) fn row_groups(shards: &[Shard]) -> Vec<RowGroup> {
    let mut groups = Vec::new();
    let mut id = 0;
    for (index, shard) in shards.iter().enumerate() {
        let mut first_row = 0;
        for (number, rows) in shard.group_rows().enumerate() {
            if rows > 0 {
                groups.push(RowGroup {
                    shard: index,
                    number,
                    ids: id..id + rows,
                    first_row,
                });
            }
            id += rows;
            first_row += rows;
        }
    }
    groups
}

fn outline_digest(shards: &[Shard]) -> String {
    let mut hasher = Sha256::new();
    for shard in shards {
        hasher.update(shard.outline());
    }
    hex(&hasher.finalize())
}

fn decode_row(id: u64, row: RawRow, side: u32) -> Result<Sample, String> {
    if row.captions.is_empty() {
        return Err("its caption is null".to_owned());
    }
    let bytes = row.image.ok_or("its picture is null")?;
    let picture = centre_square(decode(&bytes)?, side);
    Ok(Sample {
        id,
        captions: row.captions,
        pixels: picture.into_raw(),
        image_size: side as usize,
    })
}

// A panic in another thread leaves only whole entries behind, so the data stays good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
