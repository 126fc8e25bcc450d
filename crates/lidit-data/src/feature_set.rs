//! The features of a whole dataset: any sample's by its id.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::error::DataError;
use crate::feature_file::FeatureFile;
use crate::feature_row::FeatureRow;
use crate::manifest::{ManifestShard, hex};
use crate::subset::Subset;

// Features kept in memory, as they are stored. A set that fits is read whole when it is opened; of a larger one only the
// rows of a step are read, as pages, since under a fresh permutation each epoch no row is met again soon.
const RESIDENT_BYTES: u64 = 1 << 30;

/// Where features lie and whose they are.
#[derive(Clone, Debug)]
pub struct FeatureSource {
    /// Folder of the files.
    pub folder: PathBuf,
    /// File `i` holds the members `i * members_per_file ..` of `members`.
    pub files: Vec<ManifestShard>,
    /// The samples that were encoded.
    pub members: Subset,
    /// Samples of every file but the last.
    pub members_per_file: u64,
    /// Number of encoders.
    pub num_encoders: usize,
}

/// All captions of one sample.
pub type SampleFeatures = Arc<Vec<FeatureRow>>;

/// Features opened for reading. Clones share what is in memory.
#[derive(Clone)]
pub struct FeatureSet {
    inner: Arc<Inner>,
}

struct Inner {
    source: FeatureSource,
    /// Every wanted sample's, where they fit.
    resident: Option<HashMap<u64, SampleFeatures>>,
    bytes_a_sample: usize,
}

impl FeatureSet {
    /// Checks that all files are there with the right size and that they hold every sample of `wanted`. Where those fit
    /// into a gibibyte, their files are verified by SHA-256 and kept in memory; else each row is verified by its checksum
    /// whenever it is read.
    pub fn open(source: FeatureSource, wanted: &Subset) -> Result<Self, DataError> {
        Self::with_room(source, wanted, RESIDENT_BYTES)
    }

    pub(crate) fn with_room(source: FeatureSource, wanted: &Subset, room: u64) -> Result<Self, DataError> {
        let needed = source.needed(wanted)?;
        for file in &source.files {
            source.check_size(file)?;
        }
        let bytes: u64 = needed.iter().map(|&number| source.files[number].bytes).sum();
        let members = needed.len() as u64 * source.members_per_file;
        let resident = (bytes <= room).then(|| source.read_whole(&needed, wanted));
        Ok(Self {
            inner: Arc::new(Inner {
                bytes_a_sample: (bytes / members.max(1)) as usize,
                source,
                resident: resident.transpose()?,
            }),
        })
    }

    /// Some samples' features. A sample without captions has none.
    pub fn load(&self, ids: &[u64]) -> Result<HashMap<u64, SampleFeatures>, DataError> {
        if let Some(resident) = &self.inner.resident {
            let known = ids.iter().filter_map(|id| Some((*id, resident.get(id)?.clone())));
            return Ok(known.collect());
        }
        let mut by_file: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for id in ids {
            by_file.entry(self.inner.source.file_of(*id)?).or_default().push(*id);
        }
        let read: Vec<Vec<FeatureRow>> = by_file
            .into_par_iter()
            .map(|(number, ids)| self.inner.source.open_file(number)?.read_samples(&ids))
            .collect::<Result<_, _>>()?;
        Ok(by_sample(read.into_iter().flatten()))
    }

    /// Whether everything is in memory.
    pub fn is_resident(&self) -> bool {
        self.inner.resident.is_some()
    }

    /// Bytes that a sample takes on average, as stored.
    pub fn bytes_a_sample(&self) -> usize {
        self.inner.bytes_a_sample
    }
}

impl FeatureSource {
    /// The numbers of the files that hold samples of `wanted`, ascending.
    fn needed(&self, wanted: &Subset) -> Result<Vec<usize>, DataError> {
        let mut needed = vec![false; self.files.len()];
        for index in 0..wanted.len() {
            needed[self.file_of(wanted.id(index))?] = true;
        }
        let numbers = needed.into_iter().enumerate().filter(|(_, needed)| *needed);
        Ok(numbers.map(|(number, _)| number).collect())
    }

    fn file_of(&self, id: u64) -> Result<usize, DataError> {
        let index = self.members.index(id).ok_or_else(|| DataError::Features {
            path: self.folder.clone(),
            problem: format!(
                "holds no features of sample {id}, only those of {} samples: run lidit cache with this run's \
                 data.max_samples and data.subset_seed into another folder",
                self.members.len()
            ),
        })?;
        let number = (index / self.members_per_file) as usize;
        if number < self.files.len() {
            return Ok(number);
        }
        Err(DataError::Features {
            path: self.folder.clone(),
            problem: format!(
                "its manifest lists {} files, sample {id} would lie in file {number}: run the same lidit cache again",
                self.files.len()
            ),
        })
    }

    fn check_size(&self, file: &ManifestShard) -> Result<(), DataError> {
        let path = self.folder.join(&file.file);
        let problem = match fs::metadata(&path) {
            Ok(metadata) if metadata.len() == file.bytes => return Ok(()),
            Ok(metadata) => format!("has {} bytes, its manifest says {}", metadata.len(), file.bytes),
            Err(error) => format!("{error}, but the manifest lists it"),
        };
        Err(DataError::Features {
            path,
            problem: format!("{problem}: run the same lidit cache again"),
        })
    }

