//! The nine neighbours of every token of a grid side by side: what makes a 3 x 3 convolution one matrix product.

use std::mem::MaybeUninit;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::ops::PadMode;
use burn::tensor::{DType, Tensor, bf16};
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, unary};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::flex::{elements, is_bf16_on_flex, is_trained_on_flex, narrowed, written};
use crate::number::Number;

/// `x [B, h, w, D]` to `[B, h, w, 9 D]`: the tokens above, row by row from the upper left to the lower right, zeros
/// beyond the border; in f32 or bf16. Exact.
pub fn neighbours(x: Tensor<4>) -> Tensor<4> {
    if is_trained_on_flex(&x) || is_bf16_on_flex(&x) {
        Tensor::from_dispatch(<Dispatch as NeighbourOps>::neighbours(x.into_dispatch()))
    } else {
        neighbours_reference(x)
    }
}

/// The same in plain burn, in any type.
pub fn neighbours_reference(x: Tensor<4>) -> Tensor<4> {
    let [b, h, w, d] = x.dims();
    let padded = x.pad([(0, 0), (1, 1), (1, 1), (0, 0)], PadMode::Constant(0.0)); // [B, h + 2, w + 2, D]
    let shifted = (0..9)
        .map(|i| (i / 3, i % 3))
        .map(|(row, column)| padded.clone().slice([0..b, row..row + h, column..column + w, 0..d]))
        .collect();
    Tensor::cat(shifted, 3)
}

/// The fused operation and its derivative, per backend.
#[backend_extension(Flex, Autodiff)]
pub trait NeighbourOps: Backend {
    /// `[B, h, w, D]` to `[B, h, w, 9 D]`.
    fn neighbours(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The gradient of `x` from the gradient of the result.
    fn neighbours_backward(gradient: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// A grid of tokens.
struct Grid {
    h: usize,
    w: usize,
    d: usize,
}

impl Grid {
    /// For each of the nine places around token `t` of `[B, h, w]`, the token there, if it is on the grid.
    fn around(&self, t: usize) -> [Option<usize>; 9] {
        let (row, column) = (t / self.w % self.h, t % self.w);
        std::array::from_fn(|i| {
            let (down, right) = (i / 3, i % 3);
            let on_grid = (1..=self.h).contains(&(row + down)) && (1..=self.w).contains(&(column + right));
            on_grid.then(|| t + down * self.w + right - self.w - 1)
        })
    }
}

impl NeighbourOps for Flex {
    fn neighbours(x: FlexTensor) -> FlexTensor {
        match x.dtype() {
            DType::BF16 => gather::<bf16>(&x.to_contiguous()),
            _ => gather::<f32>(&x.to_contiguous()),
        }
    }

    fn neighbours_backward(gradient: FlexTensor) -> FlexTensor {
        match gradient.dtype() {
            DType::BF16 => narrowed(scatter::<bf16>(&gradient.to_contiguous())),
            _ => scatter::<f32>(&gradient.to_contiguous()),
        }
    }
}

fn gather<T: Number>(x: &FlexTensor) -> FlexTensor {
    let mut shape = x.layout().shape().clone();
    let grid = Grid {
        h: shape[1],
        w: shape[2],
        d: shape[3],
    };
    shape[3] = 9 * grid.d;
    let (row, x) = (grid.w * 9 * grid.d, elements::<T>(x));
    let fill = |out: &mut [MaybeUninit<T>]| {
        out.par_chunks_mut(row.max(1)).enumerate().for_each(|(i, out)| {
            for (column, out) in out.chunks_exact_mut(9 * grid.d).enumerate() {
                let around = grid.around(i * grid.w + column);
                for (token, out) in around.into_iter().zip(out.chunks_exact_mut(grid.d)) {
                    match token {
                        Some(token) => {
                            out.write_copy_of_slice(&x[token * grid.d..][..grid.d]);
                        }
                        None => out.fill(MaybeUninit::new(T::from_f32(0.0))),
                    }
                }
            }
        });
    };
    // SAFETY: each token's nine places are written.
    unsafe { written(shape, fill) }
}

/// The gradient of `x`, summed in f32.
fn scatter<T: Number>(gradient: &FlexTensor) -> FlexTensor {
    let mut shape = gradient.layout().shape().clone();
    shape[3] /= 9;
    let grid = Grid {
        h: shape[1],
        w: shape[2],
        d: shape[3],
    };
    let (row, gradient) = (grid.w * grid.d, elements::<T>(gradient));
    let fill = |out: &mut [MaybeUninit<f32>]| {
        out.par_chunks_mut(row.max(1)).enumerate().for_each(|(i, out)| {
            for (column, out) in out.chunks_exact_mut(grid.d).enumerate() {
                out.fill(MaybeUninit::new(0.0));
                // A token is in place 8 - i of the one in its place i.
                for (i, token) in grid.around(i * grid.w + column).into_iter().enumerate() {
                    let Some(token) = token else { continue };
                    let part = &gradient[(token * 9 + 8 - i) * grid.d..][..grid.d];
                    add(out, part);
                }
            }
        });
    };
    // SAFETY: each token is written.
    unsafe { written(shape, fill) }
}

/// `out += x` of numbers that were written.
fn add<T: Number>(out: &mut [MaybeUninit<f32>], x: &[T]) {
    for (out, x) in out.iter_mut().zip(x) {
        // SAFETY: the caller has filled it.
        let sum = unsafe { out.assume_init() } + x.wide();
        out.write(sum);
    }
}

impl<B: NeighbourOps, C: CheckpointStrategy> NeighbourOps for Autodiff<B, C> {
    fn neighbours(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Backward::<B, 1>::prepare::<C>(Neighbours, [x.node()])
            .compute_bound()
            .stateless(B::neighbours(x.into_primitive()))
    }

    fn neighbours_backward(_gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        panic!("the gradient of neighbours has no gradient")
    }
}

#[derive(Debug)]
struct Neighbours;

impl<B: NeighbourOps> Backward<B, 1> for Neighbours {
    type State = ();

    fn backward(self, ops: Ops<(), 1>, gradients: &mut Gradients, _checkpointer: &mut Checkpointer) {
        unary::<B, _>(ops.parents, ops.node, gradients, B::neighbours_backward);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flex::testing::{assert_same_gradients, tensor};

    #[test]
    fn values_and_gradients_equal_the_reference() {
        for shape in [[1, 1, 1, 1], [2, 3, 4, 5], [1, 5, 1, 16], [3, 2, 7, 33]] {
            let fused = |[x]: [Tensor<4>; 1]| neighbours(x);
            let reference = |[x]: [Tensor<4>; 1]| neighbours_reference(x);
            assert_same_gradients(&[tensor(shape, 1)], fused, reference, 1e-6);
        }
    }
}
