//! Linear maps of frozen networks. There is no fused backward: maps made from a weight with gradients are burn's.

use std::sync::Arc;

use burn::tensor::Tensor;
use burn_flex::FlexTensor;

use crate::flex::{from_flex, into_flex, is_flex, map_owned, new_flex, values, with_whole_rows};
use crate::gated::{gated_gelu, gated_silu};
use crate::product::{Gate, Matrix, Panels};

/// `x w + bias` with a weight that never changes.
///
/// On the CPU in f32 it holds its own copy of the weight, in the order in which products read it; what it was made from
/// can go.
#[derive(Clone, Debug)]
pub struct FrozenLinear(Weight);

#[derive(Clone, Debug)]
enum Weight {
    Packed(Arc<Panels>),
    Plain(Box<(Tensor<2>, Option<Tensor<1>>)>), // [in, out], [out]
}

/// `gate(x g) * (x u)` with weights that never change, in one pass.
#[derive(Clone, Debug)]
pub struct FrozenGatedLinear(GatedWeight);

#[derive(Clone, Debug)]
enum GatedWeight {
    Packed(Arc<Panels>),
    Plain(Box<[Tensor<2>; 2]>, Gate), // gate and up, [in, out]
}

impl FrozenLinear {
    /// `weight [in, out]`, in any order in memory, and `bias [out]`. Maps of one input are best joined along `out`.
    pub fn new(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        if !is_flex(&weight) || !bias.iter().all(is_flex) {
            return Self(Weight::Plain(Box::new((weight, bias))));
        }
        let shape = weight.dims();
        let weight = into_flex(weight);
        let weight = with_strides(&weight);
        let bias = bias.map(|bias| into_flex(bias).to_contiguous());
        let panels = Panels::new(matrix(&weight), bias.as_ref().map(values), shape);
        Self(Weight::Packed(Arc::new(panels)))
    }

    /// `x [N, in]` to `[N, out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.0 {
            Weight::Packed(panels) => multiply(panels, x),
            Weight::Plain(plain) => {
                let (weight, bias) = (**plain).clone();
                linear_reference(x, weight, bias)
            }
        }
    }

    /// The result of [`FrozenLinear::forward`] added to `sum [N, out]`, in its memory where nobody else holds it.
    pub fn forward_onto(&self, x: Tensor<2>, sum: Tensor<2>) -> Tensor<2> {
        let Weight::Packed(panels) = &self.0 else {
            return sum + self.forward(x);
        };
        let [depth, width] = panels.shape();
        assert_eq!(x.dims()[1], depth, "as many features as the weight has rows");
        assert_eq!(sum.dims(), [x.dims()[0], width], "a sum of the result's shape");
        let x = into_flex(x).to_contiguous();
        from_flex(map_owned(into_flex(sum), |sum| panels.multiply_onto(values(&x), sum)))
    }
}

impl FrozenGatedLinear {
    /// `gate_weight` and `up_weight` are `[in, out]`, in any order in memory.
    pub fn new(gate_weight: Tensor<2>, up_weight: Tensor<2>, gate: Gate) -> Self {
        let shape = gate_weight.dims();
        assert_eq!(shape, up_weight.dims(), "a gate is as large as what it gates");
        let weights = [gate_weight, up_weight];
        if !weights.iter().all(is_flex) {
            return Self(GatedWeight::Plain(Box::new(weights), gate));
        }
        let weights = weights.map(into_flex);
        let [g, u] = [with_strides(&weights[0]), with_strides(&weights[1])];
        let panels = Panels::gated([matrix(&g), matrix(&u)], gate, shape);
        Self(GatedWeight::Packed(Arc::new(panels)))
    }

    /// `x [N, in]` to `[N, out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.0 {
            GatedWeight::Packed(panels) => multiply(panels, x),
            GatedWeight::Plain(weights, gate) => {
                let [g, u] = (**weights).clone();
                gated_linear_reference(x, g, u, *gate)
            }
        }
    }
}

