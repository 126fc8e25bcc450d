//! Into burn's CPU tensors and back.

use std::mem::MaybeUninit;

use burn::backend::{DispatchDevice, Flex};
use burn::tensor::{Bytes, DType, Shape, Tensor, bf16};
use burn_flex::{FlexTensor, Layout};
use rayon::prelude::*;

use crate::number::Number;
use crate::simd::dispatch;

/// Elements a task.
pub const CHUNK: usize = 32 * 1024;

/// Whether `x` is an f32 tensor of the CPU that no gradient is asked of, so that [`into_flex`] takes it.
pub fn is_flex<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && matches!(x.device().as_dispatch(), DispatchDevice::Flex(_))
}

/// Whether `x` is an f32 tensor of the CPU, with or without gradients, so that an extension for burn-flex takes it.
pub fn is_trained_on_flex<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && is_on_flex(x)
}

/// Whether `x` is a bf16 tensor of the CPU, with or without gradients.
pub fn is_bf16_on_flex<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::BF16 && is_on_flex(x)
}

fn is_on_flex<const D: usize>(x: &Tensor<D>) -> bool {
    let device = x.device().without_autodiff();
    matches!(device.as_dispatch(), DispatchDevice::Flex(_))
}

/// Whether `x` is an f32 tensor whose operations have a backward of their own: of the CPU or a GPU.
pub fn is_fused<const D: usize>(x: &Tensor<D>) -> bool {
    is_trained_on_flex(x) || x.dtype() == DType::F32 && is_on_gpu(x)
}

/// Whether `x` is a tensor of a GPU.
#[cfg(feature = "cuda")]
pub fn is_on_gpu<const D: usize>(x: &Tensor<D>) -> bool {
    matches!(x.device().without_autodiff().as_dispatch(), DispatchDevice::Cube(_))
}

/// Whether `x` is a tensor of a GPU: not in this build.
#[cfg(not(feature = "cuda"))]
pub fn is_on_gpu<const D: usize>(_x: &Tensor<D>) -> bool {
    false
}

/// The tensor behind one that [`is_flex`].
pub fn into_flex<const D: usize>(x: Tensor<D>) -> FlexTensor {
    x.try_into_primitive::<Flex>()
        .unwrap_or_else(|e| panic!("a tensor of the CPU turns out to be another: {e:?}"))
}

/// Back to where [`into_flex`] came from.
pub fn from_flex<const D: usize>(x: FlexTensor) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(x)
}

/// A contiguous tensor of `values`.
pub fn new_flex<T: Number>(values: Vec<T>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape.into()), T::dtype())
}

/// A contiguous tensor that `fill` writes, without zeros before.
///
/// # Safety
/// `fill` writes every element.
pub unsafe fn written<T: Number>(shape: impl Into<Shape>, fill: impl FnOnce(&mut [MaybeUninit<T>])) -> FlexTensor {
    let shape = shape.into();
    let len = shape.num_elements();
    let mut values = Vec::with_capacity(len);
    fill(&mut values.spare_capacity_mut()[..len]);
    // SAFETY: there is room for them, and the caller answers for their having been written.
    unsafe { values.set_len(len) };
    new_flex(values, shape)
}

/// The elements of a contiguous f32 tensor.
pub fn values(x: &FlexTensor) -> &[f32] {
    elements(x)
}

/// The elements of a contiguous tensor of `T`.
pub fn elements<T: Number>(x: &FlexTensor) -> &[T] {
    x.as_slice()
        .unwrap_or_else(|| panic!("a {:?} tensor is not contiguous {:?}", x.dtype(), T::dtype()))
}

/// `x` in f32.
pub fn widened(x: FlexTensor) -> FlexTensor {
    if x.dtype() == DType::F32 {
        return x;
    }
    let x = x.to_contiguous();
    // SAFETY: as many elements as there are, each written.
    unsafe {
        written(x.layout().shape().clone(), |out| {
            convert_all::<bf16, f32>(elements(&x), out);
        })
    }
}

/// `x` rounded to bf16.
pub fn narrowed(x: FlexTensor) -> FlexTensor {
    if x.dtype() == DType::BF16 {
        return x;
    }
    let x = x.to_contiguous();
    // SAFETY: as above.
    unsafe {
        written(x.layout().shape().clone(), |out| {
            convert_all::<f32, bf16>(elements(&x), out);
        })
    }
}

fn convert_all<A: Number, B: Number>(x: &[A], out: &mut [MaybeUninit<B>]) {
    let chunks = out.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
    chunks.for_each(|(out, x)| convert(x, out));
}

dispatch!(convert<A: Number, B: Number>, convert_body, (x: &[A], out: &mut [MaybeUninit<B>]));

#[inline(always)]
fn convert_body<A: Number, B: Number>(x: &[A], out: &mut [MaybeUninit<B>]) {
    for (out, x) in out.iter_mut().zip(x) {
        out.write(B::from_f32(x.wide()));
    }
}

/// `x`, copied where somebody else holds it too or it is not whole and contiguous: [`values_mut`] takes it.
pub fn sole_owner(x: FlexTensor) -> FlexTensor {
    let is_whole = x.is_contiguous() && x.storage::<f32>().len() == x.layout().num_elements();
    if is_whole && x.is_unique() {
        return x;
    }
    let x = x.to_contiguous();
    new_flex(values(&x).to_vec(), x.layout().shape().clone())
}

