//! What is compared: every operation, its reference, and shapes.

use burn::tensor::{FloatDType, Tensor, TensorData};

use crate::attention::{AttentionScores, attention, attention_reference};
use crate::attention_mask::{AttentionMask, Reach};
use crate::{
    AdamW, FlatAverage, FlatSegment, GradientScale, VisibleKeys, flat_update, flat_update_reference, gated_gelu,
    gated_gelu_reference, gated_residual, gated_residual_reference, gated_silu, gated_silu_reference, gelu,
    gelu_reference, layer_norm, layer_norm_reference, linear, linear_reference, neighbours, neighbours_reference,
    norm_modulate, norm_modulate_reference, rms_norm, rms_norm_reference, rotate, rotate_reference, row_squares,
    row_squares_reference, trained_attention, trained_attention_reference,
};

use super::{Comparison, Function, Input, Shapes};

const EPSILON: f32 = 1e-6;

/// All operations.
pub fn comparisons() -> Vec<Comparison> {
    let tables = [norms_and_activations(), layers(), frozen_operations(), updates()];
    tables.into_iter().flatten().collect()
}

/// One that is trained.
fn trained(name: &'static str, inputs: Shapes, operation: Function, reference: Function) -> Comparison {
    Comparison {
        name,
        is_trained: true,
        dtypes: &[FloatDType::F32, FloatDType::BF16],
        has_products: false,
        inputs,
        operation,
        reference,
    }
}

/// One of which no gradient is asked.
fn frozen(name: &'static str, inputs: Shapes, operation: Function, reference: Function) -> Comparison {
    Comparison {
        is_trained: false,
        ..trained(name, inputs, operation, reference)
    }
}

fn norms_and_activations() -> Vec<Comparison> {
    vec![
        trained(
            "gelu",
            &[&[&[3, 5, 7]], &[&[2, 77, 193]]],
            |x| flat(gelu(x[0].axes::<3>())),
            |x| flat(gelu_reference(x[0].axes::<3>())),
        ),
        trained(
            "layer_norm",
            ROWS,
            |x| flat(layer_norm(x[0].axes::<3>(), EPSILON)),
            |x| flat(layer_norm_reference(x[0].axes::<3>(), EPSILON)),
        ),
        trained(
            "norm_modulate",
            PICTURES,
            |x| flat(norm_modulate(x[0].axes(), x[1].axes(), x[2].axes(), EPSILON)),
            |x| flat(norm_modulate_reference(x[0].axes(), x[1].axes(), x[2].axes(), EPSILON)),
        ),
        trained(
            "gated_residual",
            &[
                &[&[3, 5, 7], &[3, 5, 7], &[3, 1, 7]],
                &[&[2, 65, 200], &[2, 65, 200], &[2, 1, 200]],
            ],
            |x| flat(gated_residual(x[0].axes(), x[1].axes(), x[2].axes())),
            |x| flat(gated_residual_reference(x[0].axes(), x[1].axes(), x[2].axes())),
        ),
        trained(
            "rms_norm",
            &[&[&[3, 5, 72], &[72]], &[&[7, 33, 5], &[5]]],
            |x| flat(rms_norm(x[0].axes::<3>(), x[1].axes(), EPSILON)),
            |x| flat(rms_norm_reference(x[0].axes::<3>(), x[1].axes(), EPSILON)),
        ),
        trained(
            "neighbours",
            &[&[&[2, 3, 5, 7]], &[&[1, 1, 1, 3]]],
            |x| flat(neighbours(x[0].axes())),
            |x| flat(neighbours_reference(x[0].axes())),
        ),
    ]
}

fn layers() -> Vec<Comparison> {
    vec![
        Comparison {
            has_products: true,
            ..trained(
                "linear",
                &[&[&[3, 5, 7], &[7, 11], &[11]], &[&[2, 65, 72], &[72, 200], &[200]]],
                |x| flat(linear(x[0].axes::<3>(), x[1].axes(), x[2].axes())),
                |x| {
                    let weight = x[1].axes();
                    let out = weight.dtype().into();
                    flat(linear_reference(x[0].axes::<3>(), weight, x[2].axes(), out))
                },
            )
        },
        Comparison {
            has_products: true,
            ..trained(
                "trained_attention",
                &[
                    &[&[3, 7, 2, 5], &[3, 11, 2, 5], &[3, 11, 2, 5]],
                    &[&[2, 65, 3, 72], &[2, 70, 3, 72], &[2, 70, 3, 72]],
                ],
                |x| hidden_keys_attention(x, trained_attention),
                |x| hidden_keys_attention(x, trained_attention_reference),
            )
        },
        Comparison {
            has_products: true,
            ..trained(
                "trained_attention (open)",
                &[
                    &[&[1, 1, 1, 3], &[1, 2, 1, 3], &[1, 2, 1, 3]],
                    &[&[2, 100, 2, 72], &[2, 37, 2, 72], &[2, 37, 2, 72]],
                ],
                |x| flat(trained_attention(x[0].axes(), x[1].axes(), x[2].axes(), None)),
                |x| flat(trained_attention_reference(x[0].axes(), x[1].axes(), x[2].axes(), None)),
            )
        },
    ]
}

