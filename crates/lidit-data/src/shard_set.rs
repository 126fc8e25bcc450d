//! All shards of a dataset: which row lies where, and reading rows by id.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use sha2::{Digest, Sha256};

use crate::block::{Block, BlockReader, Columns, RawRow};
use crate::bucket::{Bucket, BucketGrid};
use crate::error::DataError;
use crate::footer::{Footer, FooterCache};
use crate::location::is_remote;
use crate::manifest::{Manifest, hex};
use crate::shard::Shard;
use crate::source::Source;
use crate::storage::Storage;

// Footers read before any of them is taken over: their outlines enter the digest in order and are then dropped.
const SHARDS_AT_ONCE: usize = 1024;

// Footers of remote shards waited for at once.
const REMOTE_FOOTERS: usize = 32;

/// The shards behind a path, in reading order, with their blocks. Ids count rows over all shards from 0.
pub(crate) struct ShardSet {
    pub shards: Vec<Shard>,
    /// Ascending, without gaps.
    pub blocks: Vec<Block>,
    pub manifest: Option<Manifest>,
    digest: String,
    storage: Storage,
    footers: FooterCache,
}

impl ShardSet {
    /// Reads every footer and holds it against the manifest, where there is one.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        Self::open_in(path, Storage::new())
    }

    pub(crate) fn open_in(path: &Path, storage: Storage) -> Result<Self, DataError> {
        let Source { files, manifest } = Source::find(path, &storage)?;
        let mut set = Self {
            shards: Vec::with_capacity(files.len()),
            blocks: Vec::new(),
            digest: String::new(),
            manifest,
            storage,
            footers: FooterCache::default(),
        };
        let mut hasher = Sha256::new();
        // Waiting for a server takes no core, reading a local footer takes little else.
        let waiting = files
            .first()
            .filter(|file| is_remote(file))
            .map(|_| threads(REMOTE_FOOTERS));
        let waiting = waiting.transpose()?;
        let open = |file: &PathBuf| Opened::read(&storage, file);
        for files in files.chunks(SHARDS_AT_ONCE) {
            let read = || files.par_iter().map(open).collect::<Result<Vec<_>, _>>();
            let opened = waiting.as_ref().map_or_else(read, |pool| pool.install(read))?;
            for opened in opened {
                hasher.update(&opened.outline);
                set.push(opened)?;
            }
        }
        set.shards.shrink_to_fit();
        set.blocks.shrink_to_fit();
        // The manifest's digest is that of the content, wherever it lies and however it is laid out.
        set.digest = set
            .manifest
            .as_ref()
            .map_or_else(|| hex(&hasher.finalize()), Manifest::digest);
        Ok(set)
    }

    fn push(&mut self, opened: Opened) -> Result<(), DataError> {
        let Opened {
            mut shard,
            starts,
            footer,
            ..
        } = opened;
        let number = self.shards.len();
        self.check_entry(&shard)?;
        shard.first_id = self.rows();
        if let Some(last) = self.shards.last() {
            shard.share_types(last);
        }
        let ends = starts.iter().skip(1).copied().chain([shard.rows()]);
        let blocks = starts.iter().zip(ends).map(|(start, end)| Block {
            shard: number,
            ids: shard.first_id + start..shard.first_id.saturating_add(end),
        });
        self.blocks.extend(blocks);
        self.footers.put(number, footer);
        self.shards.push(shard);
        Ok(())
    }

    fn check_entry(&self, shard: &Shard) -> Result<(), DataError> {
        let entries = self.manifest.as_ref().map(|manifest| &manifest.shards);
        let Some(entry) = entries.and_then(|entries| entries.get(self.shards.len())) else {
            return Ok(());
        };
        let pairs = [("bytes", entry.bytes, shard.bytes), ("rows", entry.rows, shard.rows())];
        match pairs.into_iter().find(|(_, expected, found)| expected != found) {
            None => Ok(()),
            Some((what, expected, found)) => Err(DataError::ShardChanged {
                path: shard.path.clone(),
                what,
                expected,
                found,
            }),
        }
    }

    /// Rows of all shards.
    pub fn rows(&self) -> u64 {
        self.blocks.last().map_or(0, |block| block.ids.end)
    }

    /// The manifest's digest, or one over sizes and layout of the shards.
    pub fn digest(&self) -> String {
        self.digest.clone()
    }

    /// The bucket of a shard's rows, with the grid that it is of, in a set that is sorted by buckets.
    pub fn bucket(&self, shard: usize) -> Option<(BucketGrid, Bucket)> {
        let manifest = self.manifest.as_ref()?;
        manifest.buckets.zip(manifest.shards[shard].bucket)
    }

    /// Reads rows by id and hands each on once, ids ascending: a block is met once, however the ids are ordered.
    pub fn read(&self, ids: &[u64], columns: Columns, mut each: impl FnMut(u64, RawRow)) -> Result<(), DataError> {
        let mut by_block: BTreeMap<usize, BTreeSet<u64>> = BTreeMap::new();
        for id in ids {
            by_block.entry(self.block_of(*id)).or_default().insert(*id);
        }
        for (block, ids) in by_block {
            let start = self.blocks[block].ids.start;
            let places: Vec<u64> = ids.iter().map(|id| id - start).collect();
            self.read_block(block, &places, columns, &mut each)?;
        }
        Ok(())
    }

    /// Reads rows of one block by their places in it (from 0, ascending, no repeats) and hands each on with its id.
    pub fn read_block(
        &self,
        block: usize,
        places: &[u64],
        columns: Columns,
        mut each: impl FnMut(u64, RawRow),
    ) -> Result<(), DataError> {
        let Block { shard: number, ids } = &self.blocks[block];
        let shard = &self.shards[*number];
        let load = || Opened::again(&self.storage, shard);
        let footer = self.footers.get(*number, load)?;
        let first_row = ids.start - shard.first_id;
        let (group, group_start) = shard.group_of(first_row);
        let in_group: Vec<u64> = places.iter().map(|place| first_row - group_start + place).collect();
        let reader = BlockReader {
            storage: &self.storage,
            path: &shard.path,
            footer: &footer,
            group,
            columns,
        };
        let mut places = places.iter();
        reader.read(&in_group, |row| {
            if let Some(place) = places.next() {
                each(ids.start + place, row);
            }
        })
    }

    /// The shard of a row and its number there, from 0.
    pub fn place(&self, id: u64) -> (PathBuf, u64) {
        let shard = &self.shards[self.blocks[self.block_of(id)].shard];
        (shard.path.clone(), id - shard.first_id)
    }

    /// The block that holds a row, which is one of the set's.
    pub fn block_of(&self, id: u64) -> usize {
        self.blocks.partition_point(|block| block.ids.end <= id)
    }
}

