//! The trained attention of the CPU: a task is one head of one row of the batch, a step in it a panel of queries, which
//! lie in the columns of every product.

mod head_rows;
mod panels;

use burn::tensor::Shape;
use burn_flex::FlexTensor;
use rayon::prelude::*;

use crate::flex::{Rows, new_flex, values, with_whole_rows, written};
use crate::simd::exp;
use crate::tile::{PANEL, dispatch_tiles};
use crate::visible_keys::{HIDDEN, MaskKind};
use head_rows::HeadRows;
use panels::{Scratch, add_products, products, turn, turn_back, whole_tiles};

/// The mixed values `[B, N, H, d]`, and the logarithms of the sums, `[B, H, N]`.
pub fn forward(qkv: [FlexTensor; 3], bias: &FlexTensor, kind: MaskKind) -> (FlexTensor, FlexTensor) {
    let (qkv, bias) = (qkv.map(with_whole_rows), bias.to_contiguous());
    let inputs = Inputs::new(&qkv, &bias, kind);
    let mut sums = vec![0.0; inputs.batch * inputs.num_heads * inputs.num_queries];
    let fill = |out: &mut [_]| {
        let out = HeadRows::new(out, inputs.num_queries, &inputs);
        sums.par_chunks_mut(inputs.num_queries.max(1))
            .enumerate()
            .for_each_init(Scratch::default, |scratch, (task, sums)| {
                attend(&inputs, task, scratch, sums, &out);
            });
    };
    // SAFETY: each task writes all rows of its own head of its own row of the batch.
    let mixed = unsafe { written(inputs.shape(inputs.num_queries), fill) };
    (
        mixed,
        new_flex(sums, [inputs.batch, inputs.num_heads, inputs.num_queries]),
    )
}

/// The gradients of queries, keys and values.
pub fn backward(
    qkv: [FlexTensor; 3],
    bias: &FlexTensor,
    [mixed, sums, gradient]: [FlexTensor; 3],
    kind: MaskKind,
) -> [FlexTensor; 3] {
    let (qkv, bias) = (qkv.map(with_whole_rows), bias.to_contiguous());
    let [mixed, gradient] = [mixed, gradient].map(with_whole_rows);
    let inputs = Inputs::new(&qkv, &bias, kind);
    let given = Given {
        mixed: Rows::new(&mixed),
        gradient: Rows::new(&gradient),
        sums: values(&sums),
    };
    let [num_queries, num_keys] = [inputs.num_queries, inputs.num_keys];
    let mut of_q = None;
    let mut of_k = None;
    // SAFETY: of the three, each task writes all rows of its own head of its own row of the batch.
    let of_v = unsafe {
        written(inputs.shape(num_keys), |v| {
            of_k = Some(written(inputs.shape(num_keys), |k| {
                of_q = Some(written(inputs.shape(num_queries), |q| {
                    let out = [(q, num_queries), (k, num_keys), (v, num_keys)]
                        .map(|(out, num_tokens)| HeadRows::new(out, num_tokens, &inputs));
                    let tasks = (0..inputs.batch * inputs.num_heads).into_par_iter();
                    tasks.for_each_init(Scratch::default, |scratch, task| {
                        attend_backward(&inputs, &given, task, scratch, &out);
                    });
                }));
            }));
        })
    };
    [of_q, of_k, Some(of_v)].map(|x| x.unwrap_or_else(|| unreachable!("all three were written")))
}

struct Inputs<'a> {
    query: Rows<'a>,
    key: Rows<'a>,
    value: Rows<'a>,
    bias: &'a [f32],
    kind: MaskKind,
    batch: usize,
    num_queries: usize,
    num_keys: usize,
    num_heads: usize,
    dim: usize,
}

/// What a forward pass gave, and the gradient of its result.
struct Given<'a> {
    mixed: Rows<'a>,
    gradient: Rows<'a>,
    /// `[B, H, N]`.
    sums: &'a [f32],
}

