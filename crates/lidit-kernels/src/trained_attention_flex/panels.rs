//! Panels of queries, and what a task keeps in its cache.

use std::ops::Range;

use super::Inputs;
use crate::flex::Rows;
use crate::tile::{PANEL, TILE, multiply_tile};
use crate::visible_keys::{HIDDEN, MaskKind};

/// `PANEL` queries side by side.
pub type Panel = [f32; PANEL];

/// What a task keeps in its cache.
#[derive(Default)]
pub struct Scratch {
    /// The keys that any query of the row sees.
    pub seen: Vec<usize>,
    /// Keys (backward) or values (forward) with a feature a row: `[d, T]`.
    pub turned: Vec<f32>,
    /// `[d]` panels.
    pub queries: Vec<Panel>,
    pub gradients: Vec<Panel>,
    pub out: Vec<Panel>,
    /// `[T]` panels.
    pub weights: Vec<Panel>,
    pub slopes: Vec<Panel>,
    /// With queries as rows: `[d / PANEL, PANEL]` panels of features.
    pub query_rows: Vec<Panel>,
    pub gradient_rows: Vec<Panel>,
    /// `[d / PANEL, T]` panels of features.
    pub of_keys: Vec<Panel>,
    pub of_values: Vec<Panel>,
}

impl Scratch {
    /// Finds the keys that are seen and gathers `turned` of them.
    #[inline(always)]
    pub fn begin(&mut self, inputs: &Inputs<'_>, [b, head]: [usize; 2], turned: &Rows<'_>) {
        let is_seen = |&t: &usize| match inputs.kind {
            MaskKind::Open | MaskKind::Keys => inputs.sees(b, 0, t),
            MaskKind::Pairs => (0..inputs.num_queries).any(|n| inputs.sees(b, n, t)),
        };
        self.seen.clear();
        self.seen.extend((0..inputs.num_keys).filter(is_seen));
        let (num_seen, dim) = (self.seen.len(), inputs.dim);
        self.turned.resize(num_seen * dim, 0.0);
        for (i, &t) in self.seen.iter().enumerate() {
            for (column, &x) in turned.row(b, t, head).iter().enumerate() {
                self.turned[column * num_seen + i] = x;
            }
        }
        for panels in [&mut self.queries, &mut self.gradients, &mut self.out] {
            panels.resize(whole_tiles(dim), [0.0; PANEL]);
        }
        for panels in [&mut self.weights, &mut self.slopes] {
            panels.resize(whole_tiles(num_seen), [0.0; PANEL]);
        }
    }

    /// Scores of a panel of queries, which lie in `queries`, into `weights`.
    #[inline(always)]
    pub fn score<const R: usize, const C: usize, const FUSED: bool>(
        &mut self,
        inputs: &Inputs<'_>,
        [b, head]: [usize; 2],
        first: usize,
    ) {
        let key = |i: usize| inputs.key.row(b, self.seen[i], head);
        products::<R, C, FUSED>(key, self.seen.len(), &self.queries[..inputs.dim], &mut self.weights);
        if inputs.kind == MaskKind::Pairs {
            for (scores, &t) in self.weights.iter_mut().zip(&self.seen) {
                for (i, score) in scores.iter_mut().enumerate() {
                    let n = (first + i).min(inputs.num_queries - 1);
                    if !inputs.sees(b, n, t) {
                        *score = HIDDEN;
                    }
                }
            }
        }
    }
}

pub fn whole_tiles(len: usize) -> usize {
    len.div_ceil(TILE) * TILE
}

/// `out [count] = rows [count, depth] x panel [depth]`.
#[inline(always)]
pub fn products<'a, const R: usize, const C: usize, const FUSED: bool>(
    row: impl Fn(usize) -> &'a [f32],
    count: usize,
    panel: &[Panel],
    out: &mut [Panel],
) {
    out.fill([0.0; PANEL]);
    add_products::<R, C, FUSED>(row, count, panel, out);
}

/// `out [count] += rows [count, depth] x panel [depth]`; `out` has whole tiles.
#[inline(always)]
pub fn add_products<'a, const R: usize, const C: usize, const FUSED: bool>(
    row: impl Fn(usize) -> &'a [f32],
    count: usize,
    panel: &[Panel],
    out: &mut [Panel],
) {
    let (tiles, _) = out.as_chunks_mut::<TILE>();
    for (first, tile) in (0..count).step_by(TILE).zip(tiles) {
        multiply_tile::<R, C, FUSED>(|i| row(first + i), (count - first).min(TILE), panel, tile);
    }
}

/// Puts `PANEL` tokens from `first` side by side, `factor` times each number; zeros after the last.
#[inline(always)]
pub fn turn(rows: &Rows<'_>, [b, head]: [usize; 2], tokens: Range<usize>, factor: f32, panels: &mut [Panel]) {
    for i in 0..PANEL {
        if i < tokens.len() {
            for (panel, &x) in panels.iter_mut().zip(rows.row(b, tokens.start + i, head)) {
                panel[i] = x * factor;
            }
        } else {
            for panel in &mut *panels {
                panel[i] = 0.0;
            }
        }
    }
}

/// The same numbers with tokens as rows: `[d / PANEL, PANEL]` panels of features.
#[inline(always)]
pub fn turn_back(panels: &[Panel], rows: &mut Vec<Panel>) {
    rows.clear();
    rows.resize(panels.len().div_ceil(PANEL) * PANEL, [0.0; PANEL]);
    for (feature, panel) in panels.iter().enumerate() {
        let rows = &mut rows[feature / PANEL * PANEL..][..PANEL];
        for (row, &x) in rows.iter_mut().zip(panel) {
            row[feature % PANEL] = x;
        }
    }
}
