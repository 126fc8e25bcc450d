//! Ranks, rendezvous and collectives on flat host buffers.
//!
//! [`World`] is what the rest of the project sees: a rank, a size, and sums over ranks. It is alone (no engine, no
//! socket), or it speaks Gloo between CPU processes (feature `gloo`) or NCCL between GPU processes (feature `nccl`).
//! Every wait has a deadline, and a rank that is lost makes every other rank fail with a message that names it.

#[cfg(any(feature = "gloo", feature = "nccl"))]
mod bf16;
#[cfg(feature = "nccl")]
mod communicator;
mod error;
#[cfg(feature = "gloo")]
mod gloo;
pub mod gpu;
mod host;
#[cfg(feature = "gloo")]
mod interface;
mod meeting;
mod member;
#[cfg(feature = "gloo")]
mod mesh;
#[cfg(feature = "nccl")]
mod nccl;
mod place;
pub mod process;
mod slurm;
mod store;
#[cfg(any(feature = "gloo", feature = "nccl"))]
mod watch;
mod wire;
mod world;

pub use error::DistError;
#[cfg(feature = "gloo")]
pub use gloo::Gloo;
pub use meeting::Meeting;
pub use member::Member;
#[cfg(feature = "nccl")]
pub use nccl::Nccl;
pub use place::{Engine, Place};
pub use store::Store;
pub use world::{Transport, Wire, World};
