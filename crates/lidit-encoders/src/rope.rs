//! Rotary positions: pairs of features turn by an angle that grows with the position.

use burn::tensor::{DType, Device, Tensor, TensorData};

/// Cosines and sines for the positions `0..T` of one frequency base.
#[derive(Clone, Debug)]
pub struct Rope {
    cos: Tensor<4>, // [1, T, 1, head_dim / 2]
    sin: Tensor<4>,
}

impl Rope {
    /// The tables for `num_positions` positions, computed in f32 as transformers does: pair `i` turns by
    /// `position / base^(2 i / head_dim)`.
    pub fn new(base: f32, head_dim: usize, num_positions: usize, device: &Device) -> Self {
        let half = head_dim / 2;
        let frequencies: Vec<f32> = (0..half)
            .map(|i| base.powf((2 * i) as f32 / head_dim as f32).recip())
            .collect();
        let angles: Vec<f32> = (0..num_positions)
            .flat_map(|position| frequencies.iter().map(move |frequency| position as f32 * frequency))
            .collect();
        let table = |f: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|&angle| f(angle)).collect();
            Tensor::from_data(
                TensorData::new(values, [1, num_positions, 1, half]),
                (device, DType::F32),
            )
        };
        Self {
            cos: table(f32::cos),
            sin: table(f32::sin),
        }
    }

    /// Tables that also multiply by `factor`: the scale of the scores rides on the queries for free.
    pub fn scaled(&self, factor: f32) -> Self {
        Self {
            cos: self.cos.clone() * factor,
            sin: self.sin.clone() * factor,
        }
    }

    /// Turns `x [B, T, H, D]`; feature `i` is paired with feature `i + D / 2`.
    pub fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let half = x.dims()[3] / 2;
        let first = x.clone().narrow(3, 0, half);
        let second = x.narrow(3, half, half);
        let turned = vec![
            first.clone() * self.cos.clone() - second.clone() * self.sin.clone(),
            second * self.cos.clone() + first * self.sin.clone(),
        ];
        Tensor::cat(turned, 3)
    }
}

/// Undoes the row order of llama.cpp's converter, which pairs neighbouring features `(2i, 2i + 1)` of a head
/// where this crate pairs `(i, i + D / 2)`.
///
/// `weight` is `[num_heads * head_dim, columns]`, row-major.
pub fn unpermute(weight: &[f32], num_heads: usize, head_dim: usize) -> Vec<f32> {
    let columns = weight.len() / (num_heads * head_dim);
    let half = head_dim / 2;
    let mut rows = Vec::with_capacity(weight.len());
    for head in 0..num_heads {
        for feature in 0..head_dim {
            let (part, pair) = (feature / half, feature % half);
            let row = head * head_dim + 2 * pair + part;
            rows.extend_from_slice(&weight[row * columns..][..columns]);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpermuting_puts_the_partners_of_a_pair_half_a_head_apart() {
        let weight: Vec<f32> = (0_u8..8).map(f32::from).collect();
        let rows = unpermute(&weight, 2, 4);
        assert_eq!(rows, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    }

    #[test]
    fn turning_keeps_position_zero_and_every_length() {
        let device = Device::flex();
        let values: Vec<f32> = (0_u8..24).map(|i| f32::from(i % 7) - 3.0).collect();
        let x = Tensor::<4>::from_data(TensorData::new(values, [1, 3, 2, 4]), (&device, DType::F32));
        let y = Rope::new(100.0, 4, 3, &device).rotate(x.clone());
        let first = |t: &Tensor<4>| t.clone().narrow(1, 0, 1).into_data();
        assert_eq!(first(&x), first(&y));
        let squares = |t: Tensor<4>| t.square().sum_dim(3);
        let change = (squares(x) - squares(y.clone())).abs().max().into_scalar::<f32>();
        assert!(change < 1e-5, "lengths changed by {change}");
        let moved = (y.clone().narrow(1, 1, 1) - y.narrow(1, 2, 1))
            .abs()
            .max()
            .into_scalar::<f32>();
        assert!(moved > 0.1, "later positions turn differently");
    }
}
