//! What a step counts beside its gradient.

use anyhow::Result;
use lidit_data::SampleSum;
use lidit_dist::World;

use crate::checkpoint_writer::Progress;
use crate::loss_bins::{BINS, LossBins};

/// Sums over samples, first of one rank, then of all.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalSums {
    /// Of the samples' losses.
    pub loss: f64,
    /// Their unweighted losses, by time.
    pub loss_bins: LossBins,
    /// Samples that count.
    pub usable: f64,
    /// Model FLOPs, forward and backward.
    pub flops: f64,
    /// Caption tokens that were cut off.
    pub cut: f64,
    /// Image tokens.
    pub tokens: f64,
    /// Who they are.
    pub samples: SampleSum,
    /// Ranks that were asked to stop.
    pub stop: f64,
    /// How far the save under way is.
    pub saving: Progress,
}

impl LocalSums {
    /// Takes another micro-batch's or rank's sums in; stops and saves belong to a rank and are not added.
    pub fn add(&mut self, other: &Self) {
        self.loss += other.loss;
        self.loss_bins += other.loss_bins;
        self.usable += other.usable;
        self.flops += other.flops;
        self.cut += other.cut;
        self.tokens += other.tokens;
        self.samples += other.samples;
    }

    /// The sums over all ranks. A collective: every rank calls it with its own.
    pub fn over_all_ranks(self, world: &World) -> Result<Self> {
        let SampleSum { samples, words } = self.samples;
        let [samples, first, second] = [samples, words[0], words[1]].map(|count| count as f64);
        let own = [self.loss, self.usable, self.flops, self.cut, self.tokens, self.stop];
        let [loss, usable, flops, cut, tokens, stop] = own;
        let Progress { done, failed } = self.saving;
        let bins = self.loss_bins.numbers();
        let mut sums = [0.0; 11 + 2 * BINS];
        sums[..11].copy_from_slice(&[
            loss, usable, flops, cut, tokens, stop, samples, first, second, done, failed,
        ]);
        sums[11..].copy_from_slice(&bins);
        if world.size() > 1 {
            world.sum_f64(&mut sums)?;
        }
        let [
            loss,
            usable,
            flops,
            cut,
            tokens,
            stop,
            samples,
            first,
            second,
            done,
            failed,
            ref bins @ ..,
        ] = sums;
        Ok(Self {
            samples: SampleSum {
                samples: samples as u64,
                words: [first as u64, second as u64],
            },
            loss,
            loss_bins: LossBins::of_numbers(bins),
            usable,
            flops,
            cut,
            tokens,
            stop,
            saving: Progress { done, failed },
        })
    }
}
