//! Stages: runs that follow each other in one config, each from the weights that the one before it left.

use anyhow::{Context, Result, bail, ensure};
use toml::{Table, Value};

use crate::config_file::{merge, split_set};

/// The list of stages in a config file.
pub(crate) const STAGES: &str = "stages";

/// The pseudo-key that picks one of them.
const STAGE: &str = "stage";

/// What a stage may change. The network, the objective's kind and the encoders stay: weights carry over.
const STAGE_TABLES: [&str; 6] = ["data", "encoders", "objective", "sample", "start", "train"];

/// What a stage may change of `[encoders]`: where states come from, never what they are.
const STAGE_ENCODERS: [&str; 3] = ["cache", "features", "remember"];

/// Whether a `--set` speaks of stages, so must be applied before one is picked.
pub(crate) fn is_stage_key(set: &str) -> bool {
    split_set(set)
        .is_ok_and(|(key, _)| key == STAGE || key.strip_prefix(STAGES).is_some_and(|rest| rest.starts_with('.')))
}

/// The stages of a file by name, each with the keys that it changes; none in a file that is one run.
pub(crate) fn stage_tables(table: &Table) -> Result<Vec<(String, Table)>> {
    let Some(stages) = table.get(STAGES) else {
        return Ok(Vec::new());
    };
    let Value::Array(stages) = stages else {
        bail!("key `stages`: write each stage as [[stages]]");
    };
    ensure!(
        !stages.is_empty(),
        "key `stages` is empty: write each stage as [[stages]]"
    );
    let mut named: Vec<(String, Table)> = Vec::new();
    for (i, stage) in stages.iter().enumerate() {
        let (name, table) = stage_table(stage).with_context(|| format!("key `stages.{i}`"))?;
        ensure!(
            named.iter().all(|(other, _)| *other != name),
            "key `stages.{i}.name`: there is another stage `{name}`"
        );
        ensure!(
            i == 0 || table.contains_key("start"),
            "key `stages.{i}.start` is missing: say what `{name}` takes from the stage before it, as [stages.start] with \
             weights, optimizer and fresh"
        );
        named.push((name, table));
    }
    Ok(named)
}

/// The table of one run: the file's own, or of a file with stages the one that the key `stage` names.
pub(crate) fn select_stage(mut table: Table) -> Result<Table> {
    let stages = stage_tables(&table)?;
    let wanted = table.remove(STAGE);
    table.remove(STAGES);
    if stages.is_empty() {
        ensure!(wanted.is_none(), "key `stage`: this config has no stages");
        return Ok(table);
    }
    let names = || {
        stages
            .iter()
            .map(|(name, _)| name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    // `--set stage=256` is read as a number.
    let wanted = match wanted {
        Some(Value::String(name)) => name,
        Some(Value::Integer(number)) => number.to_string(),
        Some(_) => bail!("key `stage`: it must be a stage's name: {}", names()),
        None => bail!("this config has stages: name one with --set stage=NAME: {}", names()),
    };
    let Some((_, stage)) = stages.iter().find(|(name, _)| *name == wanted) else {
        bail!("key `stage`: there is no stage `{wanted}`, only {}", names());
    };
    merge(&mut table, stage.clone());
    Ok(table)
}

fn stage_table(stage: &Value) -> Result<(String, Table)> {
    let mut table = stage.as_table().context("it must be a table")?.clone();
    let Some(Value::String(name)) = table.remove("name") else {
        bail!("name is missing: the stage's folder in the run directory");
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    ensure!(
        !name.is_empty() && !name.starts_with('.') && name.chars().all(plain),
        "name `{name}` is a folder's name: use letters, digits, `-`, `_` and `.`"
    );
    for key in table.keys() {
        ensure!(
            STAGE_TABLES.contains(&key.as_str()),
            "`{key}` is not for a stage to change, only {}",
            STAGE_TABLES.join(", ")
        );
    }
    if let Some(Value::Table(encoders)) = table.get("encoders") {
        for key in encoders.keys() {
            ensure!(
                STAGE_ENCODERS.contains(&key.as_str()),
                "`encoders.{key}` is not for a stage to change: its weights come from a stage with other states"
            );
        }
    }
    Ok((name, table))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn table(text: &str) -> Table {
        text.parse().unwrap()
    }

    const TWO: &str = "
        [train]
        steps = 5
        lr = 1.0
        [[stages]]
        name = \"256\"
        [[stages]]
        name = \"512\"
        [stages.train]
        steps = 7
        [stages.start]
        weights = \"raw\"
    ";

    #[test]
    fn a_stage_is_the_file_with_its_own_keys_over_it() {
        let pick = |stage: &str| select_stage(table(&format!("stage = {stage}\n{TWO}"))).unwrap();
        assert_eq!(pick("\"256\""), table("[train]\nsteps = 5\nlr = 1.0"));
        let second = table("[train]\nsteps = 7\nlr = 1.0\n[start]\nweights = \"raw\"");
        assert_eq!(pick("512"), second);
        assert_eq!(select_stage(table("a = 1")).unwrap(), table("a = 1"));
    }

    #[test]
    fn what_is_no_stage_is_refused_with_the_way_out() {
        let message = |text: &str| format!("{:#}", select_stage(table(text)).unwrap_err());
        assert!(message(TWO).contains("--set stage=NAME: 256, 512"));
        assert!(message(&format!("stage = \"64\"\n{TWO}")).contains("no stage `64`, only 256, 512"));
        assert!(message("stage = \"64\"").contains("no stages"));
        let broken = [
            ("[[stages]]\n", "name is missing"),
            ("[[stages]]\nname = \"../a\"\n", "folder's name"),
            (
                "[[stages]]\nname = \"a\"\n[[stages]]\nname = \"a\"\n",
                "another stage `a`",
            ),
            ("[[stages]]\nname = \"a\"\n[[stages]]\nname = \"b\"\n", "stages.1.start"),
            (
                "[[stages]]\nname = \"a\"\n[stages.model]\ndepth = 3\n",
                "`model` is not",
            ),
            (
                "[[stages]]\nname = \"a\"\n[stages.encoders]\npooling = \"all\"\n",
                "`encoders.pooling` is not",
            ),
            ("stages = 3", "[[stages]]"),
        ];
        for (text, part) in broken {
            let message = message(text);
            assert!(message.contains(part), "{message}");
        }
    }
}