impl<'a> Inputs<'a> {
    fn new([query, key, value]: &'a [FlexTensor; 3], bias: &'a FlexTensor, kind: MaskKind) -> Self {
        let shape = query.layout().shape();
        Self {
            query: Rows::new(query),
            key: Rows::new(key),
            value: Rows::new(value),
            bias: values(bias),
            kind,
            batch: shape[0],
            num_queries: shape[1],
            num_keys: key.layout().shape()[1],
            num_heads: shape[2],
            dim: shape[3],
        }
    }

    fn shape(&self, num_tokens: usize) -> Shape {
        Shape::from([self.batch, num_tokens, self.num_heads, self.dim])
    }

    /// Row of the batch and head of a task.
    fn place(&self, task: usize) -> [usize; 2] {
        [task / self.num_heads, task % self.num_heads]
    }

    /// Whether query `n` of row `b` may look at key `t`.
    #[inline(always)]
    fn sees(&self, b: usize, n: usize, t: usize) -> bool {
        match self.kind {
            MaskKind::Open => true,
            MaskKind::Keys => self.bias[b * self.num_keys + t] > HIDDEN / 2.0,
            MaskKind::Pairs => self.bias[(b * self.num_queries + n) * self.num_keys + t] > HIDDEN / 2.0,
        }
    }

    fn scale(&self) -> f32 {
        (self.dim as f32).sqrt().recip()
    }
}