/// The elements of a tensor that [`sole_owner`] made.
pub fn values_mut(x: &mut FlexTensor) -> &mut [f32] {
    x.storage_mut()
}

/// `x` changed by `f`, in its own memory where nobody else holds it.
pub fn map_owned(x: FlexTensor, f: impl FnOnce(&mut [f32])) -> FlexTensor {
    let mut x = if x.is_contiguous() { x } else { x.to_contiguous() };
    let is_whole = x.storage::<f32>().len() == x.layout().num_elements();
    if is_whole && let Some(values) = x.try_storage_mut() {
        f(values);
        return x;
    }
    let mut copy = values(&x).to_vec();
    f(&mut copy);
    new_flex(copy, x.layout().shape().clone())
}

/// Rows of a tensor of four axes, wherever they lie in memory.
pub struct Rows<'a> {
    values: &'a [f32],
    strides: [usize; 3],
    width: usize,
}

impl<'a> Rows<'a> {
    /// The rows of `x`, which [`with_whole_rows`] has passed: its last three axes but the last, the first ones 0 where
    /// it has fewer.
    pub fn new(x: &'a FlexTensor) -> Self {
        let layout = x.layout();
        let (strides, shape) = (layout.strides(), layout.shape());
        let last = strides.len() - 1;
        let stride = |axis: usize| {
            (axis + last)
                .checked_sub(3)
                .map_or(0, |axis| strides[axis].unsigned_abs())
        };
        Self {
            values: &x.storage()[layout.start_offset()..],
            strides: [stride(0), stride(1), stride(2)],
            width: shape[last],
        }
    }

    /// Row `(i, j, k)`.
    #[inline(always)]
    pub fn row(&self, i: usize, j: usize, k: usize) -> &'a [f32] {
        let start = i * self.strides[0] + j * self.strides[1] + k * self.strides[2];
        &self.values[start..][..self.width]
    }
}

/// `x`, copied only if its last axis is not contiguous or an axis runs backwards.
pub fn with_whole_rows(x: FlexTensor) -> FlexTensor {
    let strides = x.layout().strides();
    if strides.last() == Some(&1) && strides.iter().all(|&stride| stride >= 0) {
        x
    } else {
        x.to_contiguous()
    }
}

#[cfg(test)]
pub mod testing {
    //! Inputs and comparisons that the tests of all operations share.

    use burn::tensor::{Device, Tensor, TensorData};

    /// Numbers in -2..2 without a pattern in any axis.
    pub fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len)
            .map(|i| ((i + 31 * seed) * 7919 % 4001) as f32 / 1000.25 - 2.0)
            .collect()
    }

    /// [`numbers`] in a tensor.
    pub fn tensor<const D: usize>(shape: [usize; D], seed: usize) -> Tensor<D> {
        let values = numbers(shape.iter().product(), seed);
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    /// Equal within `tolerance` of 1 and of the value.
    pub fn assert_close<const D: usize>(got: Tensor<D>, right: Tensor<D>, tolerance: f32) {
        assert_eq!(got.dims(), right.dims());
        let host = |x: Tensor<D>| x.to_data().iter::<f32>().collect::<Vec<_>>();
        for (i, (got, right)) in host(got).into_iter().zip(host(right)).enumerate() {
            let off = (got - right).abs();
            assert!(off <= tolerance * (1.0 + right.abs()), "element {i}: {got} and {right}");
        }
    }
    /// Values and gradients of `f` and of `reference` at `inputs` are equal within `tolerance`, of 1 and of the size of the
    /// largest gradient.
    pub fn assert_same_gradients<const N: usize, const D: usize, const E: usize>(
        inputs: &[Tensor<D>; N],
        f: impl Fn([Tensor<D>; N]) -> Tensor<E>,
        reference: impl Fn([Tensor<D>; N]) -> Tensor<E>,
        tolerance: f32,
    ) {
        let (y, of_inputs) = values_and_gradients(inputs, f);
        let (right, of_reference) = values_and_gradients(inputs, reference);
        assert_close(y, right, tolerance);
        for (got, right) in of_inputs.into_iter().zip(of_reference) {
            let largest = right.clone().abs().max().into_scalar::<f32>().max(1.0);
            assert_close(got / largest, right / largest, tolerance);
        }
    }

    /// The result, and the gradients of the inputs for a gradient of the result that differs from element to element.
    fn values_and_gradients<const N: usize, const D: usize, const E: usize>(
        inputs: &[Tensor<D>; N],
        f: impl Fn([Tensor<D>; N]) -> Tensor<E>,
    ) -> (Tensor<E>, Vec<Tensor<D>>) {
        let leaves = inputs.clone().map(|x| x.autodiff().require_grad());
        let y = f(leaves.clone());
        let weights = tensor(y.dims(), 17).autodiff();
        let mut gradients = (y.clone() * weights).sum().backward();
        let of = |x: Tensor<D>| {
            x.grad_remove(&mut gradients)
                .unwrap_or_else(|| panic!("an input has no gradient"))
        };
        (y.inner(), leaves.map(of).into_iter().collect())
    }
}
