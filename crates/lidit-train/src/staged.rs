//! Training a config's stages in turn, each a run of its own in a folder of the run directory.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use lidit_dist::World;
use serde::{Deserialize, Serialize};

use crate::atomic::write_atomically;
use crate::checkpoint::Checkpoint;
use crate::config::RunConfig;
use crate::config_file::{ConfigFile, split_set};
use crate::resolve::Start;
use crate::run_dir::{RunDir, STAGES_FILE};
use crate::stages::{STAGES, is_stage_key};
use crate::start::StartConfig;
use crate::stop::Stop;
use crate::tensorboard::Ending;
use crate::train::{Ended, RunRequest, train_run};

/// Version of `stages.toml`.
const FORMAT_VERSION: u32 = 1;

/// `stages.toml` of a run directory with stages: every stage's resolved config.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stages {
    format_version: u32,
    stages: Vec<Stage>,
}

/// One stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stage {
    /// Its folder in the run directory.
    name: String,
    /// As the config file and `--set` gave it.
    config: RunConfig,
}

/// Trains with all ranks of `world` until the last step, of every stage where the config has stages, or until somebody
/// stops it. A stage begins when the one before it has done all its steps.
///
/// # Errors
/// Any problem with config, data, encoders or checkpoint before the first step; a lost peer, non-finite numbers or a
/// failed write in a step. Every rank fails when one does.
pub fn train(request: &RunRequest<'_>, world: &World, stop: &Stop) -> Result<Ended> {
    let mut lock = None;
    let mut text = Vec::new();
    if world.rank() == 0
        && let Some(stages) = Stages::open(request, &mut lock)?
    {
        text = serde_json::to_vec(&stages)?;
    }
    world.broadcast(&mut text, 0)?;
    if text.is_empty() {
        return train_run(request, world, stop);
    }
    let stages: Stages = serde_json::from_slice(&text).context("the stages from rank 0")?;
    stages.train(request, world, stop)
}

impl Stages {
    /// The stages that `request` asks for, and the lock of their run directory; `None` if it asks for a single run.
    fn open(request: &RunRequest<'_>, lock: &mut Option<RunDir>) -> Result<Option<Self>> {
        let root = &request.run_dir;
        let one_is_picked = request
            .sets
            .iter()
            .any(|set| matches!(split_set(set), Ok(("stage", _))));
        if request.start == Start::Resume && root.join(STAGES_FILE).exists() {
            ensure!(
                !one_is_picked,
                "{} holds all stages of its config: leave --set stage away",
                root.display()
            );
            *lock = Some(RunDir::hold(root)?);
            return Self::read(root).map(Some);
        }
        if root.join("config.toml").exists() {
            return Ok(None);
        }
        let config = (request.load)()?;
        if one_is_picked || config.stages()?.is_empty() {
            return Ok(None);
        }
        let stages = Self::of(&config, request.sets)?;
        *lock = Some(RunDir::hold_new(root)?);
        let path = root.join(STAGES_FILE);
        let text = toml::to_string(&stages).context("writing the stages as TOML")?;
        write_atomically(&path, text.as_bytes())?;
        Ok(Some(stages))
    }

    /// Every stage of `file` with `sets` over it.
    fn of(file: &ConfigFile, sets: &[String]) -> Result<Self> {
        let resolve = |name: String| {
            let pick = format!("stage=\"{name}\"");
            let sets: Vec<String> = sets.iter().cloned().chain([pick]).collect();
            let config = file.run(&sets).with_context(|| format!("stage {name}"))?;
            Ok(Stage { name, config })
        };
        let stages = file.stages()?.into_iter().map(resolve).collect::<Result<Vec<_>>>()?;
        let kind = |stage: &Stage| std::mem::discriminant(&stage.config.objective);
        for pair in stages.windows(2) {
            ensure!(
                kind(&pair[0]) == kind(&pair[1]),
                "stage {} has another objective.kind than stage {}: what the weights predict can't change",
                pair[1].name,
                pair[0].name
            );
        }
        Ok(Self {
            format_version: FORMAT_VERSION,
            stages,
        })
    }

