//! A set of shards opened for reading: any sample by its id, decoded.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::bucket::Bucket;
use crate::config::DataConfig;
use crate::error::DataError;
use crate::image::Limits;
use crate::layout::Layout;
use crate::manifest::{Manifest, hex};
use crate::members::Members;
use crate::open_source::{OpenSource, Row, Wanted};
use crate::order::SampleOrder;
use crate::part::BlockRows;
use crate::sample::Sample;
use crate::subset::Subset;

// A set whose pictures fit here when they are decoded is decoded once.
const CACHE_BYTES: u64 = 256 << 20;

/// A set of shards opened for reading. Clones share footers and decoded pictures.
#[derive(Clone)]
pub struct Dataset {
    inner: Arc<Inner>,
}

struct Inner {
    config: DataConfig,
    sources: Vec<OpenSource>,
    subset: Subset,
    layout: Arc<Layout>,
    digest: String,
    /// Decoded pictures by id, of a set that fits; nothing of another.
    cache: Option<Mutex<HashMap<u64, Arc<Sample>>>>,
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

/// What is read at once: a source's number and a block's number there.
pub(crate) type BlockKey = (usize, usize);

impl Dataset {
    /// Reads the manifests, where there are some, and every footer; checks columns, sizes and keys against them.
    pub fn open(config: &DataConfig) -> Result<Self, DataError> {
        config.validate()?;
        let mut sources: Vec<OpenSource> = Vec::new();
        for (path, columns) in config.sources() {
            let first_id = sources.last().map_or(0, OpenSource::end);
            sources.push(OpenSource::open(&path, columns, first_id)?);
        }
        let rows = sources.last().map_or(0, OpenSource::end);
        if let Some(wanted) = config.max_samples.filter(|wanted| *wanted > rows) {
            let problem = format!("is {wanted}, but the data has {rows} rows");
            let key = "data.max_samples";
            return Err(DataError::Config { key, problem });
        }
        let subset = Subset::new(rows, config.max_samples, config.subset_seed);
        let members = Members::of(&subset, rows);
        let layout = layout(config, &sources, members, config.shuffle_window, config.lanes)?;
        let side = u64::from(config.image_size);
        Ok(Self {
            inner: Arc::new(Inner {
                layout: Arc::new(layout),
                cache: (subset.len() * side * side * 3 <= CACHE_BYTES).then(Mutex::default),
                subset,
                config: config.clone(),
                digest: digest(&sources),
                sources,
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
        self.inner.sources.last().map_or(0, OpenSource::end)
    }

    /// Which rows the run sees.
    pub fn subset(&self) -> &Subset {
        &self.inner.subset
    }

    /// The configuration it was opened with.
    pub fn config(&self) -> &DataConfig {
        &self.inner.config
    }

    /// The sources' manifests, of those that have one.
    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.inner
            .sources
            .iter()
            .filter_map(|source| source.set.manifest.as_ref())
    }

    /// Every shard's path or URL, with its SHA-256 where a manifest says it.
    pub fn shards(&self) -> impl Iterator<Item = (&Path, Option<&str>)> {
        self.inner.sources.iter().flat_map(|source| {
            let entries = source.set.manifest.as_ref().map(|manifest| &manifest.shards);
            let digest = move |number: usize| Some(entries?.get(number)?.sha256.as_str());
            let shards = source.set.shards.iter().enumerate();
            shards.map(move |(number, shard)| (shard.path.as_path(), digest(number)))
        })
    }

    /// What the data is, in hex: over the manifest's shard digests, or without a manifest over sizes and layout of the
    /// shards; of several sources, over theirs. Paths, columns, weights and `max_samples` don't enter.
    pub fn digest(&self) -> &str {
        &self.inner.digest
    }

    /// The endless stream under a seed. Reads nothing.
    pub fn order(&self, seed: u64, global_batch: usize) -> SampleOrder {
        SampleOrder::new(self.inner.layout.clone(), seed, global_batch)
    }

    /// As [`order`](Self::order), in other windows than the configured ones.
    pub(crate) fn order_in_windows(
        &self,
        seed: u64,
        global_batch: usize,
        window: u64,
        lanes: u64,
    ) -> Result<SampleOrder, DataError> {
        let members = self.inner.layout.members.clone();
        let layout = layout(&self.inner.config, &self.inner.sources, members, window, lanes)?;
        Ok(SampleOrder::new(Arc::new(layout), seed, global_batch))
    }

    /// The first id of every block, and the end of the last.
    pub(crate) fn block_starts(&self) -> Vec<u64> {
        let sources = self.inner.sources.iter();
        let starts = sources.flat_map(|source| {
            let blocks = source.set.blocks.iter();
            blocks.map(|block| source.first_id + block.ids.start)
        });
        starts.chain([self.rows()]).collect()
    }

    /// One row, decoded to a square. An unusable one is an error that says why.
    pub fn sample(&self, id: u64) -> Result<Sample, DataError> {
        if id >= self.rows() {
            let rows = self.rows();
            return Err(DataError::NoSample { id, rows });
        }
        let mut found = None;
        self.read(&[id], Wanted::All, |_, row| found = Some(row))?;
        let size = Bucket::square(self.inner.config.image_size);
        let decoded = found.ok_or_else(|| "it was not found".to_owned());
        let decoded = decoded.and_then(|row| Sample::decode(id, row, size, Wanted::All, &self.limits()));
        decoded.map_err(|reason| {
            let (shard, row) = self.source_of(id).place(id);
            DataError::Unusable { shard, row, reason }
        })
    }

    /// Some rows, decoded in parallel to the sizes that training gives them, in the order asked for; an unusable one says
    /// why. Reads each block once.
    pub fn samples(&self, ids: &[u64]) -> Result<Vec<Result<Sample, String>>, DataError> {
        let mut found: HashMap<u64, Row> = HashMap::new();
        self.read(ids, Wanted::All, |id, row| {
            found.insert(id, row);
        })?;
        let rows: Vec<(u64, Option<Row>)> = ids.iter().map(|id| (*id, found.remove(id))).collect();
        let sizes = ids.iter().map(|id| self.size_of(*id)).collect::<Result<Vec<_>, _>>()?;
        let decode = |((id, row), size): ((u64, Option<Row>), Bucket)| {
            let row = row.ok_or_else(|| "it was not found".to_owned())?;
            Sample::decode(id, row, size, Wanted::All, &self.limits())
        };
        Ok(rows.into_par_iter().zip(sizes).map(decode).collect())
    }

    /// The size that training gives a row's picture.
    fn size_of(&self, id: u64) -> Result<Bucket, DataError> {
        let source = self.source_of(id);
        let shard = source.set.blocks[source.set.block_of(id - source.first_id)].shard;
        shard_size(&self.inner.config, source, shard)
    }

    /// Every member's id and captions, in the order of [`Subset::id`]: a part starts with the smaller part's. Rows
    /// without a caption are left out. Reads the whole caption columns.
    pub fn captions(&self) -> Result<Vec<(u64, Vec<String>)>, DataError> {
        let members: Vec<u64> = (0..self.len()).map(|index| self.inner.subset.id(index)).collect();
        self.captions_of(&members)
    }

    /// The ids and captions of some rows, in the order asked for. Rows without a caption are left out.
    pub fn captions_of(&self, ids: &[u64]) -> Result<Vec<(u64, Vec<String>)>, DataError> {
        let mut found: HashMap<u64, Vec<String>> = HashMap::new();
        self.read(ids, Wanted::Captions, |id, row| {
            found.insert(id, row.captions.all().cloned().collect());
        })?;
        let captions = ids
            .iter()
            .filter_map(|id| Some((*id, found.remove(id)?)))
            .filter(|(_, captions)| !captions.is_empty());
        Ok(captions.collect())
    }

    /// The first row of the whole dataset with this caption among its captions. Reads the caption columns.
    pub fn find_caption(&self, caption: &str) -> Result<Option<u64>, DataError> {
        for source in &self.inner.sources {
            for block in &source.set.blocks {
                let ids = source.first_id + block.ids.start..source.first_id + block.ids.end;
                let mut found = None;
                source.read(&ids.collect::<Vec<_>>(), Wanted::Captions, |id, row| {
                    if found.is_none() && row.captions.all().any(|own| own == caption) {
                        found = Some(id);
                    }
                })?;
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }

    /// The block of a row.
    pub(crate) fn block_of(&self, id: u64) -> BlockKey {
        let number = self.source_number(id);
        let source = &self.inner.sources[number];
        (number, source.set.block_of(id - source.first_id))
    }

    /// How many rows a block has.
    pub(crate) fn block_len(&self, (source, block): BlockKey) -> usize {
        let ids = &self.inner.sources[source].set.blocks[block].ids;
        (ids.end - ids.start) as usize
    }

    /// Rows of one block, as they are stored. Where the block can't be read, every row says why.
    pub(crate) fn read_block(
        &self,
        (source, _): BlockKey,
        ids: &[u64],
        wanted: Wanted,
    ) -> Vec<(u64, Result<Row, String>)> {
        let mut rows = HashMap::new();
        let read = self.inner.sources[source].read(ids, wanted, |id, row| {
            rows.insert(id, row);
        });
        let reason = match read {
            Ok(()) => "its shard gave no such row".to_owned(),
            Err(error) => format!("its shard can't be read: {error}"),
        };
        let taken = ids
            .iter()
            .map(|id| (*id, rows.remove(id).ok_or_else(|| reason.clone())));
        taken.collect()
    }

    /// The decoded picture of a row, where it is remembered.
    pub(crate) fn remembered(&self, id: u64) -> Option<Arc<Sample>> {
        lock(self.inner.cache.as_ref()?).get(&id).cloned()
    }

    /// Decodes a row and remembers it, where the set fits into memory.
    pub(crate) fn decode(&self, id: u64, row: Row, size: Bucket, wanted: Wanted) -> Result<Arc<Sample>, String> {
        let sample = Arc::new(Sample::decode(id, row, size, wanted, &self.limits())?);
        if let Some(cache) = &self.inner.cache {
            lock(cache).insert(id, sample.clone());
        }
        Ok(sample)
    }

    /// A row that can't be used, with where it lies.
    pub fn unusable(&self, id: u64, reason: String) -> Quarantined {
        let (shard, row) = self.source_of(id).place(id);
        Quarantined { id, shard, row, reason }
    }

    /// How many clones share this dataset, itself counted.
    #[cfg(test)]
    pub(crate) fn holders(&self) -> usize {
        Arc::strong_count(&self.inner)
    }

    fn limits(&self) -> Limits {
        Limits::new(self.inner.config.min_side)
    }

    // Ids ascend over sources, so rows come source by source.
    fn read(&self, ids: &[u64], wanted: Wanted, mut each: impl FnMut(u64, Row)) -> Result<(), DataError> {
        let mut by_source: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for id in ids {
            by_source.entry(self.source_number(*id)).or_default().push(*id);
        }
        for (number, ids) in by_source {
            self.inner.sources[number].read(&ids, wanted, &mut each)?;
        }
        Ok(())
    }

    fn source_number(&self, id: u64) -> usize {
        self.inner.sources.partition_point(|source| source.end() <= id)
    }

    fn source_of(&self, id: u64) -> &OpenSource {
        &self.inner.sources[self.source_number(id)]
    }
}

// Every block with its source and the size that its pictures are cut to, sorted into parts.
fn layout(
    config: &DataConfig,
    sources: &[OpenSource],
    members: Members,
    window: u64,
    lanes: u64,
) -> Result<Layout, DataError> {
    let mut all = Vec::new();
    for (number, source) in sources.iter().enumerate() {
        for block in &source.set.blocks {
            let size = shard_size(config, source, block.shard)?;
            all.push(BlockRows {
                ids: source.first_id + block.ids.start..source.first_id + block.ids.end,
                source: number,
                size,
            });
        }
    }
    Ok(Layout::new(all, members, config.weights().as_deref(), window, lanes))
}

/// The size of a shard's pictures: its bucket's, or a square.
fn shard_size(config: &DataConfig, source: &OpenSource, shard: usize) -> Result<Bucket, DataError> {
    match source.set.bucket(shard).filter(|_| config.buckets) {
        Some((grid, bucket)) => grid.scaled(bucket, config.image_size),
        None => Ok(Bucket::square(config.image_size)),
    }
}

fn digest(sources: &[OpenSource]) -> String {
    if let [source] = sources {
        return source.set.digest();
    }
    let mut hasher = Sha256::new();
    for source in sources {
        hasher.update(format!("{}\n", source.set.digest()));
    }
    hex(&hasher.finalize())
}

// A panic in another thread leaves only whole entries behind, so the data stays good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
