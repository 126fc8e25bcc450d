//! Visitors and mappers over the parameters, for tests.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{FloatDType, Gradients, Tensor, TensorData};

use super::random;
use crate::parameter::is_f32_parameter;

/// The paths of all parameters.
pub(crate) fn parameter_names<M: Module>(module: &M) -> Vec<String> {
    let mut names = Names {
        path: Vec::new(),
        names: Vec::new(),
    };
    module.visit(&mut names);
    names.names
}

/// The paths of the parameters whose gradient is missing, zero or not finite.
pub(super) fn silent_parameters<M: Module>(module: &M, grads: &mut Gradients) -> Vec<String> {
    let mut silent = Silent {
        path: Vec::new(),
        grads,
        found: Vec::new(),
    };
    module.visit(&mut silent);
    silent.found
}

/// The two methods that keep `path`.
macro_rules! walk {
    () => {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.path.push(name.to_owned());
        }

        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.pop();
        }
    };
}

struct Names {
    path: Vec<String>,
    names: Vec<String>,
}

impl ModuleVisitor for Names {
    walk!();

    fn visit_float<const D: usize>(&mut self, _param: &Param<Tensor<D>>) {
        self.names.push(self.path.join("."));
    }
}

struct Silent<'a> {
    path: Vec<String>,
    grads: &'a mut Gradients,
    found: Vec<String>,
}

impl ModuleVisitor for Silent<'_> {
    walk!();

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let grad = param.val().grad_remove(self.grads);
        let largest = grad.map_or(0.0, |grad| grad.abs().max().into_scalar::<f32>());
        // The bias of a key shifts all scores of a query alike, but only before the norm: it has a gradient here.
        if !(largest > 0.0 && largest.is_finite()) {
            self.found.push(self.path.join("."));
        }
    }
}

/// Fills every parameter with numbers that are not zero.
#[derive(Default)]
pub(super) struct Scramble {
    path: Vec<String>,
}

impl ModuleMapper for Scramble {
    walk!();

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = param.lazy_shape().dims::<D>();
        let seed = self
            .path
            .join(".")
            .bytes()
            .fold(7, |seed: u64, byte| seed.wrapping_mul(31) + u64::from(byte));
        let values = random(seed, shape.iter().product())
            .iter()
            .map(|x| 0.5 * x)
            .collect::<Vec<_>>();
        Param::from_data(TensorData::new(values, shape), &param.lazy_device())
    }
}

/// Rounds to bf16 what may be, as mixed precision does.
#[derive(Default)]
pub(super) struct ToBf16 {
    path: Vec<String>,
}

impl ModuleMapper for ToBf16 {
    walk!();

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if is_f32_parameter(&self.path.join(".")) {
            return param;
        }
        param.map(|tensor| tensor.detach().cast(FloatDType::BF16).detach().require_grad())
    }
}
