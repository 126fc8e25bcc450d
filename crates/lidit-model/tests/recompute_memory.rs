//! What recomputation saves. A binary of its own: it counts every allocation of the process.

use std::alloc::System;
use std::num::NonZeroUsize;

use burn::tensor::{Device, Tensor, TensorData};
use cap::Cap;
use lidit_model::{
    Conditioning, Fusion, InputNorm, LiDit, ModelConfig, Parametrization, Pooling, PromptBatch, PromptRow,
    RefinerAttention, RefinerConfig, RefinerGate,
};

#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// Images of the batch.
const BATCH: usize = 8;
/// Width of each language model's states.
const CONTEXT_DIM: usize = 32;

fn twelve_blocks() -> LiDit {
    let config = ModelConfig {
        hidden_size: 64,
        depth: 12,
        num_heads: 1,
        mlp_ratio: 4,
        patch_size: 2,
        in_channels: 3,
        parametrization: Parametrization::Standard,
        fusion: Fusion::Collaborative,
        refiner: RefinerConfig {
            blocks: 2,
            attention: RefinerAttention::Full,
            gate: RefinerGate::Adaptive,
        },
    };
    let conditioning = Conditioning {
        context_dims: vec![CONTEXT_DIM; 2],
        input_norm: InputNorm::Rms,
        pooling: Pooling::Caption,
    };
    LiDit::init(&config, &conditioning, 0, &Device::flex().autodiff())
}

/// Noisy images of 8 x 8 tokens.
fn images() -> Tensor<4> {
    let values: Vec<f32> = (0..BATCH * 3 * 256).map(|i| (i * 5 % 17) as f32 / 8.0 - 1.0).collect();
    Tensor::from_data(TensorData::new(values, [BATCH, 3, 16, 16]), &Device::flex().autodiff())
}

/// 24 tokens, 8 of them the instruction's.
fn prompts() -> PromptBatch {
    let states: Vec<f32> = (0..24 * CONTEXT_DIM).map(|i| (i % 13) as f32 / 6.0 - 1.0).collect();
    let row = PromptRow {
        states: &states,
        caption: 8..24,
    };
    PromptBatch::from_rows(&vec![row; BATCH], CONTEXT_DIM, &Device::flex())
}

/// Most bytes that `work` held at once, above what was held before. The counter never falls: the smaller work goes first.
fn peak(work: impl FnOnce()) -> usize {
    let before = MEMORY.allocated();
    work();
    MEMORY.max_allocated() - before
}

#[test]
fn recomputation_holds_less_than_45_percent_of_the_activations() {
    let (model, x, prompts) = (twelve_blocks(), images(), [prompts(), prompts()]);
    let timesteps = Tensor::from_floats([400.0; BATCH], &x.device());
    let loss = |prediction: Tensor<4>| (prediction - x.clone()).square().sum();
    let in_segments = |blocks: usize| {
        let blocks = NonZeroUsize::new(blocks).unwrap_or(NonZeroUsize::MIN);
        let loss = |prediction| (loss(prediction), ());
        model.backward_in_segments(x.clone(), timesteps.clone(), &prompts, blocks, loss, |_| ());
    };
    // Weights and the buffers of matrix products take their memory when they are first used.
    in_segments(1);
    let [one, two, four] = [1, 2, 4].map(|blocks| peak(|| in_segments(blocks)));
    let plain = peak(|| {
        loss(model.forward(x.clone(), timesteps.clone(), &prompts)).backward();
    });
    println!("bytes: {plain} plain, {one} in segments of one block, {two} of two, {four} of four");
    assert!(one < two && two < four && four < plain, "{one} {two} {four} {plain}");
    for (blocks, bytes) in [(1, one), (2, two), (4, four)] {
        let share = bytes as f64 / plain as f64;
        assert!(share <= 0.45, "segments of {blocks}: {share:.3} of {plain} bytes");
    }
}
