//! What one LLM says about a batch of prompts.

use std::ops::Range;

use burn::tensor::{Bool, Device, FloatDType, Tensor, TensorData};

use crate::config::Pooling;

/// The states of one LLM for a batch of prompts, padded to one length.
///
/// A prompt is instruction and caption; the refiners see both, the backbone only the caption. What lies in padding
/// never changes a result, as long as it is finite.
#[derive(Debug, Clone)]
pub struct PromptBatch {
    /// `[B, T, context_dim]`.
    pub states: Tensor<3>,
    /// `[B, T]`, true for a real token and false for padding.
    pub valid: Tensor<2, Bool>,
    /// `[B, T]`, true for a token of the caption: what is kept after the cut. Never true where `valid` is false.
    pub caption: Tensor<2, Bool>,
    /// Number of leading columns that hold a caption token in no row; less than T. They are dropped by the cut.
    pub cut: usize,
}

/// The unpadded states of one prompt.
#[derive(Debug, Clone)]
pub struct PromptRow<'a> {
    /// `[tokens, context_dim]`, row-major.
    pub states: &'a [f32],
    /// Which of the tokens are the caption's; empty for an empty caption.
    pub caption: Range<usize>,
}

impl PromptBatch {
    /// Pads `rows` on the right to the longest of them (at least one column).
    ///
    /// # Panics
    /// If a row's length is not a multiple of `context_dim`, or its caption range reaches beyond its tokens.
    pub fn from_rows(rows: &[PromptRow<'_>], context_dim: usize, device: &Device) -> Self {
        let tokens = |row: &PromptRow<'_>| row.states.len() / context_dim;
        let (b, t) = (rows.len(), rows.iter().map(tokens).max().unwrap_or(0).max(1));
        let mut states = vec![0.0_f32; b * t * context_dim];
        let mut valid = vec![false; b * t];
        let mut caption = vec![false; b * t];
        for (i, row) in rows.iter().enumerate() {
            let n = tokens(row);
            assert!(
                row.states.len() == n * context_dim && row.caption.end <= n,
                "prompt {i} has a ragged shape"
            );
            states[i * t * context_dim..][..row.states.len()].copy_from_slice(row.states);
            valid[i * t..][..n].fill(true);
            caption[i * t..][row.caption.clone()].fill(true);
        }
        let starts = rows
            .iter()
            .filter(|row| !row.caption.is_empty())
            .map(|row| row.caption.start);
        Self {
            states: Tensor::from_data(TensorData::new(states, [b, t, context_dim]), device),
            valid: Tensor::from_data(TensorData::new(valid, [b, t]), device),
            caption: Tensor::from_data(TensorData::new(caption, [b, t]), device),
            cut: starts.min().unwrap_or(t - 1),
        }
    }

    /// The mean of `states` over the tokens that `pooling` names: `[B, context_dim]`, f32; zero for a row without any.
    pub(crate) fn pool(&self, states: Tensor<3>, pooling: Pooling) -> Tensor<2> {
        let mask = match pooling {
            Pooling::Caption => self.caption.clone(),
            Pooling::All => self.valid.clone(),
        };
        let mask = mask.float().cast(FloatDType::F32).unsqueeze_dim::<3>(1); // [B, 1, T]
        let count = mask.clone().sum_dim(2).clamp_min(1.0); // [B, 1, 1]
        let sum = mask.matmul(states.cast(FloatDType::F32)); // [B, 1, context_dim]
        (sum / count).squeeze_dim(1) // [B, context_dim]
    }

    /// Drops the leading columns without captions from `x` `[B, T, D]` and from the caption mask.
    pub(crate) fn cut_instruction(&self, x: Tensor<3>) -> (Tensor<3>, Tensor<2, Bool>) {
        let [b, t, d] = x.dims();
        if self.cut == 0 {
            return (x, self.caption.clone());
        }
        (
            x.slice([0..b, self.cut..t, 0..d]),
            self.caption.clone().slice([0..b, self.cut..t]),
        )
    }
}
