//! Which shards a command looks at.

use std::path::PathBuf;

/// A set of shards and its columns.
#[derive(clap::Args)]
pub struct ShardArgs {
    /// A manifest or its folder, a Parquet file, a folder of them, a glob, or a URL of one of these.
    pub path: PathBuf,
    /// Column of pictures.
    #[arg(long, value_name = "COLUMN", default_value = "image")]
    pub image_column: String,
    /// Column of captions.
    #[arg(long, value_name = "COLUMN", default_value = "caption")]
    pub caption_column: String,
}
