//! Parameters as `PyTorch` holds them: matrices are `[out, in]` there and `[in, out]` here; all else is alike.

use std::borrow::Cow;

use safetensors::tensor::{Dtype, View};

/// A parameter of ours that is stored as `PyTorch` holds it.
pub(crate) struct ForPyTorch<'a> {
    shape: Vec<usize>,
    values: &'a [f32],
}

impl<'a> ForPyTorch<'a> {
    /// The parameter of `shape` here.
    pub fn new(shape: &[usize], values: &'a [f32]) -> Self {
        Self {
            shape: turned(shape),
            values,
        }
    }
}

impl View for ForPyTorch<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self.shape[..] {
            [outputs, inputs] => {
                let turned = transposed(self.values, inputs, outputs);
                Cow::Owned(bytemuck::cast_slice(&turned).to_vec())
            }
            _ => Cow::Borrowed(bytemuck::cast_slice(self.values)),
        }
    }

    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}

/// Shape and values here of a parameter that `PyTorch` holds as `shape` and `values`.
pub(crate) fn from_pytorch(shape: &[usize], values: Vec<f32>) -> (Vec<usize>, Vec<f32>) {
    match *shape {
        [outputs, inputs] => (turned(shape), transposed(&values, outputs, inputs)),
        _ => (shape.to_vec(), values),
    }
}

fn turned(shape: &[usize]) -> Vec<usize> {
    match *shape {
        [rows, columns] => vec![columns, rows],
        _ => shape.to_vec(),
    }
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut turned = Vec::with_capacity(values.len());
    for column in 0..columns {
        turned.extend((0..rows).map(|row| values[row * columns + column]));
    }
    turned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_are_turned_and_back_and_all_else_stays() {
        let matrix = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let stored = ForPyTorch::new(&[2, 3], &matrix);
        assert_eq!(stored.shape(), [3, 2]);
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&stored.data());
        assert_eq!(values, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        assert_eq!(from_pytorch(&[3, 2], values), (vec![2, 3], matrix.to_vec()));
        let kernel = ForPyTorch::new(&[1, 2, 3, 1], &matrix);
        assert_eq!(kernel.shape(), [1, 2, 3, 1]);
        assert_eq!(from_pytorch(&[1, 2, 3, 1], matrix.to_vec()).1, matrix);
    }
}
