//! Writing features: every rank encodes files of its own, and each finished one stays whatever happens.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn::tensor::Device;
use lidit_data::{Dataset, FeatureRow, ManifestShard, PromptFeatures, Subset};
use lidit_dist::World;
use lidit_encoders::PromptEncoder;

use super::folder::{FeatureFolder, Listing};
use super::identity::{FORMAT_VERSION, FeatureIdentity, FeatureManifest};
use super::pictures::Pictures;
use super::progress::Progress;
use super::states::{pack, pack_prefix};
use crate::conditioner::{fingerprint, load_encoders};
use crate::config::RunConfig;
use crate::latents::LatentSpace;
use crate::stop::Stop;

/// The files that are not a part of the data set's captions.
const PREFIX: &str = "prefix";
const PROMPTS: &str = "prompts";

/// What to encode, where to, and with what.
pub struct FeatureRequest<'a> {
    /// The run whose captions and encoders are meant.
    pub config: &'a RunConfig,
    /// The folder: new, empty, or an earlier attempt at the same features.
    pub out: &'a Path,
    /// Where to compute.
    pub device: Device,
    /// Turns a language model's name or path into its file.
    pub locate: &'a dyn Fn(&str) -> Result<PathBuf>,
}

/// What [`write_features`] says when it leaves.
#[derive(Clone, Debug, PartialEq)]
pub enum FeaturesWritten {
    /// The folder is complete.
    Done(Box<FeatureManifest>),
    /// Somebody asked to stop; the same call goes on.
    Stopped {
        /// Samples whose features are on the disk.
        samples: u64,
        /// Of so many.
        total: u64,
    },
}

/// Encodes every caption of the data set's part, the empty caption and the prompts of the previews, with all ranks of
/// `world`.
///
/// A file holds `encoders.cache.rows_per_file` samples and is encoded by one rank; what is encoded together depends on the
/// data alone, so any number of ranks writes the same bytes. Files that an earlier attempt finished are verified and kept.
/// In a complete folder this verifies every file, encodes damaged ones again, and adds prompts that are new.
///
/// # Errors
/// The folder holds other features; a model or the data can't be read; a write failed; a peer was lost.
pub fn write_features(request: &FeatureRequest<'_>, world: &World, stop: &Stop) -> Result<FeaturesWritten> {
    let dataset = Dataset::open(&request.config.data)?;
    let latents = LatentSpace::open(&request.config.vae, &request.config.model, &request.device)?;
    for size in dataset.order(0, 1).sizes() {
        latents.check_size(size, request.config.model.patch_size)?;
    }
    let identity = FeatureIdentity::of(&request.config.encoders, &dataset, &latents, request.locate)?;
    let folder = FeatureFolder::at(request.out);
    // Rank 0 alone takes the lock and says what is there, so that all ranks share the work alike.
    let (_lock, listing) = match world.rank() {
        0 => (folder.claim(&identity)?, folder.listing()?),
        _ => (None, Listing::new()),
    };
    let listing = from_rank(world, 0, &listing)?;
    let writer = Writer {
        request,
        members: dataset.subset().to_owned(),
        dataset,
        latents,
        identity,
        folder,
        listing,
        encoders: OnceCell::new(),
    };
    writer.run(world, stop)
}

/// `value` as rank `root` has it.
fn from_rank<T: serde::Serialize + serde::de::DeserializeOwned>(world: &World, root: usize, value: &T) -> Result<T> {
    let mut bytes = serde_json::to_vec(value)?;
    world.broadcast(&mut bytes, root)?;
    serde_json::from_slice(&bytes).with_context(|| format!("what rank {root} says of the features"))
}

struct Writer<'a> {
    request: &'a FeatureRequest<'a>,
    dataset: Dataset,
    latents: LatentSpace,
    members: Subset,
    identity: FeatureIdentity,
    folder: FeatureFolder,
    listing: Listing,
    /// Loaded when the first caption must be encoded.
    encoders: OnceCell<Vec<PromptEncoder>>,
}

