#![allow(clippy::unwrap_used)]

use burn::tensor::TensorData;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

pub(crate) mod walkers;

use self::walkers::{Scramble, ToBf16, parameter_names, silent_parameters};
use super::*;
use crate::config::tests::tiny;
use crate::config::{RefinerConfig, RefinerGate};
use crate::golden::{Golden, relative_error};
use crate::objective::{LossBatch, Objective};
use crate::prompts::PromptRow;
use crate::sampler::{Sampler, SamplerKind, Start};
use crate::timestep_density::TimestepDensity;
use crate::timestep_shift::TimestepShift;

fn conditioning(context_dims: &[usize], input_norm: InputNorm, pooling: Pooling) -> Conditioning {
    Conditioning {
        context_dims: context_dims.to_vec(),
        input_norm,
        pooling,
    }
}

fn usual() -> Conditioning {
    conditioning(&[5, 7], InputNorm::Rms, Pooling::Caption)
}

fn flow() -> Objective {
    crate::objective::tests::flow(TimestepDensity::Uniform, TimestepShift::None)
}

/// A network in which every gate is open: the golden file's.
fn opened(device: &Device) -> LiDit {
    Golden::open("lidit").load(LiDit::zeros(&tiny(), &usual(), device))
}

/// Uniform in (-1, 1).
fn random(seed: u64, n: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n)
        .map(|_| rng.next_u32() as f32 / (1u64 << 31) as f32 - 1.0)
        .collect()
}

fn image(seed: u64, shape: [usize; 4]) -> Tensor<4> {
    Tensor::from_data(
        TensorData::new(random(seed, shape.iter().product()), shape),
        &Device::flex(),
    )
}

fn to_vec<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_into_vec().unwrap()
}

#[test]
fn loss_and_all_gradients_match_pytorch() {
    let golden = Golden::open("lidit");
    let model = opened(&Device::flex().autodiff());
    let prompts = golden.prompts();
    let loss = flow().loss(&model, &golden.loss_batch(6), &prompts).sum;
    let mut grads = loss.backward();
    golden.check("out.loss", loss.inner(), 1e-5);
    golden.check_gradients(&model, &mut grads, 1e-4);
}

#[test]
fn outputs_match_pytorch() {
    let golden = Golden::open("lidit");
    let model = opened(&Device::flex());
    let noised = flow().noise(&golden.loss_batch(6));
    let prompts = golden.prompts();
    golden.check(
        "out.prediction",
        model.forward(noised.input, noised.timesteps, &prompts),
        1e-4,
    );

    let golden = Golden::open("lidit_plain");
    let config = ModelConfig {
        depth: 1,
        fusion: Fusion::Concatenate,
        refiner: RefinerConfig {
            blocks: 1,
            attention: RefinerAttention::Causal,
            gate: RefinerGate::None,
        },
        ..tiny()
    };
    let conditioning = conditioning(&[6], InputNorm::None, Pooling::All);
    let model = golden.load(LiDit::zeros(&config, &conditioning, &Device::flex()));
    let prompt = PromptBatch {
        states: golden.tensor("in.states.0"),
        valid: golden.mask("in.valid.0"),
        caption: golden.mask("in.caption.0"),
        cut: 1,
    };
    golden.check(
        "out.y",
        model.forward(golden.tensor("in.x"), golden.tensor("in.t"), &[prompt]),
        1e-4,
    );
}

/// Prompts of the given (instruction, caption) lengths for the LLM of width `dim`.
fn rows(dim: usize, lengths: &[(usize, usize)]) -> Vec<(Vec<f32>, std::ops::Range<usize>)> {
    let row = |(i, &(instruction, caption)): (usize, &(usize, usize))| {
        let tokens = instruction + caption;
        (random(100 * dim as u64 + i as u64, tokens * dim), instruction..tokens)
    };
    lengths.iter().enumerate().map(row).collect()
}

fn batch(dim: usize, rows: &[(Vec<f32>, std::ops::Range<usize>)]) -> PromptBatch {
    let rows: Vec<_> = rows
        .iter()
        .map(|(states, caption)| PromptRow {
            states,
            caption: caption.clone(),
        })
        .collect();
    PromptBatch::from_rows(&rows, dim, &Device::flex())
}

#[test]
fn a_prompt_alone_and_in_a_padded_batch_gives_the_same_image() {
    let model = opened(&Device::flex());
    let lengths = [(2, 3), (2, 6), (2, 0), (0, 0)];
    let (first, second) = (rows(5, &lengths), rows(7, &lengths));
    let x = image(7, [4, 2, 4, 4]);
    let t = Tensor::from_floats([100.0, 300.0, 500.0, 900.0], &Device::flex());
    let together = to_vec(model.forward(x.clone(), t.clone(), &[batch(5, &first), batch(7, &second)]));
    for i in 0..4 {
        let prompts = [batch(5, &first[i..=i]), batch(7, &second[i..=i])];
        let alone = to_vec(model.forward(
            x.clone().slice_dim(0, i..i + 1),
            t.clone().slice_dim(0, i..i + 1),
            &prompts,
        ));
        let error = relative_error(&alone, &together[i * 32..(i + 1) * 32], 4);
        assert!(error < 1e-5, "row {i}: {error:.2e}");
    }
}