fn frozen_operations() -> Vec<Comparison> {
    vec![
        frozen(
            "gated_silu",
            PAIRS,
            |x| flat(gated_silu(x[0].axes(), x[1].axes())),
            |x| flat(gated_silu_reference(x[0].axes(), x[1].axes())),
        ),
        frozen(
            "gated_gelu",
            PAIRS,
            |x| flat(gated_gelu(x[0].axes(), x[1].axes())),
            |x| flat(gated_gelu_reference(x[0].axes(), x[1].axes())),
        ),
        frozen(
            "rotate",
            &[
                &[&[2, 7, 3, 10], &[7, 5], &[7, 5]],
                &[&[3, 33, 2, 64], &[99, 32], &[99, 32]],
            ],
            |x| flat(rotate(x[0].axes(), x[1].axes(), x[2].axes())),
            |x| flat(rotate_reference(x[0].axes(), x[1].axes(), x[2].axes())),
        ),
        Comparison {
            has_products: true,
            // Its masks are f32.
            dtypes: &[FloatDType::F32],
            ..frozen(
                "attention (frozen)",
                &[
                    &[&[2, 7, 6, 10], &[2, 7, 3, 10], &[2, 7, 3, 10]],
                    &[&[3, 65, 4, 64], &[3, 65, 1, 64], &[3, 65, 1, 64]],
                ],
                |x| frozen_attention(x, attention),
                |x| frozen_attention(x, attention_reference),
            )
        },
    ]
}

fn updates() -> Vec<Comparison> {
    vec![
        Comparison {
            dtypes: &[FloatDType::F32],
            ..frozen(
                "row_squares",
                &[&[&[5]], &[&[4096]], &[&[9001]]],
                |x| row_squares(&x[0].flat, 3.0),
                |x| row_squares_reference(&x[0].flat, 3.0),
            )
        },
        Comparison {
            dtypes: &[FloatDType::F32],
            ..frozen(
                "flat_update",
                &[&[&[5], &[5], &[5]], &[&[40_007], &[40_007], &[40_007]]],
                |x| two_updates(x, flat_update),
                |x| two_updates(x, flat_update_reference),
            )
        },
    ]
}

const ROWS: &[&[&[usize]]] = &[&[&[3, 5, 7]], &[&[2, 33, 200]]];
const PICTURES: &[&[&[usize]]] = &[
    &[&[3, 5, 7], &[3, 1, 7], &[3, 1, 7]],
    &[&[2, 33, 200], &[2, 1, 200], &[2, 1, 200]],
];
const PAIRS: &[&[&[usize]]] = &[&[&[5, 7], &[5, 7]], &[&[33, 200], &[33, 200]]];

fn flat<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    x.flatten(0, D - 1)
}

/// Attention to keys of which some are hidden, and of the last row all.
fn hidden_keys_attention(
    x: &[Input],
    attention: fn(Tensor<4>, Tensor<4>, Tensor<4>, Option<&VisibleKeys>) -> Tensor<4>,
) -> Tensor<1> {
    let [rows, keys] = [x[1].shape[0], x[1].shape[1]];
    // Halved: scores as of normalised queries and keys.
    let [q, k, v]: [Tensor<4>; 3] = [x[0].axes() * 0.5, x[1].axes(), x[2].axes()];
    let valid = (0..rows * keys).map(|i| i / keys + 1 < rows && (i % keys) % 3 != 1);
    let valid = TensorData::new(valid.collect::<Vec<bool>>(), [rows, keys]);
    let visible = VisibleKeys::keys(Tensor::from_data(valid, &q.device()));
    flat(attention(q, k, v, Some(&visible)))
}

type Update = fn(Tensor<1>, &Tensor<1>, GradientScale, f64, &mut [FlatSegment], &mut [FlatAverage<'_>]) -> Tensor<1>;

/// Masters, moments and an average after two updates, the first one without a history.
fn two_updates(x: &[Input], update: Update) -> Tensor<1> {
    let [mut masters, sum, mut average] = [0, 1, 2].map(|i| x[i].flat.clone());
    let mut segments = [FlatSegment {
        range: 0..x[0].shape[0],
        lr_ratio: 0.5,
        adamw: AdamW {
            betas: [0.9, 0.99],
            epsilon: 1e-8,
            weight_decay: 0.1,
        },
        moments: None,
    }];
    let scale = GradientScale {
        divisor: 3.0,
        factor: 0.7,
    };
    for lr in [1e-2, 3e-2] {
        let mut averages = [FlatAverage {
            keep: 0.9,
            weights: &mut average,
        }];
        masters = update(masters, &sum, scale, lr, &mut segments, &mut averages);
    }
    let moments = segments.into_iter().filter_map(|segment| segment.moments);
    let moments = moments.flat_map(|moments| [moments.first, moments.second]);
    Tensor::cat([masters, average].into_iter().chain(moments).collect(), 0)
}

type Attention =
    fn(Tensor<4>, Tensor<4>, Tensor<4>, Option<[Tensor<3>; 2]>, &AttentionScores, &AttentionMask) -> Tensor<4>;

/// Causal attention of rows each a token shorter than the one before, without the results of padding, which mean nothing.
fn frozen_attention(x: &[Input], attention: Attention) -> Tensor<1> {
    let [rows, len] = [x[0].shape[0], x[0].shape[1]];
    let scores = AttentionScores {
        scale: (x[0].shape[3] as f32).sqrt().recip(),
        softcap: None,
        bias: None,
    };
    let reach = Reach {
        causal: true,
        window: None,
    };
    let mask = AttentionMask::new(reach, (0..rows).map(|row| len - row).collect(), vec![0; rows]);
    let mixed = attention(x[0].axes(), x[1].axes(), x[2].axes(), None, &scores, &mask);
    let rows = (0..rows).map(|row| flat(mixed.clone().narrow(0, row, 1).narrow(1, 0, len - row)));
    Tensor::cat(rows.collect(), 0)
}