impl Writer<'_> {
    fn run(&self, world: &World, stop: &Stop) -> Result<FeaturesWritten> {
        let common = match world.rank() {
            0 => Some((self.prefix()?, self.prompts()?)),
            _ => None,
        };
        let Some(files) = self.groups(world, stop)? else {
            return Ok(FeaturesWritten::Stopped {
                samples: self.written()?,
                total: self.members.len(),
            });
        };
        let manifest = common.map(|common| self.finish(common, files)).transpose()?;
        let manifest: Option<FeatureManifest> = from_rank(world, 0, &manifest)?;
        manifest
            .map(|manifest| FeaturesWritten::Done(Box::new(manifest)))
            .context("rank 0 completed no manifest")
    }

    fn finish(
        &self,
        (prefix, prompts): (ManifestShard, ManifestShard),
        files: Vec<ManifestShard>,
    ) -> Result<FeatureManifest> {
        let manifest = FeatureManifest {
            format_version: FORMAT_VERSION,
            lidit_version: env!("CARGO_PKG_VERSION").to_owned(),
            fingerprint: self.identity.fingerprint()?,
            identity: self.identity.clone(),
            samples: self.members.len(),
            captions: files.iter().map(|file| file.rows).sum(),
            bytes: files.iter().chain([&prefix, &prompts]).map(|file| file.bytes).sum(),
            prefix,
            prompts,
            files,
        };
        self.folder.finish(&manifest)?;
        Ok(manifest)
    }

    /// Every file of samples, in order, from whatever rank; `None` if somebody asked to stop before all were there.
    ///
    /// In each round a rank takes one file: those that are there first, to be verified, then those that are missing. The
    /// sum at its end tells everybody of a wish to stop, and no rank runs ahead by more than a file.
    fn groups(&self, world: &World, stop: &Stop) -> Result<Option<Vec<ManifestShard>>> {
        let per_file = self.identity.cache.rows_per_file;
        let (there, missing): (Vec<u64>, Vec<u64>) =
            (0..self.members.len().div_ceil(per_file)).partition(|group| self.listing.contains_key(&item(*group)));
        let order = [there, missing].concat();
        let mut progress = Progress::new(self.members.len(), world.rank());
        let mut own: BTreeMap<u64, ManifestShard> = BTreeMap::new();
        let mut done = 0;
        let rounds = order.chunks(world.size());
        let last = rounds.len();
        for (round, groups) in rounds.enumerate() {
            if let Some(&group) = groups.get(world.rank()) {
                own.insert(group, self.group(group)?);
            }
            done += groups
                .iter()
                .map(|group| self.places(*group).count() as u64)
                .sum::<u64>();
            let mut stopping = [f64::from(u8::from(stop.is_requested()))];
            world.sum_f64(&mut stopping)?;
            progress.advance(done);
            if stopping[0] > 0.0 && round + 1 < last {
                return Ok(None);
            }
        }
        let mut all = BTreeMap::new();
        for rank in 0..world.size() {
            let theirs: Vec<(u64, ManifestShard)> = from_rank(world, rank, &own.clone().into_iter().collect())?;
            all.extend(theirs);
        }
        Ok(Some(all.into_values().collect()))
    }

    /// The file of one group, there before or written now.
    fn group(&self, group: u64) -> Result<ManifestShard> {
        let item = item(group);
        if let Some(entry) = self.kept(&item)? {
            return Ok(entry);
        }
        let mut ids: Vec<u64> = self.places(group).map(|index| self.members.id(index)).collect();
        ids.sort_unstable();
        let samples = self.dataset.captions_of(&ids)?;
        let texts: BTreeSet<&str> = samples
            .iter()
            .flat_map(|(_, texts)| texts)
            .map(String::as_str)
            .collect();
        let encoded = self.encode(&texts)?;
        let with_captions: Vec<u64> = samples.iter().map(|(id, _)| *id).collect();
        let mut pictures = match self.identity.latents {
            Some(_) => self.pictures().encode(&with_captions)?,
            None => HashMap::new(),
        };
        let mut rows = Vec::new();
        for (id, captions) in &samples {
            let mut met = BTreeSet::new();
            for caption in captions.iter().filter(|caption| met.insert(caption.as_str())) {
                let mut row = row(*id, caption, &encoded)?;
                // On a sample's first row alone.
                row.latents = pictures.remove(id);
                rows.push(row);
            }
        }
        self.folder.put(&item, &rows, self.num_encoders())
    }

    fn pictures(&self) -> Pictures<'_> {
        Pictures {
            dataset: &self.dataset,
            latents: &self.latents,
            precision: self.identity.cache.precision,
            device: self.request.device.clone().without_autodiff(),
        }
    }

    /// The constant prefix of every encoder, as one row.
    fn prefix(&self) -> Result<ManifestShard> {
        if let Some(entry) = self.kept(PREFIX)? {
            return Ok(entry);
        }
        let precision = self.identity.cache.precision;
        let row = FeatureRow {
            id: 0,
            caption: String::new(),
            prompts: self
                .encoders()?
                .iter()
                .map(|encoder| pack_prefix(encoder.prefix(), precision))
                .collect(),
            latents: None,
        };
        self.folder.put(PREFIX, &[row], self.num_encoders())
    }

    /// The empty caption and the prompts of the previews; those of an earlier list stay.
    fn prompts(&self) -> Result<ManifestShard> {
        let mut kept: Vec<(ManifestShard, Vec<FeatureRow>)> = Vec::new();
        for file in self.listing.get(PROMPTS).into_iter().flatten() {
            if let Some(entry) = self.folder.verified(file, self.num_encoders())? {
                let rows = self.folder.rows(&entry, self.num_encoders())?;
                kept.push((entry, rows));
            }
        }
        let mut rows: Vec<FeatureRow> = Vec::new();
        for row in kept.iter().flat_map(|(_, rows)| rows) {
            if rows.iter().all(|own| own.caption != row.caption) {
                rows.push(row.clone());
            }
        }
        let wanted = std::iter::once("").chain(self.request.config.sample.prompts.iter().map(String::as_str));
        let missing: BTreeSet<&str> = wanted
            .filter(|text| rows.iter().all(|row| row.caption != *text))
            .collect();
        if let ([(entry, _)], true) = (kept.as_slice(), missing.is_empty()) {
            return Ok(entry.clone());
        }
        let encoded = self.encode(&missing)?;
        for caption in missing {
            rows.push(row(0, caption, &encoded)?);
        }
        for (row, id) in rows.iter_mut().zip(0..) {
            row.id = id;
        }
        let entry = self.folder.put(PROMPTS, &rows, self.num_encoders())?;
        for (old, _) in kept.iter().filter(|(old, _)| old.file != entry.file) {
            self.folder.remove(&old.file)?;
        }
        Ok(entry)
    }

    /// The file that an earlier attempt left of `item`, if it is whole.
    fn kept(&self, item: &str) -> Result<Option<ManifestShard>> {
        for file in self.listing.get(item).into_iter().flatten() {
            if let Some(entry) = self.folder.verified(file, self.num_encoders())? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// What every encoder says of each of `texts`.
    fn encode<'t>(&self, texts: &BTreeSet<&'t str>) -> Result<HashMap<&'t str, Vec<PromptFeatures>>> {
        let precision = self.identity.cache.precision;
        let texts: Vec<&str> = texts.iter().copied().collect();
        let mut encoded: HashMap<&str, Vec<PromptFeatures>> = HashMap::new();
        for encoder in self.encoders()? {
            for (text, states) in texts.iter().zip(encoder.encode(&texts)?) {
                let packed = pack(&states, encoder.prefix(), precision)?;
                encoded.entry(text).or_default().push(packed);
            }
        }
        Ok(encoded)
    }

    fn encoders(&self) -> Result<&[PromptEncoder]> {
        if let Some(encoders) = self.encoders.get() {
            return Ok(encoders);
        }
        let encoders = load_encoders(&self.request.config.encoders, &self.request.device, self.request.locate)?;
        for (i, (encoder, identity)) in encoders.iter().zip(&self.identity.encoders).enumerate() {
            ensure!(
                fingerprint(encoder.spec())? == identity.fingerprint,
                "encoders.llm.{i} changed on the disk while its features were written: run the command again"
            );
        }
        Ok(self.encoders.get_or_init(|| encoders))
    }

    /// The members of a group, by their places in the data set's part.
    fn places(&self, group: u64) -> std::ops::Range<u64> {
        let per_file = self.identity.cache.rows_per_file;
        group * per_file..((group + 1) * per_file).min(self.members.len())
    }

    /// Samples whose files are there now.
    fn written(&self) -> Result<u64> {
        let listing = self.folder.listing()?;
        let groups = (0..self.members.len().div_ceil(self.identity.cache.rows_per_file))
            .filter(|group| listing.contains_key(&item(*group)));
        Ok(groups.map(|group| self.places(group).count() as u64).sum())
    }

    fn num_encoders(&self) -> usize {
        self.identity.encoders.len()
    }
}

fn item(group: u64) -> String {
    format!("group-{group:05}")
}

fn row(id: u64, caption: &str, encoded: &HashMap<&str, Vec<PromptFeatures>>) -> Result<FeatureRow> {
    let prompts = encoded.get(caption);
    Ok(FeatureRow {
        id,
        caption: caption.to_owned(),
        prompts: prompts
            .with_context(|| format!("caption `{caption}` was not encoded"))?
            .clone(),
        latents: None,
    })
}