    fn check_content(&self, file: &ManifestShard) -> Result<(), DataError> {
        let path = self.folder.join(&file.file);
        let found = sha256(&path).map_err(DataError::io(&path))?;
        if found == file.sha256 {
            return Ok(());
        }
        Err(DataError::Features {
            path,
            problem: format!(
                "has digest {found}, its manifest says {}: it is damaged, run the same lidit cache again",
                file.sha256
            ),
        })
    }

    fn open_file(&self, number: usize) -> Result<FeatureFile, DataError> {
        FeatureFile::open(&self.folder.join(&self.files[number].file), self.num_encoders)
    }

    fn read_whole(&self, numbers: &[usize], wanted: &Subset) -> Result<HashMap<u64, SampleFeatures>, DataError> {
        let files: Vec<Vec<FeatureRow>> = numbers
            .par_iter()
            .map(|&number| {
                self.check_content(&self.files[number])?;
                self.open_file(number)?.read()
            })
            .collect::<Result<_, _>>()?;
        let rows = files.into_iter().flatten();
        Ok(by_sample(rows.filter(|row| wanted.index(row.id).is_some())))
    }
}

fn by_sample(rows: impl Iterator<Item = FeatureRow>) -> HashMap<u64, SampleFeatures> {
    let mut samples: HashMap<u64, Vec<FeatureRow>> = HashMap::new();
    for row in rows {
        samples.entry(row.id).or_default().push(row);
    }
    samples.into_iter().map(|(id, rows)| (id, Arc::new(rows))).collect()
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hex(&hasher.finalize())),
            len => hasher.update(&piece[..len]),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::feature_row::tests::example;

    pub(crate) fn rows_of(id: u64) -> Vec<FeatureRow> {
        let captions = (0..id % 3).map(|alternative| format!("caption {alternative} of {id}"));
        captions.map(|caption| example(id, &caption, 2)).collect()
    }

    /// Features of the members of `members`, four a file; ids divisible by three have no caption.
    pub(crate) fn write(folder: &Path, members: Subset) -> FeatureSource {
        let mut files = Vec::new();
        for start in (0..members.len()).step_by(4) {
            let mut ids: Vec<u64> = (start..members.len().min(start + 4)).map(|i| members.id(i)).collect();
            ids.sort_unstable();
            let file = format!("{}.parquet", files.len());
            let path = folder.join(&file);
            let rows: Vec<_> = ids.into_iter().flat_map(rows_of).collect();
            FeatureFile::write(&path, &rows, 2).unwrap();
            files.push(ManifestShard {
                file,
                rows: rows.len() as u64,
                bytes: fs::metadata(&path).unwrap().len(),
                sha256: sha256(&path).unwrap(),
                bucket: None,
            });
        }
        FeatureSource {
            folder: folder.to_owned(),
            files,
            members,
            members_per_file: 4,
            num_encoders: 2,
        }
    }

    #[test]
    fn samples_are_read_by_id_from_memory_or_from_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        for members in [Subset::new(30, None, 0), Subset::new(30, Some(11), 4)] {
            let source = write(folder.path(), members);
            for room in [0, RESIDENT_BYTES] {
                let set = FeatureSet::with_room(source.clone(), &members, room).unwrap();
                assert_eq!(set.is_resident(), room > 0);
                assert!(set.bytes_a_sample() > 100);
                let ids: Vec<u64> = (0..members.len()).rev().map(|index| members.id(index)).collect();
                let loaded = set.load(&ids).unwrap();
                for id in ids {
                    let rows = loaded.get(&id).map_or(&[][..], |rows| rows.as_slice());
                    assert_eq!(rows, rows_of(id), "{id}");
                }
            }
        }
    }

    #[test]
    fn a_sample_beyond_the_encoded_ones_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let source = write(folder.path(), Subset::new(30, Some(11), 4));
        for wanted in [
            Subset::new(30, Some(12), 4),
            Subset::new(30, Some(11), 5),
            Subset::new(30, None, 4),
        ] {
            let message = FeatureSet::open(source.clone(), &wanted).err().unwrap().to_string();
            assert!(message.contains("holds no features of sample"), "{message}");
        }
        FeatureSet::open(source, &Subset::new(30, Some(5), 4)).unwrap();
    }

    #[test]
    fn a_missing_short_or_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let members = Subset::new(30, None, 0);
        let source = write(folder.path(), members);
        let path = folder.path().join("2.parquet");
        let good = fs::read(&path).unwrap();
        let open = |room| FeatureSet::with_room(source.clone(), &members, room);
        let mut bad = good.clone();
        let at = bad.windows(12).position(|window| window == b"caption 1 of").unwrap();
        bad[at] ^= 1;
        fs::write(&path, &bad).unwrap();
        let message = open(RESIDENT_BYTES).err().unwrap().to_string();
        assert!(message.contains("2.parquet: has digest"), "{message}");
        // A set that is too large for memory meets the damage when it reads the row.
        let message = open(0).unwrap().load(&[8, 1]).unwrap_err().to_string();
        assert!(message.contains("2.parquet: row"), "{message}");
        fs::write(&path, &good[1..]).unwrap();
        assert!(open(0).err().unwrap().to_string().contains("bytes, its manifest says"));
        fs::remove_file(&path).unwrap();
        assert!(open(0).err().unwrap().to_string().contains("2.parquet: No such file"));
    }
}
