//! A keyed permutation of `0..n` that gives any element without the others.

use crate::philox::{Stream, key_of, philox4x32};

const ROUNDS: u32 = 8;
// The counter's first word: 3 bits of round, 29 bits of the permutation's number.
const NUMBER_SHIFT: u32 = 3;
const NUMBER_LOW_BITS: u32 = 29;

/// A permutation of `0..len` chosen by (seed, stream, epoch), computed element by element in constant memory.
///
/// A balanced Feistel network on the next even number of bits, whose round function is Philox, with cycle walking: an
/// image outside `0..len` is permuted again, at most four times on average. Source: Black and Rogaway, "Ciphers with
/// arbitrary finite domains" (CT-RSA 2002), sections 3 and 4.
#[derive(Clone, Copy, Debug)]
pub struct KeyedPermutation {
    key: [u32; 2],
    tag: u32,
    len: u64,
    half_bits: u32,
    // What tells permutations of one key and tag apart, as the counter's first and last word carry it.
    first: u32,
    last: u32,
}

impl KeyedPermutation {
    /// The permutation of `0..len`; `len` is at least 1 and at most 2^62.
    pub fn new(seed: u64, stream: Stream, epoch: u64, len: u64) -> Self {
        Self::of_part(seed, stream, epoch, len, (0, 0))
    }

    /// One of many permutations under the same seed, stream and epoch: number `number` (below 2^39) of part `part` (below
    /// 2^16). The number's low 29 bits stand above the round in the counter's first word; its high 10 bits and the part
    /// stand above the 6 bits of the half length in the last.
    pub(crate) fn of_part(seed: u64, stream: Stream, epoch: u64, len: u64, (part, number): (u32, u64)) -> Self {
        assert!((1..=1 << 62).contains(&len), "a permutation of {len} things");
        assert!(
            part < 1 << 16 && number < 1 << 39,
            "permutation {number} of part {part}"
        );
        let bits = u64::BITS - (len - 1).leading_zeros();
        let half_bits = bits.div_ceil(2).max(1);
        Self {
            key: key_of(seed),
            tag: stream.tag(epoch),
            len,
            half_bits,
            first: (number as u32) << NUMBER_SHIFT,
            last: half_bits | ((number >> NUMBER_LOW_BITS) as u32) << 6 | part << 16,
        }
    }

    /// How many things it permutes.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Where `index` goes; `index` is below the length.
    pub fn at(&self, index: u64) -> u64 {
        assert!(index < self.len, "{index} of a permutation of {}", self.len);
        let mut value = self.encrypt(index);
        while value >= self.len {
            value = self.encrypt(value);
        }
        value
    }

    /// Which index goes to `value`: the inverse of [`at`](Self::at); `value` is below the length.
    pub fn index_of(&self, value: u64) -> u64 {
        assert!(value < self.len, "{value} of a permutation of {}", self.len);
        let mut index = self.decrypt(value);
        while index >= self.len {
            index = self.decrypt(index);
        }
        index
    }

    fn encrypt(&self, value: u64) -> u64 {
        let (mut left, mut right) = (value >> self.half_bits, value & self.mask());
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ self.mixed(round, right));
        }
        left << self.half_bits | right
    }

    fn decrypt(&self, value: u64) -> u64 {
        let (mut left, mut right) = (value >> self.half_bits, value & self.mask());
        for round in (0..ROUNDS).rev() {
            (left, right) = (right ^ self.mixed(round, left), left);
        }
        left << self.half_bits | right
    }

    fn mixed(&self, round: u32, half: u64) -> u64 {
        let counter = [round | self.first, self.tag, half as u32, self.last];
        u64::from(philox4x32(counter, self.key)[0]) & self.mask()
    }

    fn mask(&self) -> u64 {
        (1 << self.half_bits) - 1
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn values(seed: u64, epoch: u64, len: u64) -> Vec<u64> {
        let permutation = KeyedPermutation::new(seed, Stream::Order, epoch, len);
        (0..len).map(|index| permutation.at(index)).collect()
    }

    #[test]
    fn every_length_gives_a_permutation() {
        for len in (1..70).chain([127, 128, 129, 1000, 4096, 5000]) {
            let mut sorted = values(len * 31, 2, len);
            sorted.sort_unstable();
            assert_eq!(sorted, (0..len).collect::<Vec<_>>(), "{len}");
        }
    }

    #[test]
    fn the_inverse_leads_back() {
        for len in [1, 2, 7, 128, 1000, 1 << 40] {
            let permutation = KeyedPermutation::new(5, Stream::Subset, 1, len);
            for index in (0..len.min(300)).chain([len - 1]) {
                assert_eq!(permutation.index_of(permutation.at(index)), index, "{index} of {len}");
            }
        }
    }

    #[test]
    fn seeds_epochs_and_streams_differ() {
        let base = values(1, 0, 100);
        assert_ne!(base, values(2, 0, 100));
        assert_ne!(base, values(1, 1, 100));
        let other = KeyedPermutation::new(1, Stream::Subset, 0, 100);
        assert_ne!(base, (0..100).map(|i| other.at(i)).collect::<Vec<_>>());
        assert_ne!(base, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn parts_and_numbers_have_permutations_of_their_own() {
        let of = |part, number| -> Vec<u64> {
            let permutation = KeyedPermutation::of_part(1, Stream::Order, 0, 50, (part, number));
            (0..50).map(|index| permutation.at(index)).collect()
        };
        let all = [
            of(0, 0),
            of(0, 1),
            of(0, 1 << 29),
            of(0, (1 << 39) - 1),
            of(1, 0),
            of(65_535, 0),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(all[..index].iter().all(|other| other != one), "{index}");
        }
        assert_eq!(all[0], values(1, 0, 50));
    }

    #[test]
    fn places_are_near_uniform() {
        let len = 10;
        let mut counts = vec![[0_u32; 10]; 10];
        for seed in 0..2000 {
            for (index, value) in values(seed, 0, len).into_iter().enumerate() {
                counts[index][value as usize] += 1;
            }
        }
        // 200 expected in each cell, standard deviation 13.4.
        assert!(
            counts.iter().flatten().all(|count| (140..260).contains(count)),
            "{counts:?}"
        );
    }

    /// Printed by the Python of `docs/data.md`: seed 0x0123456789abcdef, epoch 3, ten things.
    #[test]
    fn an_epoch_s_order_equals_that_of_the_python_in_the_docs() {
        assert_eq!(values(0x0123_4567_89ab_cdef, 3, 10), PYTHON_ORDER);
    }

    const PYTHON_ORDER: [u64; 10] = [0, 8, 2, 3, 9, 4, 6, 7, 5, 1];

    #[test]
    fn a_huge_set_seeks_without_memory() {
        let permutation = KeyedPermutation::new(3, Stream::Order, 0, 1 << 40);
        let value = permutation.at((1 << 40) - 1);
        assert!(value < 1 << 40);
        assert_ne!(value, permutation.at((1 << 40) - 2));
    }
}
