//! What the order of samples is built on: where rows lie, whose they are, and how much of each source is wanted.

use std::collections::BTreeMap;

use crate::bucket::Bucket;
use crate::interleave::Interleave;
use crate::members::Members;
use crate::part::{BlockRows, Part};

// Weights of parts are shares in this many steps, so that rounding them moves no share by more than 2^-40.
const WEIGHT_ONE: f64 = (1_u64 << 40) as f64;

/// The parts of a dataset, by bucket, with the weights that they are drawn by.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Every part: one a source and bucket that has members.
    pub parts: Vec<Part>,
    /// The members of all parts.
    pub members: Members,
    /// One a bucket, from the narrowest size on.
    pub buckets: Vec<BucketStream>,
    /// Which bucket a step is of.
    pub steps: Interleave,
}

/// The endless stream of one bucket: its sources' parts, each in its share.
#[derive(Debug)]
pub(crate) struct BucketStream {
    /// The size of its pictures.
    pub size: Bucket,
    /// Numbers of its parts, in the order of the sources.
    pub parts: Vec<usize>,
    /// Which of them an item is of.
    pub sources: Interleave,
}

impl Layout {
    /// Sorts `blocks` into parts. `weights` are the sources' shares of all samples; without them each source has the share
    /// of its rows.
    pub fn new(blocks: Vec<BlockRows>, members: Members, weights: Option<&[f64]>, window: u64, lanes: u64) -> Self {
        let mut sorted: BTreeMap<(Bucket, usize), Vec<BlockRows>> = BTreeMap::new();
        for block in blocks {
            sorted.entry((block.size, block.source)).or_default().push(block);
        }
        let parts: Vec<Part> = sorted
            .into_values()
            .filter_map(|blocks| Part::new(&blocks, &members, window, lanes))
            .collect();
        let shares = shares(&parts, weights);
        let mut buckets: Vec<(Bucket, Vec<usize>)> = Vec::new();
        for (number, part) in parts.iter().enumerate() {
            match buckets.last_mut() {
                Some((size, own)) if *size == part.size => own.push(number),
                _ => buckets.push((part.size, vec![number])),
            }
        }
        let share_of = |own: &[usize]| own.iter().map(|number| shares[*number]).sum();
        Self {
            steps: Interleave::new(buckets.iter().map(|(_, own)| share_of(own)).collect()),
            buckets: buckets
                .into_iter()
                .map(|(size, own)| BucketStream {
                    size,
                    sources: Interleave::new(own.iter().map(|number| shares[*number]).collect()),
                    parts: own,
                })
                .collect(),
            parts,
            members,
        }
    }
}

// Each part's weight: its rows, or its source's weight in proportion to the source's rows that it holds.
fn shares(parts: &[Part], weights: Option<&[f64]>) -> Vec<u64> {
    let Some(weights) = weights else {
        return parts.iter().map(Part::rows).collect();
    };
    let mut rows = vec![0_u64; weights.len()];
    for part in parts {
        rows[part.source] += part.rows();
    }
    // Sources without a member are drawn from by nobody, and their weight counts for nothing.
    let held = weights.iter().zip(&rows).filter(|(_, rows)| **rows > 0);
    let total: f64 = held.map(|(weight, _)| weight).sum();
    let share = |part: &Part| weights[part.source] / total * part.rows() as f64 / rows[part.source] as f64;
    parts
        .iter()
        .map(|part| ((share(part) * WEIGHT_ONE) as u64).max(1))
        .collect()
}