#[test]
fn what_lies_in_padding_changes_nothing() {
    let model = opened(&Device::flex());
    let (x, t) = (image(7, [1, 2, 4, 4]), Tensor::from_floats([400.0], &Device::flex()));
    let second = batch(7, &rows(7, &[(1, 4)]));
    let mut prompts = [batch(5, &rows(5, &[(2, 3)])), second];
    let narrow = to_vec(model.forward(x.clone(), t.clone(), &prompts));
    let junk = Tensor::from_data(TensorData::new(vec![1e4_f32; 15], [1, 3, 5]), &Device::flex());
    let no = Tensor::<2, Bool>::from_data(TensorData::new(vec![false; 3], [1, 3]), &Device::flex());
    prompts[0].states = Tensor::cat(vec![prompts[0].states.clone(), junk], 1);
    prompts[0].valid = Tensor::cat(vec![prompts[0].valid.clone(), no.clone()], 1);
    prompts[0].caption = Tensor::cat(vec![prompts[0].caption.clone(), no], 1);
    let wide = to_vec(model.forward(x, t, &prompts));
    assert!(relative_error(&wide, &narrow, 4) < 1e-5);
}

#[test]
fn the_physical_cut_equals_the_mask() {
    let model = opened(&Device::flex());
    let (x, t) = (
        image(7, [2, 2, 4, 4]),
        Tensor::from_floats([400.0, 10.0], &Device::flex()),
    );
    let mut prompts = [
        batch(5, &rows(5, &[(3, 3), (3, 1)])),
        batch(7, &rows(7, &[(2, 4), (2, 0)])),
    ];
    assert_eq!([prompts[0].cut, prompts[1].cut], [3, 2]);
    assert_eq!(model.encode(t.clone(), &prompts).text.dims(), [2, 3 + 4, 8]);
    let cut = to_vec(model.forward(x.clone(), t.clone(), &prompts));
    prompts[0].cut = 0;
    prompts[1].cut = 0;
    let masked = to_vec(model.forward(x, t, &prompts));
    assert!(relative_error(&masked, &cut, 4) < 1e-5);
}

#[test]
fn the_instruction_reaches_the_caption_through_the_refiners() {
    let model = opened(&Device::flex());
    let t = Tensor::from_floats([400.0], &Device::flex());
    let mut first = rows(5, &[(3, 3)]);
    let second = batch(7, &rows(7, &[(2, 4)]));
    let text = |first: &[(Vec<f32>, std::ops::Range<usize>)]| {
        to_vec(model.encode(t.clone(), &[batch(5, first), second.clone()]).text)
    };
    let before = text(&first);
    first[0].0[0] += 1.0; // in the instruction
    let after = text(&first);
    // Own branch by the token refiner, the other LLM's by the collaborative refiner.
    assert!(relative_error(&after[..24], &before[..24], 8) > 1e-3);
    assert!(relative_error(&after[24..], &before[24..], 8) > 1e-3);
}

#[test]
fn a_fresh_network_predicts_zero_and_its_refiners_are_the_identity() {
    let model = LiDit::init(&tiny(), &usual(), 3, &Device::flex());
    let (x, t) = (image(7, [1, 2, 4, 4]), Tensor::from_floats([400.0], &Device::flex()));
    let prompts = [batch(5, &rows(5, &[(0, 3)])), batch(7, &rows(7, &[(0, 4)]))];
    let encoded = model.encode(t.clone(), &prompts);
    let projected = |i: usize| {
        model.encoders[i]
            .projection
            .forward(rms_norm(prompts[i].states.clone()))
    };
    let expected = layer_norm(Tensor::cat(vec![projected(0), projected(1)], 1));
    assert_eq!(to_vec(encoded.text), to_vec(expected));
    assert!(to_vec(model.forward(x, t, &prompts)).iter().all(|&y| y == 0.0));
}

#[test]
fn pooled_captions_differ_clearly_in_spite_of_an_attention_sink() {
    let dim = 64;
    // Two captions after the same sink, a first token a hundred times as long as the others.
    let sink: Vec<f32> = random(1, dim).iter().map(|x| 100.0 * x).collect();
    let prompt = |seed| (([sink.clone(), random(seed, 4 * dim)]).concat(), 0..5);
    let (red, blue) = (prompt(2), prompt(3));
    let prompts = batch(dim, &[red, blue]);
    let angle = |states: Tensor<3>| {
        let pooled = prompts.pool(states, Pooling::Caption);
        let rows: Vec<Vec<f32>> = to_vec(rms_norm(pooled)).chunks(dim).map(<[f32]>::to_vec).collect();
        rows[0].iter().zip(&rows[1]).map(|(a, b)| a * b).sum::<f32>() / dim as f32
    };
    let drowned = angle(prompts.states.clone());
    let normed = angle(rms_norm(prompts.states.clone()));
    assert!(drowned > 0.99, "without the norm the sink is all there is: {drowned}");
    assert!(normed < 0.6, "with it the captions are apart: {normed}");
}

