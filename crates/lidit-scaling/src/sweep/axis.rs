//! One dimension of a sweep.

use serde::Deserialize;
use toml::{Table, Value};

use super::SweepError;

/// `[[axes]]` of a sweep file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Axis {
    /// How tables and plots call it.
    pub name: String,
    /// The key that plain values set, such as `data.max_samples`.
    #[serde(default)]
    pub key: Option<String>,
    /// Plain values of `key`, or tables: a `name` and a piece of a run's config, which may `include` parts.
    values: Vec<Value>,
}

/// A value of an axis.
#[derive(Clone, Debug, PartialEq)]
pub struct AxisValue {
    /// As tables show it.
    pub name: String,
    /// Its part of a run's name.
    pub label: String,
    /// What it changes in the run's config.
    pub piece: Table,
}

impl Axis {
    /// The values of this axis, which is number `index` of its sweep.
    pub(super) fn values(&self, index: usize) -> Result<Vec<AxisValue>, SweepError> {
        let key = |rest: &str| format!("axes.{index}.{rest}");
        check_name(&self.name, &key("name"))?;
        if self.values.is_empty() {
            return Err(SweepError::key(
                key("values"),
                "is empty: an axis without values leaves no runs",
            ));
        }
        if self.key.as_ref().is_some_and(|key| key.split('.').any(str::is_empty)) {
            return Err(SweepError::key(
                key("key"),
                "write it as a run's key, such as data.max_samples",
            ));
        }
        let values = self.values.iter().enumerate();
        values
            .map(|(i, value)| self.value(value, &key(&format!("values.{i}"))))
            .collect()
    }

    fn value(&self, value: &Value, at: &str) -> Result<AxisValue, SweepError> {
        let Value::Table(table) = value else {
            let Some(key) = &self.key else {
                let reason = "a plain value needs the axis' `key`; without one, write { name = .., a piece of config }";
                return Err(SweepError::key(at, reason));
            };
            let name = match value {
                Value::String(text) => text.clone(),
                value => value.to_string(),
            };
            let label = format!("{}{name}", self.name);
            check_name(&label, at)?;
            return Ok(AxisValue {
                name,
                label,
                piece: nested(key, value.clone()),
            });
        };
        let mut piece = table.clone();
        let Some(Value::String(name)) = piece.remove("name") else {
            return Err(SweepError::key(at, "a piece of config needs a `name`"));
        };
        check_name(&name, &format!("{at}.name"))?;
        Ok(AxisValue {
            label: name.clone(),
            name,
            piece,
        })
    }
}

/// `a.b.c = value` as a table.
fn nested(key: &str, value: Value) -> Table {
    let (head, value) = match key.split_once('.') {
        None => (key, value),
        Some((head, rest)) => (head, Value::Table(nested(rest, value))),
    };
    Table::from_iter([(head.to_owned(), value)])
}

/// Names become folders.
fn check_name(name: &str, key: &str) -> Result<(), SweepError> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
    if !name.is_empty() && name.len() <= 80 && !name.starts_with('.') && name.chars().all(is_plain) {
        return Ok(());
    }
    let reason = format!(
        "{name:?} becomes part of a folder's name: at most 80 of letters, digits, `.`, `_`, `+`, `-`, no dot first"
    );
    Err(SweepError::key(key, reason))
}
