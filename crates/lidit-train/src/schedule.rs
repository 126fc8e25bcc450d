//! The learning rate, a pure function of the step.

use crate::config::TrainConfig;

/// Linear warm-up, then a cosine to `min_ratio` of the peak at the last step.
#[derive(Clone, Copy, Debug)]
pub struct LrSchedule {
    peak: f64,
    min_ratio: f64,
    warmup_steps: u64,
    steps: u64,
}

impl LrSchedule {
    /// The schedule of a run; it ends at the run's own last step.
    pub fn new(config: &TrainConfig) -> Self {
        Self {
            peak: config.lr,
            min_ratio: config.min_lr_ratio,
            warmup_steps: config.warmup_steps,
            steps: config.steps,
        }
    }

    /// The schedule that ends at `steps`.
    pub(crate) fn of(peak: f64, min_ratio: f64, warmup_steps: u64, steps: u64) -> Self {
        Self {
            peak,
            min_ratio,
            warmup_steps,
            steps,
        }
    }

    /// The rate of the update that leads from `step` to `step + 1`.
    pub fn lr(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let span = self.steps.saturating_sub(self.warmup_steps).max(1);
        let progress = ((step - self.warmup_steps) as f64 / span as f64).min(1.0);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        self.peak * (self.min_ratio + (1.0 - self.min_ratio) * cosine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule() -> LrSchedule {
        LrSchedule {
            peak: 2.0,
            min_ratio: 0.1,
            warmup_steps: 4,
            steps: 104,
        }
    }

    #[test]
    fn warms_up_linearly_and_reaches_the_peak() {
        let rates: Vec<f64> = (0..5).map(|step| schedule().lr(step)).collect();
        assert_eq!(rates, [0.5, 1.0, 1.5, 2.0, 2.0]);
    }

    #[test]
    fn is_half_way_down_in_the_middle_and_ends_at_the_minimum() {
        assert!((schedule().lr(54) - 1.1).abs() < 1e-12);
        assert!((schedule().lr(104) - 0.2).abs() < 1e-12);
        assert!((schedule().lr(10_000) - 0.2).abs() < 1e-12);
    }
}
