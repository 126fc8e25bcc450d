//! The embedding: rows gathered on the host, from a table that stays as the file stores it.

use crate::EncoderError;
use crate::gguf::QuantizedTable;
use crate::stored::Stored;

/// A table of rows by token id.
pub enum EmbeddingTable {
    /// Dequantised row by row: Gemma 3's takes 178 MB in `Q8_0`, 671 MB in f32.
    Quantized(QuantizedTable),
    /// In the file's float type.
    Stored {
        /// `[rows, dim]`, row-major.
        values: Stored,
        /// Width of a row.
        dim: usize,
    },
}

impl EmbeddingTable {
    /// Number of rows.
    pub fn num_rows(&self) -> usize {
        match self {
            Self::Quantized(table) => table.num_rows(),
            Self::Stored { values, dim } => values.len() / dim,
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Quantized(table) => table.bytes(),
            Self::Stored { values, .. } => values.bytes(),
        }
    }

    /// The rows of `ids` as f32, row-major: `[ids, dim]`.
    pub fn gather(&self, ids: &[u32]) -> Result<Vec<f32>, EncoderError> {
        let rows = self.num_rows();
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= rows) {
            return Err(EncoderError::TokenId { id, rows });
        }
        match self {
            Self::Quantized(table) => table.gather(ids),
            Self::Stored { values, dim } => {
                let mut out = Vec::with_capacity(ids.len() * dim);
                for &id in ids {
                    values.slice(id as usize * dim..(id as usize + 1) * dim, &mut out);
                }
                Ok(out)
            }
        }
    }
}
