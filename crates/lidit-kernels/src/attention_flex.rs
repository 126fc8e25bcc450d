//! The fused attention of the CPU: a task is a block of queries of one row of the batch, a tile a few of them.

use std::ops::Range;

use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::attention::AttentionScores;
use crate::attention_mask::AttentionMask;
use crate::flex::{Rows, into_flex, new_flex, with_whole_rows};
use crate::simd::{exp, max, sum, tanh};
use crate::tile::{PANEL, TILE, dispatch_tiles, multiply_tile};

/// Tokens a task: enough to pay for gathering their keys.
const BLOCK: usize = 64;

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
    keys: Vec<[f32; PANEL]>,   // [panels of positions, d]
    values: Vec<[f32; PANEL]>, // [panels of features, positions]
    queries: Vec<f32>,         // [TILE, d]
    scores: Vec<f32>,          // [TILE, stride]
    stride: usize,
}

dispatch_tiles!(attend, attend_body, (inputs: &Inputs<'_>, start: [usize; 2], scratch: &mut Scratch, out: &mut [f32]));

/// Fills `out [tokens, H, d]` for the tokens from `start`, a row of the batch and a token in it.
#[inline(always)]
fn attend_body<const R: usize, const C: usize, const FUSED: bool>(
    inputs: &Inputs<'_>,
    start: [usize; 2],
    scratch: &mut Scratch,
    out: &mut [f32],
) {
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
        for row in (0..num_tokens * group).step_by(TILE) {
            let tile = Tile {
                b,
                rows: row..(num_tokens * group).min(row + TILE),
                group,
                kv_head,
                first,
                begin,
            };
            let norms = weigh_tile::<R, C, FUSED>(inputs, &tile, scratch);
            let seen = tile.seen(inputs);
            for panel in 0..inputs.dim.div_ceil(PANEL) {
                let values = &scratch.values[panel * (end - begin)..][seen.clone()];
                let weights = |i: usize| &scratch.scores[i * scratch.stride..][seen.clone()];
                let mut mixed = [[0.0; PANEL]; TILE];
                multiply_tile::<R, C, FUSED>(weights, tile.rows.len(), values, &mut mixed);
                for ((i, mixed), norm) in (0..tile.rows.len()).zip(&mixed).zip(norms) {
                    let [t, head] = tile.query(i);
                    let at = ((t - first) * inputs.num_heads + head) * inputs.dim;
                    let out = &mut out[at..at + inputs.dim][panel * PANEL..];
                    for (out, mixed) in out.iter_mut().zip(mixed) {
                        *out = mixed * norm;
                    }
                }
            }
        }
    }
}

/// Queries of one key head, token by token.
struct Tile {
    b: usize,
    rows: Range<usize>,
    group: usize,
    kv_head: usize,
    first: usize,
    begin: usize,
}

impl Tile {
    /// Token and head of a query.
    #[inline(always)]
    fn query(&self, i: usize) -> [usize; 2] {
        let row = self.rows.start + i;
        [
            self.first + row / self.group,
            self.kv_head * self.group + row % self.group,
        ]
    }

    /// What a query sees, as positions of the scratch.
    #[inline(always)]
    fn visible(&self, inputs: &Inputs<'_>, i: usize) -> Range<usize> {
        let visible = inputs.mask.visible(self.b, self.query(i)[0]);
        visible.start - self.begin..visible.end - self.begin
    }

    /// What any of them sees: windows move with the tokens.
    #[inline(always)]
    fn seen(&self, inputs: &Inputs<'_>) -> Range<usize> {
        self.visible(inputs, 0).start..self.visible(inputs, self.rows.len() - 1).end
    }
}

impl Scratch {
    /// Brings the keys and values of one head at `positions` together.
    #[inline(always)]
    fn gather(&mut self, inputs: &Inputs<'_>, b: usize, kv_head: usize, positions: Range<usize>) {
        let (dim, len) = (inputs.dim, positions.len());
        let panels = len.div_ceil(PANEL);
        self.stride = panels * PANEL;
        self.keys.resize(panels * dim, [0.0; PANEL]);
        self.values.resize(dim.div_ceil(PANEL) * len, [0.0; PANEL]);
        self.queries.resize(TILE * dim, 0.0);
        self.scores.resize(TILE * self.stride, 0.0);
        let shared = inputs.mask.shared(b);
        for (i, position) in positions.enumerate() {
            let [key, value] = match (&inputs.prefix, position.checked_sub(shared)) {
                (Some([key, value]), None) => [key.row(0, position, kv_head), value.row(0, position, kv_head)],
                (_, own) => {
                    let own = own.unwrap_or(position);
                    [inputs.key.row(b, own, kv_head), inputs.value.row(b, own, kv_head)]
                }
            };
            for (column, &key) in self.keys[i / PANEL * dim..][..dim].iter_mut().zip(key) {
                column[i % PANEL] = key;
            }
            for (panel, value) in value.chunks(PANEL).enumerate() {
                self.values[panel * len + i][..value.len()].copy_from_slice(value);
            }
        }
    }
}

/// Leaves the weights of a tile in the scratch, not yet normed, and gives the factors that norm them.
#[inline(always)]
fn weigh_tile<const R: usize, const C: usize, const FUSED: bool>(
    inputs: &Inputs<'_>,
    tile: &Tile,
    scratch: &mut Scratch,
) -> [f32; TILE] {
    let (dim, stride, count) = (inputs.dim, scratch.stride, tile.rows.len());
    for (i, scaled) in scratch.queries.chunks_exact_mut(dim).take(count).enumerate() {
        let [t, head] = tile.query(i);
        for (scaled, &query) in scaled.iter_mut().zip(inputs.query.row(tile.b, t, head)) {
            *scaled = query * inputs.scale;
        }
    }
    let seen = tile.seen(inputs);
    let panels = seen.start / PANEL..seen.end.div_ceil(PANEL);
    for panel in panels.clone() {
        let mut products = [[0.0; PANEL]; TILE];
        let query = |i: usize| &scratch.queries[i * dim..][..dim];
        let keys = &scratch.keys[panel * dim..][..dim];
        multiply_tile::<R, C, FUSED>(query, count, keys, &mut products);
        for (scores, products) in scratch.scores.chunks_exact_mut(stride).zip(&products) {
            scores[panel * PANEL..][..PANEL].copy_from_slice(products);
        }
    }
    let mut norms = [0.0; TILE];
    let rows = scratch.scores.chunks_exact_mut(stride).zip(&mut norms).take(count);
    for (i, (scores, norm)) in rows.enumerate() {
        let visible = tile.visible(inputs, i);
        let bias = inputs.bias.as_ref().map(|bias| {
            // Without a prefix positions are the columns of the bias.
            let [t, head] = tile.query(i);
            &bias.row(0, head, t)[tile.begin..][visible.clone()]
        });
        let scores = &mut scores[panels.start * PANEL..panels.end * PANEL];
        let visible = visible.start - panels.start * PANEL..visible.end - panels.start * PANEL;
        *norm = weigh(scores, visible, inputs.softcap, bias).recip();
    }
    norms
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