/// [`FrozenLinear`] in plain burn.
pub fn linear_reference(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let y = x.matmul(weight);
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// [`FrozenGatedLinear`] in plain burn.
pub fn gated_linear_reference(x: Tensor<2>, gate_weight: Tensor<2>, up_weight: Tensor<2>, gate: Gate) -> Tensor<2> {
    let (g, u) = (x.clone().matmul(gate_weight), x.matmul(up_weight));
    match gate {
        Gate::Silu => gated_silu(g, u),
        Gate::GeluTanh => gated_gelu(g, u),
    }
}

fn multiply(panels: &Panels, x: Tensor<2>) -> Tensor<2> {
    let [rows, depth] = x.dims();
    assert_eq!(depth, panels.shape()[0], "as many features as the weight has rows");
    let x = into_flex(x).to_contiguous();
    from_flex(new_flex(panels.multiply(values(&x)), [rows, panels.shape()[1]]))
}

/// `weight`, copied only if an axis runs backwards.
fn with_strides(weight: &FlexTensor) -> FlexTensor {
    if weight.layout().strides().iter().all(|&stride| stride >= 0) {
        weight.clone()
    } else {
        with_whole_rows(weight.clone())
    }
}

fn matrix(weight: &FlexTensor) -> Matrix<'_> {
    let layout = weight.layout();
    Matrix {
        values: &weight.storage()[layout.start_offset()..],
        strides: [0, 1].map(|axis| layout.strides()[axis].unsigned_abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flex::testing::{assert_close, tensor};

    const SHAPES: [[usize; 3]; 6] = [
        [1, 1, 1],
        [7, 5, 3],
        [12, 64, 32],
        [33, 576, 960],
        [25, 31, 47],
        [131, 96, 65],
    ];

    #[test]
    fn any_shape_and_order_of_the_weight_equals_the_reference() {
        for [rows, depth, width] in SHAPES {
            let (x, weight, bias) = (tensor([rows, depth], 1), tensor([depth, width], 2), tensor([width], 3));
            let scale = (depth as f32).sqrt().recip();
            let (x, turned) = (x * scale, tensor([width, depth], 4).transpose());
            for weight in [weight.clone(), turned, weight.flip([0, 1])] {
                let right = linear_reference(x.clone(), weight.clone(), Some(bias.clone()));
                let linear = FrozenLinear::new(weight.clone(), Some(bias.clone()));
                assert_close(linear.forward(x.clone()), right.clone(), 1e-5);
                let sum = tensor([rows, width], 5);
                let kept = sum.clone() + 0.0;
                assert_close(linear.forward_onto(x.clone(), sum.clone()), right + kept.clone(), 1e-5);
                assert_close(sum, kept, 0.0);
                let right = linear_reference(x.clone(), weight.clone(), None);
                assert_close(FrozenLinear::new(weight, None).forward(x.clone()), right, 1e-5);
            }
        }
    }

    #[test]
    fn gated_maps_equal_the_reference() {
        for [rows, depth, width] in SHAPES {
            let x = tensor([rows, depth], 1) * (depth as f32).sqrt().recip();
            let (g, u) = (
                tensor([width, depth], 2).transpose() * 0.2,
                tensor([depth, width], 3) * 0.2,
            );
            for gate in [Gate::Silu, Gate::GeluTanh] {
                let right = gated_linear_reference(x.clone(), g.clone(), u.clone(), gate);
                let linear = FrozenGatedLinear::new(g.clone(), u.clone(), gate);
                assert_close(linear.forward(x.clone()), right, 1e-5);
            }
        }
    }

    #[test]
    fn a_view_of_the_input_is_multiplied_as_it_looks() {
        let (x, weight) = (tensor([9, 30], 1).narrow(1, 3, 20), tensor([20, 40], 2) * 0.1);
        let right = linear_reference(x.clone(), weight.clone(), None);
        assert_close(FrozenLinear::new(weight, None).forward(x), right, 1e-5);
    }
}
