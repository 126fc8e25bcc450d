//! Faults on purpose, for tests of what a run does about them.

use std::ffi::OsString;

use anyhow::{Context, Result, bail};
use burn::tensor::Tensor;

/// The environment variable that arms a fault in one process: `LIDIT_FAULT=nan@STEP`.
pub const VARIABLE: &str = "LIDIT_FAULT";

/// A fault of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process's gradient of this step (counted from 1) gets a NaN, after it was computed: what broken memory does.
    NanAt(u64),
}

impl Fault {
    /// The fault that the environment arms; none without the variable.
    ///
    /// # Errors
    /// The variable holds anything but a fault.
    pub fn from_env() -> Result<Option<Self>> {
        Self::of(std::env::var_os(VARIABLE))
    }

    fn of(value: Option<OsString>) -> Result<Option<Self>> {
        let Some(value) = value else { return Ok(None) };
        let text = value.to_string_lossy();
        let Some(("nan", step)) = text.split_once('@') else {
            bail!("{VARIABLE} is `{text}`: it must be nan@STEP, or not be set at all");
        };
        let step = step.parse().ok().filter(|&step| step > 0);
        let step = step.with_context(|| format!("{VARIABLE} is `{text}`: its step must be a number from 1"))?;
        Ok(Some(Self::NanAt(step)))
    }

    /// Says loudly that this process will break something.
    pub fn announce(self, rank: usize) {
        let Self::NanAt(step) = self;
        eprintln!(
            "WARNING: {VARIABLE} is armed: rank {rank} will put a NaN into its gradient of step {step} on purpose"
        );
    }

    /// A process's gradient `[len]` of `step`, broken if it is its turn.
    pub fn strike(self, step: u64, gradient: Tensor<1>) -> Tensor<1> {
        match self {
            Self::NanAt(at) if at == step => gradient.slice_fill(0..1, f32::NAN),
            Self::NanAt(_) => gradient,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use burn::tensor::Device;

    use super::*;
    use crate::optimizer::{host, upload};

    #[test]
    fn only_faults_that_exist_are_armed() {
        let of = |text: &str| Fault::of(Some(text.into()));
        assert_eq!(of("nan@7").unwrap(), Some(Fault::NanAt(7)));
        assert_eq!(Fault::of(None).unwrap(), None);
        for text in ["", "nan", "nan@", "nan@0", "nan@-1", "inf@3", "nan@3,nan@4"] {
            let message = of(text).unwrap_err().to_string();
            assert!(message.contains(&format!("LIDIT_FAULT is `{text}`")), "{message}");
        }
    }

    #[test]
    fn one_number_of_one_step_is_broken() {
        let strike = |step| host(&Fault::NanAt(7).strike(step, upload(&[1.0, 2.0], &Device::flex())));
        assert_eq!(strike(6), [1.0, 2.0]);
        let broken = strike(7);
        assert!(broken[0].is_nan());
        assert_eq!(broken[1].to_bits(), 2.0_f32.to_bits());
    }
}
