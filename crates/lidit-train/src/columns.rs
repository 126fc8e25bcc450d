//! The numbers of a logged step, as burn-train's metrics.

use std::sync::Arc;

use burn_train::metric::{
    MetricAttributes, MetricDefinition, MetricEntry, MetricId, NumericAttributes, NumericEntry, SerializedEntry,
};
use burn_train::renderer::MetricState;

use crate::metrics::StepRecord;
use crate::readable::{seconds_text, short};

/// A number that the dashboard shows of each logged step.
struct Column {
    name: &'static str,
    unit: &'static str,
    higher_is_better: bool,
    of: fn(&StepRecord) -> f64,
}

const COLUMNS: [Column; 5] = [
    Column {
        name: "loss",
        unit: "",
        higher_is_better: false,
        of: |r| r.loss,
    },
    Column {
        name: "grad",
        unit: "",
        higher_is_better: false,
        of: |r| r.grad_norm,
    },
    Column {
        name: "lr",
        unit: "",
        higher_is_better: false,
        of: |r| r.lr,
    },
    Column {
        name: "epoch",
        unit: "",
        higher_is_better: true,
        of: |r| r.epoch,
    },
    Column {
        name: "speed",
        unit: "img/s",
        higher_is_better: true,
        of: |r| r.images_per_s,
    },
];
const ETA: &str = "eta";

/// The metrics that [`states`] fills, in the order in which they are shown.
pub(crate) fn definitions() -> Vec<MetricDefinition> {
    let mut all: Vec<_> = COLUMNS
        .iter()
        .map(|column| definition(column.name, numeric(column)))
        .collect();
    all.push(definition(ETA, MetricAttributes::None));
    all
}

/// A logged step, `seconds_left` before the end of the run.
pub(crate) fn states(record: &StepRecord, seconds_left: f64) -> Vec<MetricState> {
    let mut all: Vec<_> = COLUMNS
        .iter()
        .map(|column| {
            let value = (column.of)(record);
            let text = format!("{} {}", short(value), column.unit);
            let number = NumericEntry::Value(value);
            let entry = entry(column.name, text.trim_end(), &number.serialize());
            // A plot has no place for what is not a number; the text says it.
            MetricState::Numeric(entry, value.is_finite().then_some(number))
        })
        .collect();
    let eta = seconds_text(seconds_left);
    all.push(MetricState::Generic(entry(ETA, &eta, &eta)));
    all
}

fn id(name: &str) -> MetricId {
    MetricId::new(Arc::new(name.to_owned()))
}

fn numeric(column: &Column) -> MetricAttributes {
    let unit = (!column.unit.is_empty()).then(|| column.unit.to_owned());
    NumericAttributes {
        unit,
        higher_is_better: column.higher_is_better,
    }
    .into()
}

fn definition(name: &str, attributes: MetricAttributes) -> MetricDefinition {
    MetricDefinition {
        metric_id: id(name),
        name: Arc::new(name.to_owned()),
        description: None,
        attributes,
    }
}

fn entry(name: &str, formatted: &str, serialized: &str) -> MetricEntry {
    MetricEntry::new(
        id(name),
        SerializedEntry::new(formatted.to_owned(), serialized.to_owned()),
    )
}
