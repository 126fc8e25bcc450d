//! Every operation beside its plain-burn reference, on any device: what `lidit doctor --kernels` runs.

mod table;

use burn::tensor::{Device, FloatDType, Tensor, TensorData};

pub use table::comparisons;

/// One operation, what it should be, and what it is tried on.
pub struct Comparison {
    /// Its function's name.
    pub name: &'static str,
    /// Whether its gradients count: it is used where something is trained.
    pub is_trained: bool,
    /// The types that it takes.
    pub dtypes: &'static [FloatDType],
    /// Whether matrix products are in it, which a GPU may make from f32 rounded to TF32.
    pub has_products: bool,
    /// Shapes of its inputs, a few times over: odd ones, and one that fills more than a vector register or a block.
    inputs: Shapes,
    operation: Function,
    reference: Function,
}

/// How far an operation is from its reference: the largest difference, in units of the largest number of the reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Deviation {
    /// Of the result.
    pub value: f64,
    /// Of the inputs' gradients; `None` where nothing is trained.
    pub gradient: Option<f64>,
}

type Shapes = &'static [&'static [&'static [usize]]];
type Function = fn(&[Input]) -> Tensor<1>;

/// An input of an operation.
struct Input {
    flat: Tensor<1>,
    shape: &'static [usize],
}

impl Input {
    /// With its axes.
    fn axes<const D: usize>(&self) -> Tensor<D> {
        let shape: [usize; D] = std::array::from_fn(|axis| self.shape[axis]);
        self.flat.clone().reshape(shape)
    }
}

impl Comparison {
    /// Runs the operation on `device`, which has no autodiff, with inputs of type `dtype`, and its reference on the CPU in
    /// f32 with the same inputs.
    pub fn run(&self, device: &Device, dtype: FloatDType) -> Deviation {
        let mut deviation = Deviation {
            value: 0.0,
            gradient: self.is_trained.then_some(0.0),
        };
        for shapes in self.inputs {
            let got = self.results(self.operation, shapes, device, dtype, dtype);
            let right = self.results(self.reference, shapes, &Device::flex(), dtype, FloatDType::F32);
            for (i, (got, right)) in got.iter().zip(&right).enumerate() {
                let off = largest_difference(got, right);
                match &mut deviation.gradient {
                    Some(gradient) if i > 0 => *gradient = gradient.max(off),
                    _ => deviation.value = deviation.value.max(off),
                }
            }
        }
        deviation
    }

    /// The result, and where something is trained the inputs' gradients; inputs are rounded to `rounded`, then `dtype`.
    fn results(
        &self,
        function: Function,
        shapes: &[&'static [usize]],
        device: &Device,
        rounded: FloatDType,
        dtype: FloatDType,
    ) -> Vec<Vec<f32>> {
        let inputs: Vec<Input> = shapes
            .iter()
            .enumerate()
            .map(|(seed, shape)| {
                let values = Tensor::<1>::from_data(numbers(shape.iter().product(), seed), device);
                let values = values.cast(rounded).cast(dtype);
                let flat = if self.is_trained {
                    values.autodiff().require_grad()
                } else {
                    values
                };
                Input { flat, shape }
            })
            .collect();
        let result = function(&inputs);
        if !self.is_trained {
            return vec![host(result)];
        }
        // A gradient that differs from element to element.
        let weights = Tensor::<1>::from_data(numbers(result.dims()[0], 17), device)
            .cast(rounded)
            .cast(dtype);
        let mut gradients = (result.clone() * weights.autodiff()).sum().backward();
        let mut found = vec![host(result.inner())];
        found.extend(inputs.into_iter().map(|input| {
            let gradient = input.flat.grad_remove(&mut gradients);
            gradient.map_or_else(Vec::new, host)
        }));
        found
    }
}

/// Numbers in -2..2 without a pattern in any axis.
fn numbers(len: usize, seed: usize) -> TensorData {
    let number = |i: usize| ((i + 31 * seed + 1) * 7919 % 4001) as f32 / 1000.25 - 2.0;
    TensorData::new((0..len).map(number).collect::<Vec<_>>(), [len])
}

fn host(x: Tensor<1>) -> Vec<f32> {
    x.cast(FloatDType::F32).into_data().iter::<f32>().collect()
}

/// The largest difference in units of the largest number of `right`; infinite where one of them is no number.
fn largest_difference(got: &[f32], right: &[f32]) -> f64 {
    let all_finite = got.iter().chain(right).all(|x| x.is_finite());
    if !all_finite || got.len() != right.len() {
        return f64::INFINITY;
    }
    let largest = right.iter().fold(f32::MIN_POSITIVE, |largest, x| largest.max(x.abs()));
    let off = got
        .iter()
        .zip(right)
        .fold(0.0_f32, |off, (a, b)| off.max((a - b).abs()));
    f64::from(off / largest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gelu;

    #[test]
    fn every_operation_equals_its_reference() {
        for comparison in comparisons() {
            for &dtype in comparison.dtypes {
                let tolerance = if dtype == FloatDType::F32 { 1e-5 } else { 4e-2 };
                let off = comparison.run(&Device::flex(), dtype);
                let worst = off.value.max(off.gradient.unwrap_or(0.0));
                assert!(worst <= tolerance, "{} in {dtype:?}: {off:?}", comparison.name);
            }
        }
    }

    #[test]
    fn a_wrong_operation_is_found() {
        let mut wrong = comparisons().remove(0);
        wrong.operation = |x| (gelu(x[0].axes::<3>()) * 1.001).flatten(0, 2);
        let off = wrong.run(&Device::flex(), FloatDType::F32);
        assert!(
            off.value > 5e-4 && off.gradient.is_some_and(|gradient| gradient > 5e-4),
            "{off:?}"
        );
        assert!(largest_difference(&[f32::NAN], &[1.0]).is_infinite());
        assert!(largest_difference(&[], &[1.0]).is_infinite());
    }

    #[test]
    fn every_exported_operation_is_listed() {
        let exported = include_str!("lib.rs");
        let names: Vec<_> = comparisons().iter().map(|comparison| comparison.name).collect();
        let references = exported
            .split([',', '{', '}', ';', ' ', '\n'])
            .filter_map(|word| word.strip_suffix("_reference"));
        let references: Vec<_> = references.collect();
        assert!(references.len() > 8);
        for name in references {
            assert!(
                names.iter().any(|listed| listed.starts_with(name)),
                "{name} is in no row of the table"
            );
        }
    }
}
