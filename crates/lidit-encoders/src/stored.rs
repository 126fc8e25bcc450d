//! Tensors as files store them: in the type of the file, on the host.

use half::{bf16, f16};

/// Values in row-major order.
pub enum Stored {
    /// 32-bit floats.
    F32(Vec<f32>),
    /// 16-bit floats.
    F16(Vec<f16>),
    /// 16-bit brain floats.
    Bf16(Vec<bf16>),
}

impl Stored {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match self {
            Self::F32(values) => size_of_val(values.as_slice()),
            Self::F16(values) => size_of_val(values.as_slice()),
            Self::Bf16(values) => size_of_val(values.as_slice()),
        }
    }

    /// Widened to f32, which is exact.
    pub fn into_f32(self) -> Vec<f32> {
        match self {
            Self::F32(values) => values,
            Self::F16(values) => values.iter().map(|v| v.to_f32()).collect(),
            Self::Bf16(values) => values.iter().map(|v| v.to_f32()).collect(),
        }
    }

    /// Rounded to the nearest bf16, ties to even.
    pub fn into_bf16(self) -> Vec<bf16> {
        match self {
            Self::F32(values) => values.iter().map(|&v| bf16::from_f32(v)).collect(),
            Self::F16(values) => values.iter().map(|v| bf16::from_f32(v.to_f32())).collect(),
            Self::Bf16(values) => values,
        }
    }

    /// Some of the values, widened to f32.
    pub fn slice(&self, range: std::ops::Range<usize>, out: &mut Vec<f32>) {
        match self {
            Self::F32(values) => out.extend_from_slice(&values[range]),
            Self::F16(values) => out.extend(values[range].iter().map(|v| v.to_f32())),
            Self::Bf16(values) => out.extend(values[range].iter().map(|v| v.to_f32())),
        }
    }

    /// The rows of a matrix in another order: row `i` of the result is row `order(i)`.
    pub fn reorder_rows(self, columns: usize, order: impl Fn(usize) -> usize) -> Self {
        match self {
            Self::F32(values) => Self::F32(reordered(&values, columns, order)),
            Self::F16(values) => Self::F16(reordered(&values, columns, order)),
            Self::Bf16(values) => Self::Bf16(reordered(&values, columns, order)),
        }
    }
}

fn reordered<T: Copy>(values: &[T], columns: usize, order: impl Fn(usize) -> usize) -> Vec<T> {
    let mut rows = Vec::with_capacity(values.len());
    for row in 0..values.len() / columns {
        rows.extend_from_slice(&values[order(row) * columns..][..columns]);
    }
    rows
}
