//! What sharding saves. A binary of its own: it counts every allocation of the process.

use std::alloc::System;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use cap::Cap;
use lidit_kernels::GradientScale;
use lidit_model::{Conditioning, LiDit};
use lidit_train::{Ema, FlatAdamW, FlatLayout, Ownership, RunConfig, Sharding};

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// Bytes that an optimizer and its averages hold after a step, on each rank of a world.
fn bytes_on_each_rank(config: &RunConfig, layout: &FlatLayout, size: usize) -> Vec<usize> {
    let device = Device::flex();
    let on_rank = |rank| {
        let ownership = Ownership::new(&config.train, layout, rank, size);
        let before = MEMORY.allocated();
        let zeros = || -> Vec<_> {
            let pieces = ownership.pieces().into_iter();
            pieces.map(|piece| Tensor::zeros([piece.len()], &device)).collect()
        };
        let mut optimizer = FlatAdamW::new(&config.train, &config.model, layout, ownership.own(), zeros());
        let half_lives = config.train.ema_half_lives.iter();
        let mut averages: Vec<Ema> = half_lives.map(|half_life| Ema::new(*half_life, zeros())).collect();
        let scale = GradientScale {
            divisor: 1.0,
            factor: 1.0,
        };
        for (piece, gradient) in zeros().into_iter().enumerate() {
            optimizer.step(piece, 1e-3, &gradient, scale, &mut averages, config.train.global_batch);
        }
        MEMORY.allocated() - before
    };
    (0..size).map(on_rank).collect()
}

#[test]
fn the_bytes_of_optimizer_and_averages_fall_as_one_over_the_world() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/run/debug.toml");
    let mut config = RunConfig::load(&path, &["model.depth=16".to_owned()]).unwrap();
    config.train.sharding = Sharding::Zero1;
    config.train.bucket_mb = 1;
    let encoders = &config.encoders;
    let conditioning = Conditioning {
        context_dims: vec![64; encoders.llm.len()],
        input_norm: encoders.input_norm,
        pooling: encoders.pooling,
    };
    let layout = FlatLayout::of(&LiDit::init(&config.model, &conditioning, 0, &Device::flex()));
    // Masters, two moments and the averages, in f32.
    let expected = 4 * (3 + config.train.ema_half_lives.len()) * layout.len();
    // The first round also takes memory that the process keeps.
    bytes_on_each_rank(&config, &layout, 1);
    for size in [1, 2, 4, 8] {
        let bytes = bytes_on_each_rank(&config, &layout, size);
        println!("{} parameters, world {size}: {bytes:?} bytes a rank", layout.len());
        for bytes in bytes {
            let share = bytes as f64 * size as f64 / expected as f64;
            assert!(
                (0.95..1.05).contains(&share),
                "world {size}: {bytes} bytes are {share} of a share"
            );
        }
    }
    config.train.sharding = Sharding::None;
    for bytes in bytes_on_each_rank(&config, &layout, 4) {
        assert!(
            bytes >= expected,
            "without sharding every rank holds all: {bytes} bytes"
        );
    }
}
