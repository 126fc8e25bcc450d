//! Axes: from values to places, and their ticks.

use super::numbers::{count, power, short};

/// An axis of a plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// What it measures, with its unit.
    pub label: String,
    /// How values are laid out.
    pub scale: Scale,
    low: f64,
    high: f64,
}

/// How values are laid out.
#[derive(Clone, Debug, PartialEq)]
pub enum Scale {
    /// Equal differences, equal lengths.
    Linear,
    /// Equal ratios, equal lengths; ticks as `10¹⁸`.
    LogPower,
    /// Equal ratios, equal lengths; ticks as `30M`.
    LogCount,
    /// One place for each name, at 0, 1, ..
    Names(Vec<String>),
}

impl Axis {
    /// An axis that holds all values, with a little room at both ends.
    pub fn around(label: impl Into<String>, scale: Scale, values: impl IntoIterator<Item = f64>) -> Self {
        let is_log = matches!(scale, Scale::LogPower | Scale::LogCount);
        let (mut low, mut high) = values
            .into_iter()
            .filter(|value| value.is_finite() && (!is_log || *value > 0.0))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value), high.max(value))
            });
        if low > high {
            (low, high) = if is_log { (1.0, 10.0) } else { (0.0, 1.0) };
        }
        if is_log {
            let room = (high / low).powf(0.05).max(1.15);
            (low, high) = (low / room, high * room);
        } else {
            let room = ((high - low) * 0.06).max(high.abs() * 1e-3).max(1e-12);
            (low, high) = (low - room, high + room);
        }
        Self {
            label: label.into(),
            scale,
            low,
            high,
        }
    }

    /// An axis of shares, from 0 to the fifth above the largest.
    pub fn share(label: impl Into<String>, shares: impl IntoIterator<Item = f64>) -> Self {
        let largest = shares.into_iter().filter(|share| share.is_finite()).fold(0.0, f64::max);
        Self {
            label: label.into(),
            scale: Scale::Linear,
            low: 0.0,
            high: ((largest * 5.0).ceil() / 5.0).clamp(0.2, 1.0),
        }
    }

    /// An axis of names.
    pub fn names(label: impl Into<String>, names: Vec<String>) -> Self {
        Self {
            label: label.into(),
            low: -0.5,
            high: names.len().max(1) as f64 - 0.5,
            scale: Scale::Names(names),
        }
    }

    /// A value's place: 0 at the axis's begin, 1 at its end. None of a value that has none.
    pub fn place(&self, value: f64) -> Option<f64> {
        let place = match self.scale {
            Scale::Linear | Scale::Names(_) => (value - self.low) / (self.high - self.low),
            Scale::LogPower | Scale::LogCount => (value / self.low).ln() / (self.high / self.low).ln(),
        };
        place.is_finite().then_some(place)
    }

    /// Values to be named, at most about `most`, with their names.
    pub fn ticks(&self, most: usize) -> Vec<(f64, String)> {
        match &self.scale {
            Scale::Names(names) => names
                .iter()
                .enumerate()
                .map(|(i, name)| (i as f64, name.clone()))
                .collect(),
            Scale::Linear => self.linear_ticks(most),
            Scale::LogPower => self.log_ticks(most).into_iter().map(|at| (at, power(at))).collect(),
            Scale::LogCount => self.log_ticks(most).into_iter().map(|at| (at, count(at))).collect(),
        }
    }

    fn linear_ticks(&self, most: usize) -> Vec<(f64, String)> {
        let rough = (self.high - self.low) / most.max(1) as f64;
        let decade = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0]
            .into_iter()
            .map(|factor| factor * decade)
            .find(|step| *step >= rough * 0.8)
            .unwrap_or(decade * 10.0);
        let (first, last) = (
            (self.low / step - 1e-9).ceil() as i64,
            (self.high / step + 1e-9).floor() as i64,
        );
        (first..=last.min(first + 50))
            .map(|i| i as f64 * step)
            .map(|at| (at, short(at, step)))
            .collect()
    }

    fn log_ticks(&self, most: usize) -> Vec<f64> {
        let (first, last) = (
            self.low.log10().floor() as i32,
            (self.high.log10().ceil() as i32).min(self.low.log10() as i32 + 300),
        );
        let inside = |factors: &[f64], every: i32| -> Vec<f64> {
            (first..=last)
                .filter(|decade| decade.rem_euclid(every) == 0)
                .flat_map(|decade| factors.iter().map(move |factor| factor * 10f64.powi(decade)))
                .filter(|at| (self.low..=self.high).contains(at))
                .collect()
        };
        let dense = [
            inside(&[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0], 1),
            inside(&[1.0, 2.0, 5.0], 1),
            inside(&[1.0, 3.0], 1),
        ];
        if let Some(ticks) = dense.into_iter().find(|ticks| ticks.len() <= most) {
            return ticks;
        }
        (1..=last - first + 1)
            .map(|every| inside(&[1.0], every))
            .find(|ticks| ticks.len() <= most.max(1))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(axis: &Axis, most: usize) -> String {
        let ticks: Vec<String> = axis.ticks(most).into_iter().map(|(_, name)| name).collect();
        ticks.join(" ")
    }

    #[test]
    fn ticks_are_round() {
        let linear = Axis::around("loss", Scale::Linear, [0.52, 0.81]);
        assert_eq!(names(&linear, 6), "0.55 0.60 0.65 0.70 0.75 0.80");
        let wide = Axis::around("C", Scale::LogPower, [1e15, 3e21]);
        assert_eq!(names(&wide, 4), "10¹⁶ 10¹⁸ 10²⁰");
        let narrow = Axis::around("N", Scale::LogCount, [1.2e6, 9e6]);
        assert_eq!(names(&narrow, 5), "2M 5M 10M");
    }

    #[test]
    fn equal_ratios_are_equal_lengths() {
        let axis = Axis::around("N", Scale::LogCount, [1.0, 100.0]);
        assert!((axis.place(10.0).unwrap() - 0.5).abs() < 1e-12);
        assert_eq!(axis.place(0.0), None);
        assert_eq!(axis.place(f64::NAN), None);
    }

    #[test]
    fn an_axis_without_values_still_has_ticks() {
        assert!(!Axis::around("a", Scale::Linear, []).ticks(5).is_empty());
        assert!(!Axis::around("a", Scale::LogPower, [f64::NAN]).ticks(5).is_empty());
        assert!(!Axis::around("a", Scale::LogPower, [1e-300, 1e300]).ticks(5).is_empty());
    }
}