dispatch_tiles!(attend, attend_body, (inputs: &Inputs<'_>, task: usize, scratch: &mut Scratch, sums: &mut [f32], out: &HeadRows));

/// One head of one row of the batch, forward.
#[inline(always)]
fn attend_body<const R: usize, const C: usize, const FUSED: bool>(
    inputs: &Inputs<'_>,
    task: usize,
    scratch: &mut Scratch,
    sums: &mut [f32],
    out: &HeadRows,
) {
    let (place, dim) = (inputs.place(task), inputs.dim);
    scratch.begin(inputs, place, &inputs.value);
    let num_seen = scratch.seen.len();
    for (panel, sums) in sums.chunks_mut(PANEL).enumerate() {
        let first = panel * PANEL;
        turn(
            &inputs.query,
            place,
            first..first + sums.len(),
            inputs.scale(),
            &mut scratch.queries[..dim],
        );
        scratch.score::<R, C, FUSED>(inputs, place, first);
        let scores = &mut scratch.weights[..num_seen];
        let mut largest = [f32::MIN; PANEL];
        for score in &*scores {
            for (largest, &score) in largest.iter_mut().zip(score) {
                *largest = if score > *largest { score } else { *largest };
            }
        }
        let mut total = [0.0; PANEL];
        for score in &mut *scores {
            for ((score, &largest), total) in score.iter_mut().zip(&largest).zip(&mut total) {
                *score = exp(*score - largest);
                *total += *score;
            }
        }
        let turned = &scratch.turned;
        let value = |i: usize| &turned[i * num_seen..][..num_seen];
        products::<R, C, FUSED>(value, dim, &scratch.weights[..num_seen], &mut scratch.out);
        for (i, sum) in sums.iter_mut().enumerate() {
            // A query all of whose keys are hidden.
            let is_blind = largest[i] < HIDDEN / 2.0;
            let share = if is_blind { 0.0 } else { total[i].recip() };
            *sum = if is_blind {
                f32::INFINITY
            } else {
                largest[i] + total[i].ln()
            };
            // SAFETY: a task is alone at its head, and its caller holds the memory.
            unsafe { out.write(place, first + i, |feature| scratch.out[feature][i] * share) };
        }
    }
}

dispatch_tiles!(
    attend_backward,
    attend_backward_body,
    (inputs: &Inputs<'_>, given: &Given<'_>, task: usize, scratch: &mut Scratch, out: &[HeadRows; 3])
);

/// One head of one row of the batch, backward: scores are computed again, a panel of queries at a time.
#[inline(always)]
fn attend_backward_body<const R: usize, const C: usize, const FUSED: bool>(
    inputs: &Inputs<'_>,
    given: &Given<'_>,
    task: usize,
    scratch: &mut Scratch,
    [of_queries, of_keys, of_values]: &[HeadRows; 3],
) {
    let (place, dim, scale) = (inputs.place(task), inputs.dim, inputs.scale());
    let [b, head] = place;
    scratch.begin(inputs, place, &inputs.key);
    let num_seen = scratch.seen.len();
    let padded = whole_tiles(num_seen);
    for panels in [&mut scratch.of_keys, &mut scratch.of_values] {
        panels.clear();
        panels.resize(dim.div_ceil(PANEL) * padded, [0.0; PANEL]);
    }
    for first in (0..inputs.num_queries).step_by(PANEL) {
        let tokens = first..inputs.num_queries.min(first + PANEL);
        turn(&inputs.query, place, tokens.clone(), scale, &mut scratch.queries[..dim]);
        turn(
            &given.gradient,
            place,
            tokens.clone(),
            1.0,
            &mut scratch.gradients[..dim],
        );
        turn_back(&scratch.queries[..dim], &mut scratch.query_rows);
        turn_back(&scratch.gradients[..dim], &mut scratch.gradient_rows);

        let (mut sums, mut along) = ([f32::INFINITY; PANEL], [0.0; PANEL]);
        for (i, n) in tokens.clone().enumerate() {
            sums[i] = given.sums[task * inputs.num_queries + n];
            let mixed = given.mixed.row(b, n, head).iter();
            along[i] = mixed.zip(given.gradient.row(b, n, head)).map(|(y, g)| y * g).sum();
        }
        scratch.score::<R, C, FUSED>(inputs, place, first);
        let value = |i: usize| inputs.value.row(b, scratch.seen[i], head);
        products::<R, C, FUSED>(value, num_seen, &scratch.gradients[..dim], &mut scratch.slopes);
        let panels = scratch.weights[..num_seen].iter_mut().zip(&mut scratch.slopes);
        for (weights, slopes) in panels {
            for i in 0..PANEL {
                weights[i] = exp(weights[i] - sums[i]);
                slopes[i] = weights[i] * (slopes[i] - along[i]);
            }
        }
        let (weights, slopes) = (&scratch.weights, &scratch.slopes);
        for panel in 0..dim.div_ceil(PANEL) {
            let (rows, place) = (panel * PANEL..(panel + 1) * PANEL, panel * padded..(panel + 1) * padded);
            let gradients = &scratch.gradient_rows[rows.clone()];
            add_products::<R, C, FUSED>(
                |i| &weights[i],
                num_seen,
                gradients,
                &mut scratch.of_values[place.clone()],
            );
            let queries = &scratch.query_rows[rows];
            add_products::<R, C, FUSED>(|i| &slopes[i], num_seen, queries, &mut scratch.of_keys[place]);
        }
        let turned = &scratch.turned;
        let key = |i: usize| &turned[i * num_seen..][..num_seen];
        products::<R, C, FUSED>(key, dim, &slopes[..num_seen], &mut scratch.out);
        for (i, n) in tokens.enumerate() {
            // SAFETY: a task is alone at its head, and its caller holds the memory.
            unsafe { of_queries.write(place, n, |feature| scratch.out[feature][i] * scale) };
        }
    }
    let mut seen = scratch.seen.iter().enumerate().peekable();
    for t in 0..inputs.num_keys {
        let at = seen.next_if(|(_, seen)| **seen == t).map(|(i, _)| i);
        for (out, panels) in [(of_keys, &scratch.of_keys), (of_values, &scratch.of_values)] {
            let of = |feature: usize| at.map_or(0.0, |i| panels[feature / PANEL * padded + i][feature % PANEL]);
            // SAFETY: as above.
            unsafe { out.write(place, t, of) };
        }
    }
}
