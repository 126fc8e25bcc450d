//! T5's relative positions: a learnt bias on the scores for each bucket of distances.

use burn::tensor::{DType, Device, Tensor, TensorData};

/// The table of one layer, on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct RelativeBias {
    /// `[num_buckets, num_heads]`.
    table: Vec<f32>,
    num_heads: usize,
    num_buckets: usize,
    max_distance: usize,
}

impl RelativeBias {
    /// `table` is `[num_buckets, num_heads]`, row-major.
    pub fn new(table: Vec<f32>, num_buckets: usize, max_distance: usize) -> Self {
        Self {
            num_heads: table.len() / num_buckets,
            table,
            num_buckets,
            max_distance,
        }
    }

    /// `[H, T, T]`: what head `h` adds to the score of query `i` and key `j`.
    pub fn scores(&self, len: usize, device: &Device) -> Tensor<3> {
        // By distance `j - i + len - 1`.
        let buckets: Vec<usize> = (0..2 * len)
            .map(|shifted| self.bucket(shifted as isize - (len as isize - 1)))
            .collect();
        let mut values = Vec::with_capacity(self.num_heads * len * len);
        for head in 0..self.num_heads {
            for query in 0..len {
                let distances = (0..len).map(|key| buckets[key + len - 1 - query]);
                values.extend(distances.map(|bucket| self.table[bucket * self.num_heads + head]));
            }
        }
        Tensor::from_data(
            TensorData::new(values, [self.num_heads, len, len]),
            (device, DType::F32),
        )
    }

    /// Half of the buckets for keys before the query, half for those after; near distances one each, far ones in
    /// logarithmic steps (Raffel et al., arXiv 1910.10683, section 2.1, as transformers computes it in f32).
    fn bucket(&self, distance: isize) -> usize {
        let half = self.num_buckets / 2;
        let side = if distance > 0 { half } else { 0 };
        let distance = distance.unsigned_abs();
        let num_exact = half / 2;
        if distance < num_exact {
            return side + distance;
        }
        let scale = (self.max_distance as f64 / num_exact as f64).ln() as f32;
        let steps = (distance as f32 / num_exact as f32).ln() / scale * (half - num_exact) as f32;
        side + (num_exact + steps as usize).min(half - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_fall_into_the_buckets_of_t5() {
        let bias = RelativeBias::new(vec![0.0; 32], 32, 128);
        // From transformers' `T5Attention._relative_position_bucket`, bidirectional, 32 buckets, 128 positions.
        let distances = [0, -1, 1, -7, 7, -8, 8, -11, -12, -16, 16, -40, -64, 64, -127, 127, -500];
        let buckets = [0, 1, 17, 7, 23, 8, 24, 8, 9, 10, 26, 12, 14, 30, 15, 31, 15];
        assert_eq!(distances.map(|distance| bias.bucket(distance)), buckets);
    }
}
