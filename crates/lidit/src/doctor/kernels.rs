//! Every operation of `lidit-kernels` on a device, beside its plain reference on the CPU.

use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::tensor::{Device, FloatDType};
use lidit_kernels::{Comparison, Deviation, comparisons};

use super::check::Check;
use crate::device::DeviceArg;

/// Largest difference, in units of the largest number, that rounding in f32 explains.
const F32: f64 = 2e-5;
/// The same of matrix products whose factors a GPU rounds to TF32.
const TF32: f64 = 4e-3;
/// The same of bf16.
const BF16: f64 = 4e-2;

/// One line an operation.
pub fn checks(device: DeviceArg, local_rank: usize) -> Vec<Check> {
    let opened = match device.open(local_rank) {
        Ok(opened) => opened,
        Err(error) => {
            return vec![Check::failed(
                "kernels",
                format!("{error:#}"),
                "mend the lines above first",
            )];
        }
    };
    let lines = comparisons()
        .into_iter()
        .map(|comparison| check(&comparison, device, &opened));
    lines.collect()
}

fn check(comparison: &Comparison, device: DeviceArg, opened: &Device) -> Check {
    let name = format!("kernel {}", comparison.name);
    let tried = comparison.dtypes.iter().map(|&dtype| {
        let tolerance = tolerance(comparison, device, dtype);
        // A kernel that does not compile panics inside burn.
        let deviation = catch_unwind(AssertUnwindSafe(|| comparison.run(opened, dtype)));
        verdict(dtype, deviation.ok(), tolerance)
    });
    let tried: Vec<(bool, String)> = tried.collect();
    let found = tried
        .iter()
        .map(|(_, found)| found.as_str())
        .collect::<Vec<_>>()
        .join("; ");
    if tried.iter().all(|(is_right, _)| *is_right) {
        Check::ok(&name, found)
    } else {
        let advice = "don't train on this device: report this line with the GPU's model, the driver and NVRTC, and whether \
                      BURN_FUSION_MAX_EXPLORATIONS=0 (no fusion) mends it";
        Check::failed(&name, found, advice)
    }
}

fn tolerance(comparison: &Comparison, device: DeviceArg, dtype: FloatDType) -> f64 {
    match (dtype, device) {
        (FloatDType::F32, DeviceArg::Cuda(_)) if comparison.has_products => TF32,
        (FloatDType::F32, _) => F32,
        _ => BF16,
    }
}

/// Whether `deviation` is within `tolerance`, and the two in words; no deviation: the operation panicked.
fn verdict(dtype: FloatDType, deviation: Option<Deviation>, tolerance: f64) -> (bool, String) {
    let dtype = format!("{dtype:?}").to_lowercase();
    let Some(Deviation { value, gradient }) = deviation else {
        return (false, format!("{dtype} ended in a panic"));
    };
    let is_right = value <= tolerance && gradient.unwrap_or(0.0) <= tolerance;
    let gradient = gradient.map_or(String::new(), |off| format!(", gradients by {off:.0e}"));
    (
        is_right,
        format!("{dtype} off by {value:.0e}{gradient} (at most {tolerance:.0e})"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_a_number_that_is_none_and_a_panic_are_wrong() {
        let off = |value, gradient| Some(Deviation { value, gradient });
        let is_right = |deviation| verdict(FloatDType::F32, deviation, F32).0;
        assert!(is_right(off(1e-6, Some(1e-6))) && is_right(off(0.0, None)));
        assert!(!is_right(off(1e-3, Some(0.0))) && !is_right(off(0.0, Some(1e-3))));
        assert!(!is_right(off(f64::INFINITY, None)) && !is_right(off(f64::NAN, None)) && !is_right(None));
    }
}
