//! A sweep's file with every run of it resolved and priced.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use lidit_data::Dataset;
use lidit_scaling::sweep::{Choice, Features, Given, Price, Settled, Sweep};
use lidit_train::{ConfigFile, Remember, RunConfig, TokenSample};
use sha2::{Digest, Sha256};

use super::folder::{PlannedEvaluation, PlannedPoint, Points, SweepFolder};
use crate::eval::EvalConfig;
use crate::fetch;
use crate::plan::{Plan, RateArgs};

/// A sweep, ready to be planned or run.
pub struct Grid {
    /// The evaluation that finished runs are put through.
    pub evaluate: Option<PlannedEvaluation>,
    /// In the order of the file: the last axis fastest.
    pub points: Vec<GridPoint>,
    /// What runs share, where they share features.
    pub features: Vec<SharedFeatures>,
}

/// One run.
pub struct GridPoint {
    /// Its numbers.
    pub planned: PlannedPoint,
    /// What it trains on.
    pub config: RunConfig,
    /// What it costs.
    pub plan: Plan,
    /// FLOPs a second of one device, where it is known.
    pub flops_per_s: Option<f64>,
}

/// Features that several runs read.
pub struct SharedFeatures {
    /// Their folder.
    pub folder: PathBuf,
    /// Writes them: the config of the run with the most samples.
    pub config: RunConfig,
    /// FLOPs of encoding, once.
    pub flops: f64,
    /// Bytes on the disk.
    pub bytes: f64,
}

/// Data that was opened, by what decides its captions' tokens.
#[derive(Default)]
struct Samples(BTreeMap<String, Opened>);

/// What prices take of a run's data.
struct Opened {
    /// Unique samples.
    unique: u64,
    /// Captions, tokenized for the run's encoders.
    sample: TokenSample,
}

impl Grid {
    /// Reads the sweep at `path`, kept in `folder`, for runs of `world` ranks each; `base` replaces the file's own, `rate`
    /// says how long the runs take.
    ///
    /// # Errors
    /// The file, or one of its runs: named.
    pub fn read(
        path: &Path,
        base: Option<&Path>,
        folder: &SweepFolder,
        world: u64,
        rate: Option<&RateArgs>,
    ) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading sweep {}", path.display()))?;
        let within = || format!("in sweep {}", path.display());
        let sweep = Sweep::parse(&text).with_context(within)?;
        let beside = path.parent().unwrap_or(Path::new(""));
        let base_path = base.map_or_else(|| beside.join(&sweep.base), Path::to_owned);
        let base = ConfigFile::read(&base_path).with_context(within)?;
        ensure!(
            base.stages()?.is_empty(),
            "in sweep {}: its base {} has stages, which is not one run; sweep a config that has none",
            path.display(),
            base_path.display()
        );
        let evaluate = sweep.evaluate.as_ref().map(|config| evaluation(&beside.join(config)));
        let evaluate = evaluate
            .transpose()
            .with_context(|| format!("in sweep {}: key `evaluate`", path.display()))?;
        let choices = sweep.choices().with_context(within)?;
        let runs = choices.len() as u64;
        let mut samples = Samples::default();
        let mut resolved = Vec::with_capacity(choices.len());
        for choice in choices {
            let config = resolve(&sweep, &base, path, &choice, &mut samples)
                .with_context(|| format!("in sweep {}: run {}", path.display(), choice.name))?;
            resolved.push((choice, config));
        }
        let shared = match sweep.features {
            Features::Own => BTreeMap::new(),
            Features::Shared => share(&mut resolved, folder)?,
        };
        let mut rates = BTreeMap::new();
        let mut points = Vec::with_capacity(resolved.len());
        for (choice, config) in resolved {
            let point = GridPoint::of(choice, config, (runs, world), rate, &mut samples, &mut rates)?;
            points.push(point);
        }
        let features = shared.into_iter().map(|(folder, config)| {
            let plan = price(&config, &mut samples, 1, 1)?;
            Ok(SharedFeatures {
                folder,
                config,
                flops: plan.encoders.cache_flops,
                bytes: plan.encoders.cache_bytes,
            })
        });
        Ok(Self {
            features: features.collect::<Result<_>>()?,
            evaluate,
            points,
        })
    }

    /// All that is known of the runs of the sweep's file at `sweep` before they begin.
    pub fn planned(&self, sweep: &Path) -> Result<Points> {
        let points = self.points.iter().map(|point| point.planned.clone());
        let features_flops = self.features.iter().map(|features| features.flops).sum();
        Points::new(sweep, self.evaluate.clone(), features_flops, points.collect())
    }
}

