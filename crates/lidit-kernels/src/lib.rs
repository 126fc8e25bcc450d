//! Fused operations that burn lacks, forward and backward, each beside its plain-burn reference.
//!
//! On the CPU (burn-flex) in f32 they run as one pass over memory on all cores; anywhere else they are their reference,
//! which burn-fusion joins on a GPU. Results depend on the CPU's instruction set in the last bits.

mod gelu;

pub use gelu::{gelu, gelu_reference};
