//! Rotary positions: pairs of features turn by an angle that grows with the position.

use burn::tensor::{DType, Device, Tensor, TensorData};
use lidit_kernels::rotate;

/// Cosines and sines for some positions of one set of frequencies.
#[derive(Clone, Debug)]
pub struct Rope {
    cos: Tensor<2>, // [T, head_dim / 2]
    sin: Tensor<2>,
}

impl Rope {
    /// The tables for the positions `first .. first + count`, computed in f32 as transformers does.
    pub fn new(frequencies: &[f32], first: usize, count: usize, device: &Device) -> Self {
        let positions = first..first + count;
        let angles: Vec<f32> = positions
            .flat_map(|position| frequencies.iter().map(move |frequency| position as f32 * frequency))
            .collect();
        let table = |f: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|&angle| f(angle)).collect();
            Tensor::from_data(
                TensorData::new(values, [count, frequencies.len()]),
                (device, DType::F32),
            )
        };
        Self {
            cos: table(f32::cos),
            sin: table(f32::sin),
        }
    }

    /// Turns `x [B, T, H, D]`; feature `i` is paired with feature `i + D / 2`.
    pub fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        rotate(x, self.cos.clone(), self.sin.clone())
    }
}

/// Where llama.cpp's converter put row `row` of a query or key projection: it pairs neighbouring features
/// `(2i, 2i + 1)` of a head where this crate pairs `(i, i + head_dim / 2)`.
pub fn unpermuted_row(row: usize, head_dim: usize) -> usize {
    let (head, feature) = (row / head_dim, row % head_dim);
    let (part, pair) = (feature / (head_dim / 2), feature % (head_dim / 2));
    head * head_dim + 2 * pair + part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partners_of_a_pair_come_from_neighbouring_rows() {
        let rows: Vec<_> = (0..8).map(|row| unpermuted_row(row, 4)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
    }

    #[test]
    fn turning_keeps_position_zero_and_every_length() {
        let device = Device::flex();
        let values: Vec<f32> = (0_u8..24).map(|i| f32::from(i % 7) - 3.0).collect();
        let x = Tensor::<4>::from_data(TensorData::new(values, [1, 3, 2, 4]), (&device, DType::F32));
        let y = Rope::new(&[1.0, 0.1], 0, 3, &device).rotate(x.clone());
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
