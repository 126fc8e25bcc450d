//! Which keys a query of the trained network sees.

use burn::tensor::{Bool, FloatDType, Tensor};

/// Added to the score of a key that must not be seen. Far below any real score, far above the least f32.
pub(crate) const HIDDEN: f32 = -1e9;

/// Which keys a query sees: the text tokens that are no padding, or those of them that are not after itself.
#[derive(Debug, Clone)]
pub struct VisibleKeys {
    /// `[B, 1, N or 1, T]`, zero for a visible key and [`HIDDEN`] for a hidden one.
    pub(crate) bias: Tensor<4>,
    /// `[B, 1, N or 1, 1]`, one if the query sees any key and zero if it sees none.
    pub(crate) any_key: Tensor<4>,
    pub(crate) kind: MaskKind,
}

/// What a mask depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskKind {
    /// Nothing: all keys are seen.
    Open,
    /// The key: `[B, 1, 1, T]`.
    Keys,
    /// Query and key: `[B, 1, N, T]`.
    Pairs,
}

impl VisibleKeys {
    /// Every query sees the keys of its row for which `valid` `[B, T]` is true.
    pub fn keys(valid: Tensor<2, Bool>) -> Self {
        Self::new(valid.unsqueeze_dims(&[1, 2]), MaskKind::Keys) // [B, 1, 1, T]
    }

    /// As [`keys`](Self::keys), and a query sees no key after itself. Queries and keys are the same `T` tokens.
    pub fn causal_keys(valid: Tensor<2, Bool>) -> Self {
        let [b, t] = valid.dims();
        let future = Tensor::<2, Bool>::tril_mask([t, t], 0, &valid.device()); // true above the diagonal
        let past = future.bool_not().unsqueeze::<4>(); // [1, 1, T, T]
        let valid = valid.unsqueeze_dims::<4>(&[1, 2]).repeat_dim(2, t); // [B, 1, T, T]
        Self::new(valid.bool_and(past.repeat_dim(0, b)), MaskKind::Pairs)
    }

    fn new(visible: Tensor<4, Bool>, kind: MaskKind) -> Self {
        let visible = visible.float().cast(FloatDType::F32);
        Self {
            any_key: visible.clone().max_dim(3),
            bias: visible.sub_scalar(1.0).mul_scalar(-HIDDEN),
            kind,
        }
    }
}