impl SharedFeatures {
    /// What their config, log and lock are called.
    pub fn name(&self) -> String {
        let key = self.folder.file_name().unwrap_or_default();
        format!("features-{}", key.to_string_lossy())
    }
}

impl GridPoint {
    /// Whether training or validation takes its states from the features in `folder`.
    pub fn reads(&self, folder: &Path) -> bool {
        let held_out = self.config.validation.as_ref().and_then(|set| set.features.as_ref());
        self.config
            .encoders
            .features
            .iter()
            .chain(held_out)
            .any(|path| path == folder)
    }

    fn of(
        choice: Choice,
        config: RunConfig,
        (runs, world): (u64, u64),
        rate: Option<&RateArgs>,
        samples: &mut Samples,
        rates: &mut BTreeMap<String, Option<f64>>,
    ) -> Result<Self> {
        let plan = price(&config, samples, runs, world)?;
        // One measurement serves all runs of a network.
        let network = serde_json::to_string(&(&config.model, config.train.precision, config.train.micro_batch))?;
        let flops_per_s = if let Some(known) = rates.get(&network) {
            *known
        } else {
            let sample = &samples.of(&config)?.sample;
            let measured = rate
                .map(|rate| rate.flops_per_s(&config, sample))
                .transpose()?
                .flatten();
            rates.insert(network, measured);
            measured
        };
        let side = u64::from(config.data.image_size / config.token_pixels()?);
        Ok(Self {
            planned: PlannedPoint {
                name: choice.name,
                axes: choice.axes,
                params: plan.params.total(),
                refiner_params: plan.params.refiners,
                flops_per_image: 3.0 * plan.forward,
                image_tokens: side * side,
                steps: config.train.steps,
                global_batch: config.train.global_batch as u64,
                lr: config.train.lr,
                samples_seen: config.train.steps * config.train.global_batch as u64,
                unique_samples: samples.of(&config)?.unique,
                c_model: plan.compute.model,
                c_encoder: plan.compute.encoder,
                memory_bytes: plan.memory.total(),
            },
            config,
            plan,
            flops_per_s,
        })
    }
}

impl Samples {
    /// Of this config's data and encoders.
    fn of(&mut self, config: &RunConfig) -> Result<&Opened> {
        Ok(match self.0.entry(captions_key(config)?) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let dataset = Dataset::open(&config.data)?;
                let sample = TokenSample::take(&config.encoders, &dataset, &fetch::resolve_model)?;
                let unique = dataset.len();
                entry.insert(Opened { unique, sample })
            }
        })
    }
}

fn evaluation(path: &Path) -> Result<PlannedEvaluation> {
    Ok(PlannedEvaluation {
        config: EvalConfig::load(path, &[])?,
        path: path.canonicalize()?,
    })
}

/// The run of a choice, with the sweep's rules applied.
fn resolve(sweep: &Sweep, base: &ConfigFile, path: &Path, choice: &Choice, samples: &mut Samples) -> Result<RunConfig> {
    let mut file = base.clone();
    for piece in &choice.pieces {
        file = file.with(piece.clone(), path)?;
    }
    let config = file.run(&[])?;
    let plan = price(&config, samples, 1, 1)?;
    let given = Given {
        samples: samples.of(&config)?.unique,
        steps: config.train.steps,
        batch: config.train.global_batch as u64,
    };
    let price = Price {
        parameters: plan.params.total(),
        flops_per_image: 3.0 * plan.forward,
    };
    file.run(&sets(&sweep.rules.settle(given, price, choice.budget)))
}

