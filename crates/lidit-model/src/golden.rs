//! Reading what the generators in `tests/golden` wrote, and comparing with it. Only for tests.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Bool, Device, Gradients, Tensor, TensorData};
use safetensors::SafeTensors;

use crate::objective::LossBatch;
use crate::prompts::PromptBatch;

/// One golden file.
pub(crate) struct Golden {
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Golden {
    pub(crate) fn open(name: &str) -> Self {
        Self::open_in("model", name)
    }

    /// A file of another generator, in `tests/golden/FOLDER`.
    pub(crate) fn open_in(folder: &str, name: &str) -> Self {
        let path = format!(
            "{}/../../tests/golden/{folder}/{name}.safetensors",
            env!("CARGO_MANIFEST_DIR")
        );
        let bytes = std::fs::read(&path).unwrap();
        let tensors = SafeTensors::deserialize(&bytes)
            .unwrap()
            .iter()
            .map(|(name, view)| {
                let values = match view.dtype() {
                    safetensors::Dtype::U8 => view.data().iter().map(|&byte| f32::from(byte)).collect(),
                    _ => view
                        .data()
                        .chunks_exact(4)
                        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                        .collect(),
                };
                (name.to_owned(), (view.shape().to_vec(), values))
            })
            .collect();
        Self { tensors }
    }

    pub(crate) fn values(&self, name: &str) -> Vec<f32> {
        self.tensors[name].1.clone()
    }

    pub(crate) fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        let (shape, values) = self.tensors[name].clone();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    pub(crate) fn mask(&self, name: &str) -> Tensor<2, Bool> {
        self.tensor::<2>(name).greater_elem(0.5)
    }

    /// The file's pictures with their noise, draws and weights.
    pub(crate) fn loss_batch(&self, image_tokens: usize) -> LossBatch {
        let draws = self.values("in.draws");
        LossBatch {
            images: self.tensor("in.images"),
            noise: self.tensor("in.noise"),
            draws: draws.chunks(2).map(|pair| [pair[0], pair[1]]).collect(),
            weights: self.values("in.weights"),
            image_tokens,
        }
    }

    /// The file's prompts of both encoders.
    pub(crate) fn prompts(&self) -> [PromptBatch; 2] {
        [(0, 2), (1, 1)].map(|(i, cut)| PromptBatch {
            states: self.tensor(&format!("in.states.{i}")),
            valid: self.mask(&format!("in.valid.{i}")),
            caption: self.mask(&format!("in.caption.{i}")),
            cut,
        })
    }

    /// `module` with the file's weights: all of its parameters, and all of the file's.
    pub(crate) fn load<M: Module>(&self, module: M) -> M {
        let mut loader = Loader {
            golden: self,
            path: Vec::new(),
            used: BTreeSet::new(),
        };
        let module = module.map(&mut loader);
        let given: BTreeSet<String> = self
            .tensors
            .keys()
            .filter_map(|name| Some(name.strip_prefix("weight.")?.to_owned()))
            .collect();
        assert_eq!(loader.used, given);
        module
    }

    /// Compares with the tensor `name`: the largest `|a - b| / |b|` over rows must stay below `tolerance`.
    pub(crate) fn check<const D: usize>(&self, name: &str, actual: Tensor<D>, tolerance: f32) {
        let (shape, expected) = &self.tensors[name];
        assert_eq!(actual.dims().as_slice(), shape.as_slice(), "shape of {name}");
        let actual: Vec<f32> = actual.into_data().try_into_vec().unwrap();
        let error = relative_error(&actual, expected, shape[D - 1]);
        assert!(
            error < tolerance,
            "{name}: relative error {error:.2e}, allowed {tolerance:.0e}"
        );
    }

    /// Compares the gradient of every parameter of `module` with the file's `grad.*`.
    pub(crate) fn check_gradients<M: Module>(&self, module: &M, grads: &mut Gradients, tolerance: f32) {
        let mut checker = GradientChecker {
            golden: self,
            path: Vec::new(),
            grads,
            tolerance,
            count: 0,
        };
        module.visit(&mut checker);
        assert_eq!(
            checker.count,
            self.tensors.keys().filter(|name| name.starts_with("grad.")).count()
        );
    }
}

/// The largest `|a - b| / |b|` over rows of `width` numbers. A row of the reference that is (nearly) zero is measured
/// against a thousandth of the mean row instead.
pub(crate) fn relative_error(actual: &[f32], expected: &[f32], width: usize) -> f32 {
    let norm = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt();
    let rows = expected.len() / width;
    let mean = expected.chunks(width).map(norm).sum::<f32>() / rows as f32;
    actual
        .chunks(width)
        .zip(expected.chunks(width))
        .map(|(a, b)| {
            let difference: Vec<f32> = a.iter().zip(b).map(|(a, b)| a - b).collect();
            norm(&difference) / norm(b).max(1e-3 * mean).max(1e-12)
        })
        // Not `f32::max`, which would drop a NaN.
        .fold(
            0.0,
            |worst, error| if error > worst || error.is_nan() { error } else { worst },
        )
}

struct Loader<'a> {
    golden: &'a Golden,
    path: Vec<String>,
    used: BTreeSet<String>,
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.join(".");
        let weight = self.golden.tensor::<D>(&format!("weight.{path}"));
        assert_eq!(weight.dims(), param.lazy_shape().dims::<D>(), "shape of {path}");
        self.used.insert(path);
        Param::from_data(weight.into_data(), &param.lazy_device())
    }
}

struct GradientChecker<'a> {
    golden: &'a Golden,
    path: Vec<String>,
    grads: &'a mut Gradients,
    tolerance: f32,
    count: usize,
}

impl ModuleVisitor for GradientChecker<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let grad = param.val().grad_remove(self.grads).unwrap();
        let name = format!("grad.{}", self.path.join("."));
        let (shape, expected) = &self.golden.tensors[&name];
        assert_eq!(grad.dims().as_slice(), shape.as_slice(), "shape of {name}");
        let grad: Vec<f32> = grad.into_data().try_into_vec().unwrap();
        // A matrix as a whole: a row whose input is nearly zero is all rounding.
        let error = relative_error(&grad, expected, expected.len());
        assert!(
            error < self.tolerance,
            "{name}: relative error {error:.2e}, allowed {:.0e}",
            self.tolerance
        );
        self.count += 1;
    }
}
