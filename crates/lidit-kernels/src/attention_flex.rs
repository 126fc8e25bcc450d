//! The fused attention of the CPU: a task is a block of queries of one row of the batch, a tile a few of them.

use std::ops::Range;

use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::attention::{AttentionMask, AttentionScores};
use crate::flex::{Rows, into_flex, new_flex, with_whole_rows};
use crate::simd::{LANES, dispatch, exp, max, sum, tanh};

/// Tokens a task: enough to pay for gathering their keys.
const BLOCK: usize = 64;
/// Queries a tile: with [`LANES`] keys their scores stay in registers.
const TILE: usize = 4;

/// [`attention`](crate::attention()) of tensors whose shapes fit and whose rows are whole.
pub fn fused(
    query: &FlexTensor,
    [key, value]: [&FlexTensor; 2],
    prefix: Option<&[FlexTensor; 2]>,
    scores: &AttentionScores,
    mask: &AttentionMask,
) -> FlexTensor {
    let shape = query.layout().shape();
    let (len, num_heads, dim) = (shape[1], shape[2], shape[3]);
    let bias = scores.bias.clone().map(|bias| with_whole_rows(into_flex(bias)));
    let inputs = Inputs {
        query: Rows::new(query),
        key: Rows::new(key),
        value: Rows::new(value),
        prefix: prefix.map(|[key, value]| [Rows::new(key), Rows::new(value)]),
        bias: bias.as_ref().map(Rows::new),
        num_heads,
        num_kv_heads: key.layout().shape()[2],
        dim,
        scale: scores.scale,
        softcap: scores.softcap,
        mask,
    };
    let mut out = vec![0.0; shape.num_elements()];
    let width = num_heads * dim;
    if !out.is_empty() {
        out.par_chunks_mut(len * width).enumerate().for_each(|(b, out)| {
            let blocks = out.par_chunks_mut(BLOCK * width).enumerate();
            blocks.for_each_init(Scratch::default, |scratch, (block, out)| {
                attend(&inputs, [b, block * BLOCK], scratch, out);
            });
        });
    }
    new_flex(out, shape.clone())
}

struct Inputs<'a> {
    query: Rows<'a>,
    key: Rows<'a>,
    value: Rows<'a>,
    prefix: Option<[Rows<'a>; 2]>,
    bias: Option<Rows<'a>>,
    num_heads: usize,
    num_kv_heads: usize,
    dim: usize,
    scale: f32,
    softcap: Option<f32>,
    mask: &'a AttentionMask,
}

/// What a task keeps in its cache. Positions count from the first that the task sees.
#[derive(Default)]
struct Scratch {
    keys: Vec<f32>,    // [d, stride]: scores of neighbouring keys are one vector
    values: Vec<f32>,  // [positions, d rounded up to LANES]
    queries: Vec<f32>, // [d, TILE]
    scores: Vec<f32>,  // [TILE, stride]
    stride: usize,
    padded_dim: usize,
}