fn threads(count: usize) -> Result<ThreadPool, DataError> {
    let pool = ThreadPoolBuilder::new().num_threads(count).build();
    pool.map_err(|error| DataError::Threads {
        reason: error.to_string(),
    })
}

// A shard whose footer was just read, and what of it the set needs once.
struct Opened {
    shard: Shard,
    /// Where its blocks start, by rows in the shard.
    starts: Vec<u64>,
    outline: String,
    footer: Footer,
}

impl Opened {
    fn read(storage: &Storage, path: &Path) -> Result<Self, DataError> {
        let footer = Footer::load(storage, path)?;
        let shard = Shard::new(path, &footer);
        let groups = 0..shard.num_groups();
        let starts = groups.flat_map(|group| {
            let starts = footer.block_starts(group).into_iter();
            starts.map(move |row| (group, row))
        });
        Ok(Self {
            starts: starts.map(|(group, row)| shard.group_start(group) + row).collect(),
            outline: footer.outline(),
            footer,
            shard,
        })
    }

    // The footer once more, of a file that must be the same.
    fn again(storage: &Storage, shard: &Shard) -> Result<Footer, DataError> {
        let footer = Footer::load(storage, &shard.path)?;
        if footer.bytes != shard.bytes {
            return Err(DataError::Changed {
                path: shard.path.clone(),
                expected: shard.bytes,
                found: footer.bytes,
            });
        }
        Ok(footer)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::{self, File};
    use std::sync::Arc;

    use arrow::array::{Array, ArrayRef, BinaryArray, ListArray, RecordBatch, StringArray, StructArray};
    use arrow::array::{DictionaryArray, LargeBinaryArray, LargeListBuilder, LargeStringArray, StringBuilder};
    use arrow::array::{Int32Array, ListBuilder, StringDictionaryBuilder};
    use arrow::datatypes::{DataType, Field, Int32Type};
    use parquet::arrow::ArrowWriter;
    use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
    use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};

