//! A sweep's file with every run of it resolved and priced.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lidit_scaling::sweep::{Choice, Features, Given, Price, Settled, Sweep};
use lidit_train::{ConfigFile, Ranks, RunConfig};

use super::folder::{PlannedEvaluation, PlannedPoint, Points, SweepFolder};
use super::samples::Samples;
use super::shared_features::{SharedFeatures, share};
use crate::eval::{EvalConfig, ScenesConfig};
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

impl Grid {
    /// Reads the sweep at `path`, kept in `folder`, for runs on `ranks` each; `base` replaces the file's own, `rate`
    /// says how long the runs take.
    ///
    /// # Errors
    /// The file, or one of its runs: named.
    pub fn read(
        path: &Path,
        base: Option<&Path>,
        folder: &SweepFolder,
        ranks: Ranks,
        rate: Option<&RateArgs>,
    ) -> Result<Self> {
        let within = || format!("in sweep {}", path.display());
        let text = std::fs::read_to_string(path).with_context(|| format!("reading sweep {}", path.display()))?;
        let sweep = Sweep::parse(&text).with_context(within)?;
        let beside = path.parent().unwrap_or(Path::new(""));
        let base = base_config(&base.map_or_else(|| beside.join(&sweep.base), Path::to_owned)).with_context(within)?;
        let evaluate = sweep.evaluate.as_ref().map(|config| evaluation(&beside.join(config)));
        let evaluate = evaluate
            .transpose()
            .with_context(|| format!("in sweep {}: key `evaluate`", path.display()))?;
        let choices = sweep.choices().with_context(within)?;
        let runs = choices.len() as u64;
        let mut samples = Samples::priced_on(ranks);
        let mut resolved = Vec::with_capacity(choices.len());
        for choice in choices {
            let config = resolve(&sweep, &base, path, &choice, &mut samples);
            let config = config.and_then(|config| fits(config, evaluate.as_ref()));
            let config = config.with_context(|| format!("in sweep {}: run {}", path.display(), choice.name))?;
            resolved.push((choice, config));
        }
        let features = match sweep.features {
            Features::Own => Vec::new(),
            Features::Shared => share(&mut resolved, &prompts(evaluate.as_ref())?, folder, &mut samples)?,
        };
        let mut rates = BTreeMap::new();
        let points = resolved
            .into_iter()
            .map(|(choice, config)| GridPoint::of(choice, config, runs, rate, &mut samples, &mut rates));
        Ok(Self {
            points: points.collect::<Result<_>>()?,
            evaluate,
            features,
        })
    }

    /// All that is known of the runs of the sweep's file at `sweep` before they begin.
    pub fn planned(&self, sweep: &Path) -> Result<Points> {
        let points = self.points.iter().map(|point| point.planned.clone());
        let features_flops = self.features.iter().map(|features| features.flops).sum();
        Points::new(sweep, self.evaluate.clone(), features_flops, points.collect())
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
        runs: u64,
        rate: Option<&RateArgs>,
        samples: &mut Samples,
        rates: &mut BTreeMap<String, Option<f64>>,
    ) -> Result<Self> {
        let plan = samples.price(&config, runs)?;
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

fn base_config(path: &Path) -> Result<ConfigFile> {
    let base = ConfigFile::read(path)?;
    ensure!(
        base.stages()?.is_empty(),
        "its base {} has stages, which is not one run; sweep a config that has none",
        path.display()
    );
    Ok(base)
}

/// The config of a run whose pictures are of the size that `evaluate` asks for.
fn fits(config: RunConfig, evaluate: Option<&PlannedEvaluation>) -> Result<RunConfig> {
    if let Some(PlannedEvaluation { path, config: by }) = evaluate
        && let Some(scenes) = &by.scenes
    {
        scenes
            .check_size(&config)
            .with_context(|| format!("its evaluation {}", path.display()))?;
    }
    Ok(config)
}

fn evaluation(path: &Path) -> Result<PlannedEvaluation> {
    Ok(PlannedEvaluation {
        config: EvalConfig::load(path, &[])?,
        path: path.canonicalize()?,
    })
}

/// What the evaluation asks the encoders for, so that its prompts are encoded once for all runs.
fn prompts(evaluate: Option<&PlannedEvaluation>) -> Result<Vec<String>> {
    let scenes = evaluate.and_then(|evaluate| evaluate.config.scenes.as_ref());
    let prompts = scenes.map_or(Ok(Vec::new()), ScenesConfig::prompts)?;
    Ok(prompts.into_iter().map(|(_, prompt)| prompt.text).collect())
}

/// The run of a choice, with the sweep's rules applied.
fn resolve(sweep: &Sweep, base: &ConfigFile, path: &Path, choice: &Choice, samples: &mut Samples) -> Result<RunConfig> {
    let mut file = base.clone();
    for piece in &choice.pieces {
        file = file.with(piece.clone(), path)?;
    }
    let config = file.run(&[])?;
    let plan = samples.price(&config, 1)?;
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