/// What the rules settled, as `--set` would say it.
fn sets(settled: &Settled) -> Vec<String> {
    let keys = [
        (
            "data.max_samples",
            settled.max_samples.map(|samples| samples.to_string()),
        ),
        ("train.steps", settled.steps.map(|steps| steps.to_string())),
        ("train.global_batch", settled.batch.map(|batch| batch.to_string())),
        ("train.lr", settled.lr.map(|lr| format!("{lr:e}"))),
        (
            "train.warmup_steps",
            settled.warmup_steps.map(|steps| steps.to_string()),
        ),
    ];
    keys.into_iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", value?)))
        .collect()
}

fn price(config: &RunConfig, samples: &mut Samples, runs: u64, world: u64) -> Result<Plan> {
    let sample = samples.of(config)?.sample.clone();
    Plan::of(config, sample, runs, world)
}

/// Points runs with the same encoders and data at one folder of features, which has the samples of the run that needs most,
/// and their validation sets likewise. Answers what each folder is written from.
fn share(resolved: &mut [(Choice, RunConfig)], folder: &SweepFolder) -> Result<BTreeMap<PathBuf, RunConfig>> {
    let mut largest: BTreeMap<String, RunConfig> = BTreeMap::new();
    for (_, config) in resolved.iter() {
        for config in [Some(config.clone()), held_out(config)].into_iter().flatten() {
            let samples = |config: &RunConfig| config.data.max_samples.unwrap_or(u64::MAX);
            let key = encoding_key(&config)?;
            match largest.get(&key) {
                Some(other) if samples(other) >= samples(&config) => {}
                _ => {
                    largest.insert(key, config);
                }
            }
        }
    }
    let mut folders = BTreeMap::new();
    let mut by_key = BTreeMap::new();
    for (key, mut config) in largest {
        config.encoders.features = None;
        config.validation = None;
        let text = format!("{key}{:?}", config.data.max_samples);
        let digest = Sha256::digest(text.as_bytes());
        let short = digest
            .iter()
            .take(6)
            .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        let path = std::path::absolute(folder.features(&short))?;
        by_key.insert(key, path.clone());
        folders.insert(path, config);
    }
    for (_, config) in resolved {
        let held_out = held_out(config).map(|config| encoding_key(&config)).transpose()?;
        config.encoders.features = by_key.get(&encoding_key(config)?).cloned();
        if let (Some(validation), Some(key)) = (&mut config.validation, held_out) {
            validation.features = by_key.get(&key).cloned();
        }
    }
    Ok(folders)
}

/// The run whose data is this run's validation set.
fn held_out(config: &RunConfig) -> Option<RunConfig> {
    let validation = config.validation.as_ref()?;
    Some(validation.set().in_place_of_data(config))
}

/// What decides a caption's states: runs that agree in it can share features.
fn encoding_key(config: &RunConfig) -> Result<String> {
    let mut config = config.clone();
    config.encoders.features = None;
    config.encoders.remember = Remember::Nothing;
    config.data.max_samples = None;
    config.validation = None;
    let prompts = if config.train.sample_every > 0 {
        config.sample.prompts
    } else {
        Vec::new()
    };
    let vae = serde_json::to_string(&config.vae)?;
    Ok(serde_json::to_string(&(&config.encoders, &config.data, vae, prompts))?)
}

/// What decides the sample of captions that prices are taken from.
fn captions_key(config: &RunConfig) -> Result<String> {
    let mut encoders = config.encoders.clone();
    encoders.features = None;
    encoders.remember = Remember::Nothing;
    Ok(serde_json::to_string(&(&encoders, &config.data))?)
}