    use super::*;
    use crate::test_shards::{array, write_columns, write_set};

    const ROWS: usize = 300;
    const BOTH: Columns = Columns {
        image: Some("image"),
        caption: Some("caption"),
        synthetic: None,
    };

    // Noise, so that a picture compresses no better than one: row 7 is null.
    fn picture(row: usize) -> Option<Vec<u8>> {
        let byte = |at: usize| (((row + 1) * (at + 3) * 2_654_435_761) >> 11) as u8;
        (row != 7).then(|| (0..300 + row % 50).map(byte).collect())
    }

    fn caption(row: usize) -> Option<String> {
        (row % 31 != 5).then(|| format!("caption {}", row % 40))
    }

    fn usual_columns() -> Vec<(&'static str, ArrayRef)> {
        let captions: StringArray = (0..ROWS).map(caption).collect();
        vec![
            ("extra", array(Int32Array::from_iter_values(0..ROWS as i32))),
            ("image", array((0..ROWS).map(picture).collect::<BinaryArray>())),
            ("caption", array(captions)),
        ]
    }

    fn write(path: &Path, columns: Vec<(&str, ArrayRef)>, properties: WriterPropertiesBuilder) {
        let columns = columns.into_iter().map(|(name, array)| (name, array, true));
        let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let file = File::create(path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties.build())).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    // Row groups of 150 rows, pages of 20.
    fn paged() -> WriterPropertiesBuilder {
        WriterProperties::builder()
            .set_max_row_group_row_count(Some(150))
            .set_data_page_row_count_limit(20)
            .set_write_batch_size(20)
    }

    fn rows(set: &ShardSet, columns: Columns, ids: &[u64]) -> Vec<(u64, RawRow)> {
        let mut rows = Vec::new();
        set.read(ids, columns, |id, row| rows.push((id, row))).unwrap();
        rows
    }

    fn check_usual(set: &ShardSet, ids: &[u64]) {
        let read = rows(set, BOTH, ids);
        assert_eq!(read.len(), ids.len());
        for (id, row) in read {
            let expected = RawRow {
                image: picture(id as usize).map(Into::into),
                captions: caption(id as usize).into_iter().collect(),
                synthetic: Vec::new(),
            };
            assert_eq!(row, expected, "row {id}");
        }
    }

    fn block_ends(set: &ShardSet) -> Vec<u64> {
        set.blocks.iter().map(|block| block.ids.end).collect()
    }