dispatch!(attend, attend_body, (inputs: &Inputs<'_>, start: [usize; 2], scratch: &mut Scratch, out: &mut [f32]));

/// Fills `out [tokens, H, d]` for the tokens from `start`, a row of the batch and a token in it.
#[inline(always)]
fn attend_body(inputs: &Inputs<'_>, start: [usize; 2], scratch: &mut Scratch, out: &mut [f32]) {
    let [b, first] = start;
    let num_tokens = out.len() / (inputs.num_heads * inputs.dim);
    let num_tokens = num_tokens.min(inputs.mask.length(b).saturating_sub(first));
    if num_tokens == 0 {
        return;
    }
    let group = inputs.num_heads / inputs.num_kv_heads;
    let begin = inputs.mask.visible(b, first).start;
    let end = inputs.mask.visible(b, first + num_tokens - 1).end;
    for kv_head in 0..inputs.num_kv_heads {
        scratch.gather(inputs, b, kv_head, begin..end);
        for tile in (0..num_tokens * group).step_by(TILE) {
            // A last tile that is not full repeats its last query.
            let queries: [[usize; 2]; TILE] = std::array::from_fn(|i| {
                let query = (tile + i).min(num_tokens * group - 1);
                [first + query / group, kv_head * group + query % group]
            });
            let norms = weigh_tile(inputs, b, &queries, begin, scratch);
            let seen = tile_range(inputs, b, &queries, begin);
            for column in (0..inputs.dim).step_by(LANES) {
                let mixed = mix_tile(scratch, seen.clone(), column);
                let width = LANES.min(inputs.dim - column);
                for ((mixed, norm), [t, head]) in mixed.iter().zip(norms).zip(queries) {
                    let at = ((t - first) * inputs.num_heads + head) * inputs.dim + column;
                    for (out, mixed) in out[at..at + width].iter_mut().zip(mixed) {
                        *out = mixed * norm;
                    }
                }
            }
        }
    }
}

impl Scratch {
    /// Brings the keys and values of one head at `positions` together.
    #[inline(always)]
    fn gather(&mut self, inputs: &Inputs<'_>, b: usize, kv_head: usize, positions: Range<usize>) {
        self.padded_dim = inputs.dim.next_multiple_of(LANES);
        self.stride = positions.len().next_multiple_of(LANES) + LANES;
        self.keys.resize(inputs.dim * self.stride, 0.0);
        self.values.resize(positions.len() * self.padded_dim, 0.0);
        self.queries.resize(inputs.dim * TILE, 0.0);
        self.scores.resize(TILE * self.stride, 0.0);
        let shared = inputs.mask.shared(b);
        for ((i, position), value) in positions.enumerate().zip(self.values.chunks_exact_mut(self.padded_dim)) {
            let [key_row, value_row] = match (&inputs.prefix, position.checked_sub(shared)) {
                (Some([key, value]), None) => [key.row(0, position, kv_head), value.row(0, position, kv_head)],
                (_, own) => {
                    let own = own.unwrap_or(position);
                    [inputs.key.row(b, own, kv_head), inputs.value.row(b, own, kv_head)]
                }
            };
            value[..inputs.dim].copy_from_slice(value_row);
            value[inputs.dim..].fill(0.0);
            for (column, &x) in self.keys.chunks_exact_mut(self.stride).zip(key_row) {
                column[i] = x;
            }
        }
    }
}

/// What any query of a tile sees, as positions of the scratch.
#[inline(always)]
fn tile_range(inputs: &Inputs<'_>, b: usize, queries: &[[usize; 2]; TILE], begin: usize) -> Range<usize> {
    let from = inputs.mask.visible(b, queries[0][0]).start;
    let to = inputs.mask.visible(b, queries[TILE - 1][0]).end;
    from - begin..to - begin
}

/// Leaves the weights of a tile in the scratch, not yet normed, and gives the factors that norm them.
#[inline(always)]
fn weigh_tile(
    inputs: &Inputs<'_>,
    b: usize,
    queries: &[[usize; 2]; TILE],
    begin: usize,
    scratch: &mut Scratch,
) -> [f32; TILE] {
    for (i, &[t, head]) in queries.iter().enumerate() {
        let columns = scratch.queries.chunks_exact_mut(TILE);
        for (column, &x) in columns.zip(inputs.query.row(b, t, head)) {
            column[i] = x * inputs.scale;
        }
    }
    let seen = tile_range(inputs, b, queries, begin);
    for at in seen.clone().step_by(LANES) {
        let tile = score_tile(scratch, at);
        for (scores, tile) in scratch.scores.chunks_exact_mut(scratch.stride).zip(&tile) {
            scores[at - seen.start..][..LANES].copy_from_slice(tile);
        }
    }
    let padded = seen.len().next_multiple_of(LANES);
    let mut norms = [0.0; TILE];
    let rows = scratch.scores.chunks_exact_mut(scratch.stride).zip(queries);
    for ((scores, &[t, head]), norm) in rows.zip(&mut norms) {
        let visible = inputs.mask.visible(b, t);
        // Without a prefix positions are the columns of the bias.
        let bias = inputs.bias.as_ref();
        let bias = bias.map(|bias| &bias.row(0, head, t)[visible.clone()]);
        let offset = begin + seen.start;
        let visible = visible.start - offset..visible.end - offset;
        *norm = weigh(&mut scores[..padded], visible, inputs.softcap, bias).recip();
    }
    norms
}

/// The scores of a tile of queries and the keys from `at`.
#[inline(always)]
fn score_tile(scratch: &Scratch, at: usize) -> [[f32; LANES]; TILE] {
    let mut tile = [[0.0; LANES]; TILE];
    let (columns, _) = scratch.queries.as_chunks::<TILE>();
    for (queries, keys) in columns.iter().zip(scratch.keys.chunks_exact(scratch.stride)) {
        let keys = &keys[at..at + LANES];
        for (scores, query) in tile.iter_mut().zip(queries) {
            for (score, key) in scores.iter_mut().zip(keys) {
                *score += query * key;
            }
        }
    }
    tile
}

/// Turns scores into weights, 0 outside `visible`, and gives their sum.
#[inline(always)]
fn weigh(scores: &mut [f32], visible: Range<usize>, softcap: Option<f32>, bias: Option<&[f32]>) -> f32 {
    if let Some(cap) = softcap {
        for score in &mut *scores {
            *score = cap * tanh(*score / cap);
        }
    }
    if let Some(bias) = bias {
        for (score, bias) in scores[visible.clone()].iter_mut().zip(bias) {
            *score += bias;
        }
    }
    scores[..visible.start].fill(f32::MIN);
    scores[visible.end..].fill(f32::MIN);
    let greatest = max(scores);
    for score in &mut *scores {
        *score = exp(*score - greatest);
    }
    scores[..visible.start].fill(0.0);
    scores[visible.end..].fill(0.0);
    sum(scores, |weight| weight)
}

/// Features `column..` of the values at `seen`, mixed by each query's weights.
#[inline(always)]
fn mix_tile(scratch: &Scratch, seen: Range<usize>, column: usize) -> [[f32; LANES]; TILE] {
    let mut mixed = [[0.0; LANES]; TILE];
    let weights: [&[f32]; TILE] = std::array::from_fn(|i| &scratch.scores[i * scratch.stride..][..seen.len()]);
    let values = scratch.values[seen.start * scratch.padded_dim..].chunks_exact(scratch.padded_dim);
    for (i, values) in (0..seen.len()).zip(values) {
        let values = &values[column..column + LANES];
        for (mixed, weights) in mixed.iter_mut().zip(weights) {
            let weight = weights[i];
            for (mixed, value) in mixed.iter_mut().zip(values) {
                *mixed += weight * value;
            }
        }
    }
    mixed
}
