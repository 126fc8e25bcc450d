#![allow(missing_docs)]
use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::{DType, Tensor, TensorData};

#[derive(Clone, Debug)]
pub struct AttentionMask {
    pub causal: bool,
    pub window: Option<usize>,
    pub lengths: Vec<usize>,
    pub shared: Vec<usize>,
    pub scale: f32,
    pub softcap: Option<f32>,
}

pub fn rms_norm<const D: usize>(x: Tensor<D>, gain: Tensor<1>, eps: f32) -> Tensor<D> {
    let mean_square = x.clone().square().mean_dim(D - 1);
    let scale = (mean_square + eps).sqrt().recip();
    x * scale * gain.unsqueeze()
}
pub fn gated_silu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    sigmoid(gate.clone()) * gate * up
}
pub fn gated_gelu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    lidit_kernels::gelu(gate) * up
}
pub fn rotate(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    let half = x.dims()[3] / 2;
    let len = x.dims()[1];
    let cos = cos.reshape([1, len, 1, half]);
    let sin = sin.reshape([1, len, 1, half]);
    let first = x.clone().narrow(3, 0, half);
    let second = x.narrow(3, half, half);
    let turned = vec![
        first.clone() * cos.clone() - second.clone() * sin.clone(),
        second * cos + first * sin,
    ];
    Tensor::cat(turned, 3)
}
pub fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    before: Option<(Tensor<3>, Tensor<3>)>,
    bias: Option<Tensor<3>>,
    mask: &AttentionMask,
) -> Tensor<4> {
    let [b, t, h, d] = query.dims();
    let k = key.dims()[2];
    let (key, value, p) = match before {
        None => (key, value, 0),
        Some((bk, bv)) => {
            let p = bk.dims()[0];
            let wide = |x: Tensor<3>| x.unsqueeze_dim::<4>(0).repeat_dim(0, b);
            (
                Tensor::cat(vec![wide(bk), key], 1),
                Tensor::cat(vec![wide(bv), value], 1),
                p,
            )
        }
    };
    let s = p + t;
    let device = query.device();
    let mut m = Vec::with_capacity(b * t * s);
    for row in 0..b {
        let shared = mask.shared[row];
        for q in 0..t {
            for j in 0..s {
                let (seen, at) = if j < p {
                    (j < shared, j)
                } else {
                    (j - p < mask.lengths[row], shared + j - p)
                };
                let q = shared + q;
                let seen = seen && (!mask.causal || at <= q) && mask.window.is_none_or(|w| q < at + w);
                m.push(if seen { 0.0_f32 } else { -1e30 });
            }
        }
    }
    let m = Tensor::<4>::from_data(TensorData::new(m, [b, 1, t, s]), (&device, DType::F32));
    let group = h / k;
    let query = query.swap_dims(1, 2).reshape([b, k, group * t, d]);
    let key = key.swap_dims(1, 2).swap_dims(2, 3);
    let value = value.swap_dims(1, 2);
    let mut scores = query.matmul(key).reshape([b, h, t, s]) * mask.scale;
    if let Some(cap) = mask.softcap {
        scores = (scores / cap).tanh() * cap;
    }
    if let Some(bias) = bias {
        scores = scores + bias.unsqueeze_dim::<4>(0);
    }
    let weights = softmax(scores + m, 3).reshape([b, k, group * t, s]);
    weights.matmul(value).reshape([b, h, t, d]).swap_dims(1, 2)
}
