//! The hub: run config, the training step, flat optimizer, averages, checkpoints, metrics.

pub mod audit;
pub mod cache;
pub mod history;
pub mod metrics;

mod atomic;
mod caption;
mod checkpoint;
mod columns;
mod conditioner;
mod config;
mod config_file;
mod console;
mod dashboard;
mod digest;
mod ema;
mod encode_price;
mod event_file;
mod features;
mod folder_lock;
mod generate;
mod gradients;
mod hparams;
mod image_grid;
mod jsonl;
mod layout;
mod manifest;
mod memory;
mod optimizer;
mod previews;
mod quarantine;
mod readable;
mod recorder;
mod resolve;
mod run_dir;
mod sample_draws;
mod schedule;
mod snapshot;
mod staged;
mod stages;
mod start;
mod state;
mod step;
mod stop;
mod stream_log;
mod tensorboard;
mod train;
mod vae;

pub use checkpoint::{Checkpoint, Weights};
pub use conditioner::{Conditioned, Conditioner};
pub use config::{CacheConfig, EncodersConfig, Precision, Remember, RunConfig, SampleConfig, Sharding, TrainConfig};
pub use config_file::ConfigFile;
pub use dashboard::{View, ViewRequest};
pub use encode_price::{EncodePrice, LlmPrice, TokenSample, Way};
pub use features::{
    DataIdentity, EncoderIdentity, FeatureIdentity, FeatureManifest, FeatureRequest, FeatureStore, FeaturesWritten,
    write_features,
};
pub use generate::{Request, to_pictures};
pub use image_grid::{GridRow, ImageGrid, Tile};
pub use layout::FlatLayout;
pub use manifest::Manifest;
pub use memory::MemoryEstimate;
pub use previews::{compare, real_picture};
pub use readable::{readable_bytes, readable_count};
pub use resolve::Start;
pub use run_dir::RunDir;
pub use staged::train;
pub use start::{Carry, StartConfig};
pub use state::{Identity, load_for_drawing};
pub use stop::Stop;
pub use tensorboard::Ending;
pub use train::{Ended, RunRequest};
pub use vae::{VaeConfig, VaeEnded, VaeRecord, VaeRequest, train_vae};