    fn read(root: &Path) -> Result<Self> {
        let path = root.join(STAGES_FILE);
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let stages: Self = toml::from_str(&text).with_context(|| format!("parsing {}", path.display()))?;
        ensure!(
            stages.format_version == FORMAT_VERSION,
            "{} has format_version {}, this program reads {FORMAT_VERSION}",
            path.display(),
            stages.format_version
        );
        Ok(stages)
    }

    fn train(&self, request: &RunRequest<'_>, world: &World, stop: &Stop) -> Result<Ended> {
        let mut last = None;
        for (i, stage) in self.stages.iter().enumerate() {
            let run_dir = request.run_dir.join(&stage.name);
            let is_last = i + 1 == self.stages.len();
            let say = |what: &str| {
                if world.rank() == 0 {
                    eprintln!("stage {} ({} of {}){what}", stage.name, i + 1, self.stages.len());
                }
            };
            if !is_last && is_done(&run_dir, world)? {
                say(": done before");
                continue;
            }
            say("");
            let before = i
                .checked_sub(1)
                .map(|before| request.run_dir.join(&self.stages[before].name));
            let request = RunRequest {
                load: &|| stage.file(before.as_deref()),
                sets: &sets_of(request.sets, i),
                run_dir,
                device: request.device.clone(),
                device_name: request.device_name.clone(),
                ..*request
            };
            let ended = train_run(&request, world, stop).with_context(|| format!("stage {}", stage.name))?;
            let is_over = ended.ending == Ending::Done;
            last = Some(ended);
            if !is_over {
                break;
            }
        }
        let ended = last.context("no stage was trained")?;
        Ok(Ended {
            run_dir: request.run_dir.clone(),
            ..ended
        })
    }
}

impl Stage {
    /// This stage as a config of its own, which begins with the weights of the run directory `before`.
    fn file(&self, before: Option<&Path>) -> Result<ConfigFile> {
        let mut config = self.config.clone();
        if let (Some(StartConfig { run: run @ None, .. }), Some(before)) = (&mut config.start, before) {
            *run = Some(std::path::absolute(before)?);
        }
        ConfigFile::of(&config, Path::new(&self.name))
    }
}

impl RunDir {
    /// The run in `root` for readers: of a run with stages the newest that has a checkpoint, else the first.
    ///
    /// # Errors
    /// When `root` is no folder.
    pub fn find(root: &Path) -> Result<Self> {
        let run = Self::attach(root)?;
        if !root.join(STAGES_FILE).exists() {
            return Ok(run);
        }
        let mut found = None;
        for stage in Stages::read(root)?.stages {
            let Ok(stage) = Self::attach(&root.join(&stage.name)) else {
                break;
            };
            if found.is_none() || !Checkpoint::list(&stage.checkpoints())?.is_empty() {
                found = Some(stage);
            }
        }
        found.with_context(|| format!("no stage of {} has begun", root.display()))
    }
}

/// Whether the run in `run_dir` has done all its steps, as rank 0 sees it.
fn is_done(run_dir: &Path, world: &World) -> Result<bool> {
    let seen = world.rank() == 0 && run_dir.join("result.json").exists();
    Ok(world.max(u64::from(seen))? > 0)
}

/// Of a command line's `sets` those for stage `i`: the ones for all stages and its own.
fn sets_of(sets: &[String], i: usize) -> Vec<String> {
    let own = format!("{STAGES}.{i}.");
    sets.iter()
        .filter_map(|set| match set.strip_prefix(&own) {
            Some(own) => Some(own.to_owned()),
            None => (!is_stage_key(set)).then(|| set.clone()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_gets_the_sets_of_all_and_its_own() {
        let sets = ["train.steps=3", "stages.0.train.lr=1", "stages.1.train.lr=2"].map(str::to_owned);
        assert_eq!(sets_of(&sets, 0), ["train.steps=3", "train.lr=1"]);
        assert_eq!(sets_of(&sets, 1), ["train.steps=3", "train.lr=2"]);
    }
}