#[test]
fn three_encoders_train_every_parameter() {
    let device = Device::flex().autodiff();
    let frame = LiDit::zeros(
        &tiny(),
        &conditioning(&[5, 7, 9], InputNorm::Rms, Pooling::Caption),
        &device,
    );
    let model = frame.map(&mut Scramble::default());
    let prompts = [5, 7, 9].map(|dim| batch(dim, &rows(dim, &[(2, 3), (2, 2)])));
    let loss = flow().loss(&model, &loss_batch(2), &prompts).sum;
    let mut grads = loss.backward();
    assert_eq!(silent_parameters(&model, &mut grads), Vec::<String>::new());
}

#[test]
fn bf16_weights_give_nearly_the_same_output_and_gradients() {
    let device = Device::flex().autodiff();
    let golden = Golden::open("lidit");
    let prompts = golden.prompts();
    let noised = flow().noise(&golden.loss_batch(6));
    let full = opened(&device);
    let half = full.clone().map(&mut ToBf16::default());
    let run = |model: &LiDit| model.forward(noised.input.clone(), noised.timesteps.clone(), &prompts);
    let (a, b) = (run(&half).inner(), run(&full).inner());
    assert_eq!(a.dtype(), burn::tensor::DType::F32);
    let error = relative_error(&to_vec(a), &to_vec(b), 48);
    assert!(error < 0.03, "{error}");

    let loss = flow().loss(&half, &golden.loss_batch(6), &prompts).sum;
    assert_eq!(loss.dtype(), burn::tensor::DType::F32);
    let mut grads = loss.backward();
    assert_eq!(silent_parameters(&half, &mut grads), Vec::<String>::new());
}

#[test]
fn guidance_mixes_two_predictions_and_sampling_needs_no_autodiff() {
    let objective = flow();
    let model = opened(&Device::flex().autodiff());
    let noise = image(9, [1, 2, 4, 4]);
    let prompts = [batch(5, &rows(5, &[(2, 3)])), batch(7, &rows(7, &[(2, 3)]))];
    let empty = [batch(5, &rows(5, &[(2, 0)])), batch(7, &rows(7, &[(2, 0)]))];
    let start = Start {
        noise: noise.clone(),
        image_tokens: 4,
        fresh: &|step| panic!("Euler's rule adds no noise, at step {step} neither"),
    };
    let draw = |steps, guidance, guidance_interval| {
        let sampler = Sampler {
            kind: SamplerKind::Euler,
            steps,
            guidance,
            guidance_interval,
            guidance_rescale: 0.0,
        };
        let x = sampler.sample(&model, &objective, &start, &prompts, &empty, |_| {});
        assert!(!x.is_autodiff());
        x
    };
    let [unguided, empty_only, strong] = [1.0, 0.0, 3.0].map(|guidance| draw(1, guidance, [0.0, 1.0]));
    let expected = empty_only.clone() + (unguided - empty_only).mul_scalar(3.0);
    assert!(relative_error(&to_vec(strong), &to_vec(expected), 4) < 1e-4);

    // Two steps are at times 1 and 0.5.
    let early = to_vec(draw(2, 3.0, [0.6, 1.0]));
    assert_ne!(early, to_vec(draw(2, 3.0, [0.0, 1.0])));
    assert_ne!(early, to_vec(draw(2, 3.0, [0.0, 0.6])));
    assert_eq!(to_vec(draw(2, 3.0, [0.6, 0.9])), to_vec(draw(2, 1.0, [0.0, 1.0])));
}

#[test]
fn parameter_paths_are_readable_and_stable() {
    let model = LiDit::zeros(&tiny(), &usual(), &Device::flex());
    let names = parameter_names(&model);
    for name in [
        "timestep.linear_in.weight",
        "encoders.1.projection.bias",
        "encoders.0.pooled.linear_out.weight",
        "encoders.0.refiner.blocks.1.attention_gate.linear.weight",
        "collaborative.branches.1.cross_attention.key.weight",
        "patchify.linear.weight",
        "res_block.conv_in.weight",
        "blocks.1.cross_attention.norm.key.gain",
        "blocks.0.mlp_modulation.linear.bias",
        "final_layer.linear.weight",
    ] {
        assert!(names.iter().any(|known| known == name), "{name}");
    }
}

fn loss_batch(b: usize) -> LossBatch {
    LossBatch {
        images: image(1, [b, 2, 4, 4]),
        noise: image(2, [b, 2, 4, 4]),
        draws: vec![[0.4, 0.6]; b],
        weights: vec![1.0; b],
        image_tokens: 4,
    }
}
