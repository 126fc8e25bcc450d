#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use burn::module::ModuleVisitor;
use burn::tensor::{Device, FloatDType};

use super::*;
use crate::config::tests::tiny;
use crate::config::{Conditioning, Fusion, InputNorm, ModelConfig, Pooling};
use crate::golden::{Golden, relative_error};
use crate::initialize::initialize;
use crate::objective::tests::flow;
use crate::objective::{Noised, Objective};
use crate::parameter::is_f32_parameter;
use crate::timestep_density::TimestepDensity;
use crate::timestep_shift::TimestepShift;

/// The gradient of every parameter by its path.
type ByPath = BTreeMap<String, Vec<f32>>;

/// Takes the gradients out and refuses one that comes twice.
struct Taker<'a> {
    path: Vec<String>,
    gradients: &'a mut Gradients,
    taken: &'a mut ByPath,
}

impl ModuleVisitor for Taker<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = param.val().grad_remove(self.gradients) {
            let values = gradient.cast(FloatDType::F32).into_data().try_into_vec().unwrap();
            let name = self.path.join(".");
            assert!(self.taken.insert(name.clone(), values).is_none(), "{name} comes twice");
        }
    }
}

fn take(model: &LiDit, gradients: &mut Gradients, taken: &mut ByPath) {
    model.visit(&mut Taker {
        path: Vec::new(),
        gradients,
        taken,
    });
}

/// Moves every weight off its first value, so that gates and modulation are open; rounds them on request.
struct Prepare {
    path: Vec<String>,
    dtype: FloatDType,
}

impl ModuleMapper for Prepare {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.join(".");
        let open = ["gate", "modulation", "final_layer"]
            .iter()
            .any(|part| path.contains(part));
        let shape = param.lazy_shape().dims::<D>();
        let shift: Vec<f32> = (0..shape.iter().product())
            .map(|i: usize| {
                if open {
                    0.3 * ((i * 37 % 101) as f32 / 50.0 - 1.0)
                } else {
                    0.0
                }
            })
            .collect();
        let dtype = if is_f32_parameter(&path) {
            FloatDType::F32
        } else {
            self.dtype
        };
        param.map(|weight| {
            let shift = Tensor::<1>::from_floats(shift.as_slice(), &weight.device()).reshape(shape);
            (weight.detach() + shift).cast(dtype).detach().require_grad()
        })
    }
}

fn model(config: &ModelConfig, dtype: FloatDType) -> LiDit {
    let conditioning = Conditioning {
        context_dims: vec![5, 7],
        input_norm: InputNorm::Rms,
        pooling: Pooling::Caption,
    };
    let frame = LiDit::zeros(config, &conditioning, &Device::flex().autodiff());
    initialize(frame, 3).map(&mut Prepare {
        path: Vec::new(),
        dtype,
    })
}

fn objective() -> Objective {
    flow(TimestepDensity::Uniform, TimestepShift::None)
}

fn noised(golden: &Golden) -> (Noised, Vec<f32>) {
    let batch = golden.loss_batch(6);
    (objective().noise(&batch), batch.weights)
}

fn plain(model: &LiDit) -> (f32, ByPath) {
    let golden = Golden::open("lidit");
    let (noised, weights) = noised(&golden);
    let prediction = model.forward(noised.input.clone(), noised.timesteps.clone(), &golden.prompts());
    let loss = objective().loss_of(&noised, prediction, &weights).sum;
    let mut taken = ByPath::new();
    take(model, &mut loss.backward(), &mut taken);
    (loss.into_scalar(), taken)
}

fn in_segments(model: &LiDit, blocks: usize) -> (f32, ByPath) {
    let golden = Golden::open("lidit");
    let (noised, weights) = noised(&golden);
    let mut taken = ByPath::new();
    let loss = model.backward_in_segments(
        noised.input.clone(),
        noised.timesteps.clone(),
        &golden.prompts(),
        NonZeroUsize::new(blocks).unwrap(),
        |prediction| {
            let loss = objective().loss_of(&noised, prediction, &weights).sum;
            (loss.clone(), loss.into_scalar::<f32>())
        },
        |gradients| take(model, gradients, &mut taken),
    );
    (loss, taken)
}

fn check(config: &ModelConfig, dtype: FloatDType, tolerance: f32) {
    let model = model(config, dtype);
    let (loss, expected) = plain(&model);
    assert_eq!(
        expected.len(),
        crate::lidit::tests::walkers::parameter_names(&model).len()
    );
    for blocks in [1, 2, 5, 12] {
        let (again, gradients) = in_segments(&model, blocks);
        assert_eq!(loss.to_bits(), again.to_bits(), "loss in segments of {blocks}");
        assert!(gradients.keys().eq(expected.keys()));
        for (name, expected) in &expected {
            let gradient = &gradients[name];
            if name.starts_with("blocks.") || name.starts_with("final_layer.") {
                assert!(gradient == expected, "{name} in segments of {blocks} differs in a bit");
            }
            // Of a single gain, what conditioning and text lose by another order of sums can be most there is.
            let error = relative_error(gradient, expected, expected.len());
            assert!(error <= 10.0 * tolerance, "{name} in segments of {blocks}: {error:.1e}");
        }
        let flat = |by_path: &ByPath| by_path.values().flatten().copied().collect::<Vec<f32>>();
        let (gradient, expected) = (flat(&gradients), flat(&expected));
        let error = relative_error(&gradient, &expected, expected.len());
        assert!(error <= tolerance, "segments of {blocks}: {error:.1e}");
    }
}

#[test]
fn gradients_in_segments_are_those_of_the_whole() {
    let collaborative = ModelConfig { depth: 7, ..tiny() };
    let concatenated = ModelConfig {
        fusion: Fusion::Concatenate,
        ..collaborative.clone()
    };
    for config in [collaborative, concatenated] {
        check(&config, FloatDType::F32, 1e-6);
    }
}

#[test]
fn in_bf16_too() {
    // The sums over blocks are f32; what follows them rounds to bf16, where a last bit may fall the other way.
    check(&ModelConfig { depth: 5, ..tiny() }, FloatDType::BF16, 1e-3);
}
