//! Fused operations that burn lacks, each beside its plain-burn reference; those that are trained have their own
//! backward; and the passes over flat vectors that an update makes.
//!
//! On the CPU (burn-flex) they run as one pass over memory on all cores, in f32; matrix products are f32 or, where the
//! weights are, bf16 with f32 sums. On a GPU those that are trained keep their own backward, made of the backend's
//! operations, which burn-fusion joins. Anything else is the reference. Results depend on the CPU's instruction set in the
//! last bits.

mod attention;
mod attention_chunks;
mod attention_flex;
mod attention_mask;
mod autodiff;
mod comparison;
mod composed;
mod flat_update;
mod flex;
mod frozen_matrix;
mod gated;
mod gated_residual;
mod gelu;
mod layer_norm;
mod linear;
mod neighbours;
mod number;
mod product;
mod product_bf16;
mod rms_norm;
mod rope;
mod round;
mod row_sums;
mod simd;
mod sum_of_squares;
mod tile;
mod trained_attention;
mod trained_attention_flex;
mod visible_keys;

pub use attention::{AttentionScores, attention, attention_reference};
pub use attention_mask::{AttentionMask, Reach};
pub use comparison::{Comparison, Deviation, comparisons};
pub use flat_update::{
    AdamW, FlatAverage, FlatMoments, FlatSegment, GradientScale, flat_update, flat_update_reference, updates_in_place,
};
pub use frozen_matrix::FrozenMatrix;
pub use gated::{gated_gelu, gated_gelu_reference, gated_silu, gated_silu_reference};
pub use gated_residual::{gated_residual, gated_residual_reference};
pub use gelu::{gelu, gelu_reference};
pub use layer_norm::{layer_norm, layer_norm_reference, norm_modulate, norm_modulate_reference};
pub use linear::{linear, linear_reference, wide_linear};
pub use neighbours::{neighbours, neighbours_reference};
pub use rms_norm::{rms_norm, rms_norm_reference};
pub use rope::{rotate, rotate_reference};
pub use round::round_to_bf16;
pub use sum_of_squares::{SQUARES_ROW, row_squares, row_squares_reference, sum_of_squares};
pub use trained_attention::{trained_attention, trained_attention_reference};
pub use visible_keys::{MaskKind, VisibleKeys};
