//! The fastest matrix product that a device is seen to make: what a step's rate is measured by.

use std::time::Instant;

use anyhow::{Context, Result};
use burn::module::Param;
use burn::tensor::{Device, Distribution, FloatDType, Tensor};
use lidit_model::Linear;
use lidit_train::Precision;

/// Times that each product is timed.
const ROUNDS: usize = 12;

/// Square products in one precision.
pub struct Gemm {
    /// Rows and columns of each factor.
    pub side: usize,
    /// Products between two waits for the device, so that launching one hides behind the one before.
    pub at_once: usize,
}

impl Gemm {
    /// What suits the CPU, or a GPU.
    pub fn on(device: &Device) -> Self {
        if *device == Device::flex() {
            Self { side: 1024, at_once: 1 }
        } else {
            Self {
                side: 2048,
                at_once: 16,
            }
        }
    }

    /// Floating-point operations a second of the best of several rounds, by burn's product and by the network's own layer,
    /// whichever is faster.
    ///
    /// # Errors
    /// The device failed.
    pub fn ceiling(&self, device: &Device, precision: Precision) -> Result<f64> {
        let dtype = match precision {
            Precision::F32 => FloatDType::F32,
            Precision::Bf16 => FloatDType::BF16,
        };
        let device = device.clone().without_autodiff();
        let random = || {
            let normal = Distribution::Normal(0.0, 1.0);
            Tensor::<2>::random([self.side, self.side], normal, &device).cast(dtype)
        };
        let (a, b) = (random(), random());
        let layer = Linear {
            weight: Param::from_tensor(b.clone()),
            bias: Param::from_tensor(Tensor::<1>::zeros([self.side], &device).cast(dtype)),
        };
        let product = self.best(&device, || a.clone().matmul(b.clone()))?;
        let linear = self.best(&device, || layer.forward(a.clone()))?;
        let flops = 2.0 * (self.side as f64).powi(3) * self.at_once as f64;
        Ok(flops / product.min(linear))
    }

    /// Seconds of the fastest round.
    fn best(&self, device: &Device, multiply: impl Fn() -> Tensor<2>) -> Result<f64> {
        let mut best = f64::INFINITY;
        // The first round is for autotuning.
        for round in 0..=ROUNDS {
            device.sync().context("waiting for the device")?;
            let begun = Instant::now();
            for _ in 0..self.at_once {
                multiply();
            }
            device.sync().context("waiting for the device")?;
            if round > 0 {
                best = best.min(begun.elapsed().as_secs_f64());
            }
        }
        Ok(best)
    }
}
