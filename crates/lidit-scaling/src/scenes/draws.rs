//! Random choices that depend on a seed, a purpose and an index alone.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// What choices are for: those for one purpose never move those for another.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    Scene,
    Captions,
    HeldOut,
    Prompts,
    Damage,
}

const PURPOSES: u64 = 8;

/// Choices by `ChaCha8`: row i of a set has a stream of its own, so it never depends on the rows before it.
pub(crate) struct Draws(ChaCha8Rng);

impl Draws {
    pub fn new(seed: u64, purpose: Purpose, index: u64) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(index.wrapping_mul(PURPOSES) + purpose as u64);
        Self(generator)
    }

    /// From 0 to 1, never 1.
    pub fn uniform(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1 << 24) as f32
    }

    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    pub fn happens(&mut self, probability: f32) -> bool {
        self.uniform() < probability
    }

    /// From 0 to `count - 1`; 0 where `count` is 0.
    pub fn below(&mut self, count: usize) -> usize {
        ((u64::from(self.0.next_u32()) * count as u64) >> 32) as usize
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_depend_on_seed_purpose_and_index_alone() {
        let first = |seed, purpose, index| Draws::new(seed, purpose, index).uniform().to_bits();
        assert_eq!(first(1, Purpose::Scene, 7), first(1, Purpose::Scene, 7));
        let all = [
            first(1, Purpose::Scene, 7),
            first(2, Purpose::Scene, 7),
            first(1, Purpose::Captions, 7),
            first(1, Purpose::Scene, 8),
        ];
        for (number, one) in all.iter().enumerate() {
            assert!(!all[..number].contains(one));
        }
    }
}