    #[test]
    fn every_codec_and_page_version_is_read_with_and_without_an_offset_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let codecs = [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(GzipLevel::default()),
            Compression::ZSTD(ZstdLevel::default()),
            Compression::LZ4_RAW,
            Compression::BROTLI(BrotliLevel::default()),
        ];
        for codec in codecs {
            for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
                for no_index in [false, true] {
                    let properties = paged()
                        .set_compression(codec)
                        .set_writer_version(version)
                        .set_offset_index_disabled(no_index);
                    write(&path, usual_columns(), properties);
                    let set = ShardSet::open(&path).unwrap();
                    let ends: &[u64] = if no_index { &[150, 300] } else { &[80, 150, 230, 300] };
                    assert_eq!(block_ends(&set), ends, "{codec} {version:?}");
                    check_usual(&set, &(0..ROWS as u64).collect::<Vec<_>>());
                    check_usual(&set, &[0, 7, 79, 80, 149, 150, 229, 299]);
                }
            }
        }
    }

    #[test]
    fn a_block_gives_the_asked_places_with_their_ids() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.parquet", "b.parquet"] {
            write(&folder.path().join(name), usual_columns(), paged());
        }
        let set = ShardSet::open(folder.path()).unwrap();
        assert_eq!(set.rows(), 2 * ROWS as u64);
        let block = set.block_of(400);
        assert_eq!(
            set.blocks[block],
            Block {
                shard: 1,
                ids: 380..450
            }
        );
        assert_eq!(set.place(400), (folder.path().join("b.parquet"), 100));
        let mut ids = Vec::new();
        let each = |id, row: RawRow| ids.push((id, row.image.map(|image| image.to_vec())));
        set.read_block(block, &[0, 20, 69], BOTH, each).unwrap();
        let expected = [380, 400, 449].map(|id| (id, picture(id as usize - ROWS)));
        assert_eq!(ids, expected);
    }

    #[test]
    fn blocks_depend_on_the_largest_column_and_on_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        // Pages by bytes: those of pictures have about 30 rows each, the one of the captions has all.
        let properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_write_batch_size(1)
            .set_data_page_size_limit(10_000);
        write(&path, usual_columns(), properties);
        let ends = block_ends(&ShardSet::open(&path).unwrap());
        assert_eq!(ends.len(), 4, "{ends:?}");
        let lens = ends
            .iter()
            .scan(0, |start, end| Some(end - std::mem::replace(start, *end)));
        assert!(lens.take(3).all(|rows| (64..128).contains(&rows)), "{ends:?}");
        check_usual(&ShardSet::open(&path).unwrap(), &(0..ROWS as u64).collect::<Vec<_>>());
    }

    #[test]
    fn large_dictionary_and_nested_variants_are_read_and_nulls_at_every_level_are_no_value() {
        let bytes: Vec<Option<&[u8]>> = vec![Some(b"one"), None, Some(b"three"), Some(b"")];
        let field = |name: &str, kind: &DataType| Arc::new(Field::new(name, kind.clone(), true));
        let structs = |bytes: ArrayRef, validity: Option<Vec<bool>>| {
            let paths = array(LargeStringArray::from(vec![Some("p"); 4]));
            let fields = vec![field("path", paths.data_type()), field("bytes", bytes.data_type())];
            let nulls = validity.map(Into::into);
            array(StructArray::new(fields.into(), vec![paths, bytes], nulls))
        };
        let plain = array(BinaryArray::from(bytes.clone()));
        let large = array(LargeBinaryArray::from(bytes.clone()));
        let keys = Int32Array::from(vec![Some(0), None, Some(2), Some(3)]);
        let values = array(BinaryArray::from_vec(vec![b"one", b"-", b"three", b""]));
        let images = [
            plain.clone(),
            large.clone(),
            array(DictionaryArray::new(keys, values)),
            structs(plain, None),
            structs(large.clone(), None),
            structs(large, Some(vec![true, false, true, true])),
        ];
        let strings = vec![Some("one"), None, Some(""), Some("four")];
        let lists = [
            Some(vec![Some("one")]),
            None,
            Some(vec![Some("")]),
            Some(vec![Some("four"), None]),
        ];
        let mut list = ListBuilder::new(StringBuilder::new());
        let mut large_list = LargeListBuilder::new(StringDictionaryBuilder::<Int32Type>::new());
        for item in lists {
            list.append_option(item.clone());
            large_list.append_option(item);
        }
        let captions: [ArrayRef; 5] = [
            array(StringArray::from(strings.clone())),
            array(LargeStringArray::from(strings.clone())),
            array(strings.into_iter().collect::<DictionaryArray<Int32Type>>()),
            array(list.finish()),
            array(large_list.finish()),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        for image in &images {
            for caption in &captions {
                write_columns(&path, vec![("picture", image.clone()), ("text", caption.clone())]);
                let set = ShardSet::open(&path).unwrap();
                set.shards[0].check_image_column("picture").unwrap();
                set.shards[0].check_captions("key", "text").unwrap();
                let columns = Columns {
                    image: Some("picture"),
                    caption: None,
                    synthetic: Some("text"),
                };
                let read = rows(&set, columns, &[0, 1, 2, 3]);
                let pictures: Vec<_> = read.iter().map(|(_, row)| row.image.as_deref()).collect();
                assert_eq!(pictures, bytes, "{:?}", image.data_type());
                let texts: Vec<_> = read.iter().map(|(_, row)| row.synthetic.clone()).collect();
                assert_eq!(
                    texts,
                    [vec!["one"], vec![], vec![""], vec!["four"]],
                    "{:?}",
                    caption.data_type()
                );
            }
        }
    }

    #[test]
    fn captions_that_are_structs_and_lists_of_lists_are_refused_by_type() {
        let texts = array(StringArray::from(vec!["a"]));
        let field = Arc::new(Field::new("text", DataType::Utf8, true));
        let structs = array(StructArray::new(vec![field].into(), vec![texts], None));
        let mut list = ListBuilder::new(ListBuilder::new(StringBuilder::new()));
        list.append(true);
        let lists: ListArray = list.finish();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        for (column, name) in [(structs, "struct<text>"), (array(lists), "list<list<string>>")] {
            write_columns(&path, vec![("caption", column)]);
            let set = ShardSet::open(&path).unwrap();
            let message = set.shards[0].check_caption_column("caption").unwrap_err().to_string();
            assert!(
                message.contains(&format!("column `caption` is {name}; data.caption_column")),
                "{message}"
            );
        }
    }

    #[test]
    fn a_shard_that_vanishes_or_changes_its_size_is_named() {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), 30, 10, 10);
        let path = folder.path().join("shard-00001.parquet");
        let set = ShardSet::open(folder.path()).unwrap();
        let good = fs::read(&path).unwrap();
        let message = || {
            let none = |_, _| ();
            set.read(&[15], BOTH, none).unwrap_err().to_string()
        };
        fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert!(message().contains("shard-00001.parquet: has"), "{}", message());
        fs::remove_file(&path).unwrap();
        assert!(message().contains("shard-00001.parquet: No such file"), "{}", message());
        // Opened after it vanished, the same.
        let message = ShardSet::open(folder.path()).err().unwrap().to_string();
        assert!(message.contains("shard-00001.parquet: No such file"), "{message}");
    }

    /// Computed by the reader that kept whole footers and had no blocks: a set's digest is in caches and checkpoints.
    #[test]
    fn the_digest_of_a_set_without_a_manifest_is_what_it_always_was() {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), 23, 9, 4);
        let digest = ShardSet::open(&folder.path().join("*.parquet")).unwrap().digest();
        assert_eq!(
            digest,
            "9b9569f23016484bfa801f81084e7a4cd5b8fb96406ce2a40a76fbdbf13cffc8"
        );
    }

    #[test]
    fn a_footer_that_is_no_longer_in_memory_is_read_again() {
        let cache = FooterCache::default();
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), 4, 4, 4);
        let path = folder.path().join("shard-00000.parquet");
        let footer = Footer::load(&Storage::new(), &path).unwrap();
        let loads = std::cell::Cell::new(0);
        let mut get = |shard| {
            let load = || {
                loads.set(loads.get() + 1);
                Ok(footer.clone())
            };
            cache.get(shard, load).unwrap();
        };
        [3, 3, 4, 3].into_iter().for_each(&mut get);
        assert_eq!(loads.get(), 2);
        (5..300).for_each(&mut get);
        let before = loads.get();
        get(3);
        assert_eq!(loads.get(), before + 1);
    }
}
