//! Image-caption Parquet shards to host batches, in a seekable order. Knows no tensors.
//!
//! The stream of samples is endless and a pure function of (seed, position): [`SampleOrder`] says which sample stands
//! at a position, [`Dataset`] reads it from its [`Manifest`]'s shards, and [`Loader`] hands each rank its share of every
//! global batch. [`FeatureSet`] and [`FeatureLoader`] do the same for what frozen encoders said about the captions, as
//! plain bytes. [`SampleRng`] is the counter-based generator that everything random about a sample comes from. All of
//! it is specified in `docs/data.md` so that another language can repeat it.

mod ahead;
mod batch;
mod block;
mod bucket;
mod build;
mod captions;
mod client;
mod config;
mod dataset;
mod emoji;
mod error;
mod failure;
mod feature_file;
mod feature_loader;
mod feature_row;
mod feature_set;
mod footer;
mod image;
mod inspect;
mod interleave;
mod layout;
mod loader;
mod location;
mod manifest;
mod members;
mod open_source;
mod order;
mod order_report;
mod page;
mod part;
mod permutation;
mod philox;
mod pipeline;
mod remote;
mod row_store;
mod sample;
mod sample_sum;
mod shard;
mod shard_file;
mod shard_set;
mod source;
mod storage;
mod streamed;
mod subset;
#[cfg(test)]
mod test_shards;
mod verify;
mod window;
mod writer;

pub use batch::MicroBatch;
pub use bucket::{Bucket, BucketGrid};
pub use build::{
    Build, BuildProgress, BuildSource, BuildStart, Built, FolderSource, ListSource, OnBad, ParquetSource, ShardSize,
    SkippedRow, SourceKind, TarSource, build,
};
pub use captions::Captions;
pub use config::{DataConfig, SourceColumns, SourceConfig, SyntheticCaptions};
pub use dataset::{Dataset, Quarantined};
pub use emoji::{EmojiBuild, EmojiGroup, EmojiPackage, EmojiStyle, StyledEmojiBuild, build_emoji, build_emoji_styles};
pub use error::DataError;
pub use feature_file::FeatureFile;
pub use feature_loader::FeatureLoader;
pub use feature_row::{FeatureRow, PromptFeatures, StoredLatents};
pub use feature_set::{FeatureSet, FeatureSource, SampleFeatures};
pub use image::read_picture;
pub use inspect::{CaptionStats, ColumnInfo, ImageStats, Inspection, inspect};
pub use loader::{LoadedStep, Loader, LoaderConfig};
pub use manifest::{FORMAT_VERSION, Licence, Manifest, ManifestColumn, ManifestFile, ManifestShard};
pub use open_source::Wanted;
pub use order::{Draw, SampleOrder, Share};
pub use order_report::{Amplification, OrderReport};
pub use permutation::KeyedPermutation;
pub use philox::{SampleRng, Stream, philox4x32};
pub use sample::Sample;
pub use sample_sum::SampleSum;
pub use shard_file::{CaptionColumn, MetadataColumn};
pub use subset::Subset;
pub use verify::{Verification, verify};
pub use writer::{Record, ShardWriter, WriterConfig};
