//! The sum of squares of a flat vector, in an order of its own.

use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::flex::{from_flex, into_flex, is_flex, new_flex, values};
use crate::simd::{dispatch, sum};

/// Elements of a row of [`sum_of_squares`]: a vector cut between rows has the same rows.
pub const SQUARES_ROW: usize = 4096;

/// The sum of `(x / divisor)^2` over `x` `[n]`, f32: of the numbers of [`row_squares`], one after the other in f64. It
/// depends neither on threads nor on where a vector is cut between rows. (burn-flex's own `sum` of 4 Mi elements or more is
/// summed in parallel.)
pub fn sum_of_squares(x: &Tensor<1>, divisor: f64) -> f64 {
    row_squares(x, divisor).into_data().iter::<f32>().map(f64::from).sum()
}

/// The sums of `(x / divisor)^2` over each row of [`SQUARES_ROW`] elements of `x` `[n]`, and over those that fill no row,
/// f32. Nothing is read back.
pub fn row_squares(x: &Tensor<1>, divisor: f64) -> Tensor<1> {
    if !is_flex(x) {
        return row_squares_reference(x, divisor);
    }
    let x = into_flex(x.clone()).to_contiguous();
    let rows = values(&x).par_chunks(SQUARES_ROW).map(|row| {
        let mut sum = 0.0;
        squares(row, divisor as f32, &mut sum);
        sum
    });
    let rows: Vec<f32> = rows.collect();
    let len = rows.len();
    from_flex(new_flex(rows, [len]))
}

/// The same in plain burn. The order inside a row is the device's.
pub fn row_squares_reference(x: &Tensor<1>, divisor: f64) -> Tensor<1> {
    let [len] = x.dims();
    let whole = len / SQUARES_ROW * SQUARES_ROW;
    let x = x.clone().div_scalar(divisor);
    let squares = x.clone() * x;
    let parts = [(0, whole), (whole, len)]
        .into_iter()
        .filter(|(start, end)| start < end);
    let sums = parts.map(|(start, end)| {
        let columns = SQUARES_ROW.min(end - start);
        let rows = (end - start) / columns;
        squares
            .clone()
            .narrow(0, start, end - start)
            .reshape([rows, columns])
            .sum_dim(1)
            .reshape([rows])
    });
    Tensor::cat(sums.collect(), 0)
}

dispatch!(squares, squares_body, (row: &[f32], divisor: f32, out: &mut f32));

#[inline(always)]
fn squares_body(row: &[f32], divisor: f32, out: &mut f32) {
    *out = sum(row, |x| {
        let x = x / divisor;
        x * x
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flex::testing::tensor;

    #[test]
    fn every_element_counts_once_and_cuts_between_rows_change_no_bit() {
        for len in [1, SQUARES_ROW - 1, SQUARES_ROW, 3 * SQUARES_ROW + 5] {
            let x: Tensor<1> = tensor([len], 1);
            let numbers = x.to_data();
            let right: f64 = numbers.iter::<f32>().map(|x| f64::from(x / 3.0).powi(2)).sum();
            for rows in [row_squares(&x, 3.0), row_squares_reference(&x, 3.0)] {
                assert_eq!(rows.dims(), [len.div_ceil(SQUARES_ROW)]);
                let sum: f64 = rows.into_data().iter::<f32>().map(f64::from).sum();
                assert!((sum - right).abs() <= 1e-6 * right, "{len}: {sum} and {right}");
            }
        }
        let x: Tensor<1> = tensor([SQUARES_ROW + 77], 2);
        let [head, tail] = [0..SQUARES_ROW, SQUARES_ROW..SQUARES_ROW + 77].map(|range| x.clone().slice([range]));
        let cut = sum_of_squares(&head, 3.0) + sum_of_squares(&tail, 3.0);
        assert_eq!(cut.to_bits(), sum_of_squares(&x, 3.0).to_bits());
    }
}
