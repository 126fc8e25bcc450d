//! Features: what the frozen encoders say about every caption of a data set, written once and trained on by many runs.
//!
//! `docs/features.md` describes the folder.

mod folder;
mod identity;
mod pictures;
mod progress;
mod states;
mod store;
mod write;

pub use identity::{DataIdentity, EncoderIdentity, FeatureIdentity, FeatureManifest};
pub use store::FeatureStore;
pub use write::{FeatureRequest, FeaturesWritten, write_features};
