//! Philox4x32-10, the counter-based generator that everything random about a sample comes from.

use std::f64::consts::TAU;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: u32 = 10;
const EPOCH_MASK: u64 = 0x00FF_FFFF;

/// What a draw is for. Each purpose is a stream of its own, so that adding one moves no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The diffusion time of a training sample: its two first uniforms.
    Timestep = 0,
    /// The noise added to a training sample.
    Noise = 1,
    /// Which of a row's alternative captions is used.
    Caption = 2,
    /// Whether the caption is dropped, for guidance.
    Dropout = 3,
    /// The noise that image generation starts from.
    Generation = 4,
    /// The round function of a window's permutation ([`crate::SampleOrder`]).
    Order = 5,
    /// The round function of the subset's permutation ([`crate::Subset`]).
    Subset = 6,
    /// The round function of the permutation of an epoch's blocks ([`crate::SampleOrder`]).
    Blocks = 7,
    /// The noise of a validation triple: the level's number stands in the epoch's place.
    Validation = 8,
}

impl Stream {
    /// The second counter word: the stream in the high 8 bits, the epoch modulo 2^24 in the low 24.
    pub(crate) fn tag(self, epoch: u64) -> u32 {
        (self as u32) << 24 | (epoch & EPOCH_MASK) as u32
    }
}

/// One block of Philox4x32-10: four words from a counter and a key.
///
/// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC11), section 3.3.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..ROUNDS {
        if round > 0 {
            key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
        }
        let product0 = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let product1 = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (product1 >> 32) as u32 ^ counter[1] ^ key[0],
            product1 as u32,
            (product0 >> 32) as u32 ^ counter[3] ^ key[1],
            product0 as u32,
        ];
    }
    counter
}

/// The key of a seed: its low word, then its high word.
pub(crate) fn key_of(seed: u64) -> [u32; 2] {
    [seed as u32, (seed >> 32) as u32]
}

/// The random numbers of one (seed, epoch, sample, stream), in order from the first.
///
/// Block `i` of its words is `philox4x32([i, stream << 24 | epoch mod 2^24, sample low, sample high], seed)`; the words
/// of a block are used in order. `docs/data.md` repeats it in Python.
#[derive(Clone, Debug)]
pub struct SampleRng {
    key: [u32; 2],
    counter: [u32; 4],
    words: [u32; 4],
    used: usize,
    spare: Option<f32>,
}

impl SampleRng {
    /// The stream's numbers for one sample in one epoch.
    pub fn new(seed: u64, epoch: u64, sample: u64, stream: Stream) -> Self {
        Self {
            key: key_of(seed),
            counter: [0, stream.tag(epoch), sample as u32, (sample >> 32) as u32],
            words: [0; 4],
            used: 4,
            spare: None,
        }
    }

    /// The next 32 random bits.
    pub fn word(&mut self) -> u32 {
        if self.used == 4 {
            self.words = philox4x32(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// Uniform on [0, 1): the high 24 bits of the next word, exact in `f32`.
    pub fn uniform(&mut self) -> f32 {
        (self.word() >> 8) as f32 / 16_777_216.0
    }

    /// Uniform on `0..bound`: the high half of the next word times the bound. `bound` is at least 1.
    pub fn below(&mut self, bound: u32) -> u32 {
        ((u64::from(self.word()) * u64::from(bound)) >> 32) as u32
    }

    /// Standard normal by Box-Muller: two words make two numbers, the cosine's first.
    ///
    /// `u = ((w0 >> 8) + 1) / 2^24` in (0, 1], `v = (w1 >> 8) / 2^24`, `sqrt(-2 ln u) * (cos, sin)(2 pi v)`, computed in
    /// `f64` and rounded once, so that other languages get the same `f32` but for the last place of their libm.
    pub fn normal(&mut self) -> f32 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let u = (f64::from(self.word() >> 8) + 1.0) / 16_777_216.0;
        let v = f64::from(self.word() >> 8) / 16_777_216.0;
        let radius = (-2.0 * u.ln()).sqrt();
        let (sin, cos) = (TAU * v).sin_cos();
        self.spare = Some((radius * sin) as f32);
        (radius * cos) as f32
    }

    /// Fills `out` with standard normals, in order.
    pub fn fill_normal(&mut self, out: &mut [f32]) {
        out.fill_with(|| self.normal());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The three `philox4x32 10` lines of `tests/kat_vectors` of Random123 (D. E. Shaw Research), the authors' own
    /// implementation: counter, key, result.
    #[test]
    fn philox_gives_the_published_known_answers() {
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            (
                [u32::MAX; 4],
                [u32::MAX; 2],
                [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
            ),
            (
                pi,
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    /// Printed by the Python of `docs/data.md` for seed 0x0123456789abcdef, epoch 3, sample `0x1_0000_0002`.
    #[test]
    fn a_sample_s_numbers_equal_those_of_the_python_in_the_docs() {
        let rng = |stream| SampleRng::new(0x0123_4567_89ab_cdef, 3, 0x1_0000_0002, stream);
        let mut timestep = rng(Stream::Timestep);
        let uniforms: Vec<f32> = (0..5).map(|_| timestep.uniform()).collect();
        assert_eq!(uniforms, PYTHON_UNIFORMS);
        let mut normals = [0.0; 5];
        rng(Stream::Noise).fill_normal(&mut normals);
        for (ours, python) in normals.iter().zip(PYTHON_NORMALS) {
            assert!((ours - python).abs() <= 1e-6 * python.abs(), "{ours} {python}");
        }
    }

    const PYTHON_UNIFORMS: [f32; 5] = [0.409_601_1, 0.919_558_1, 0.119_798_96, 0.708_329_56, 0.011_486_59];
    const PYTHON_NORMALS: [f32; 5] = [1.682_891_1, -2.354_975, 0.358_118_9, 0.521_261_33, 0.457_726_9];

    #[test]
    fn any_of_seed_epoch_sample_and_stream_changes_the_numbers() {
        let first = |seed, epoch, sample, stream| SampleRng::new(seed, epoch, sample, stream).word();
        let base = first(1, 2, 3, Stream::Noise);
        assert_ne!(base, first(2, 2, 3, Stream::Noise));
        assert_ne!(base, first(1 << 32 | 1, 2, 3, Stream::Noise));
        assert_ne!(base, first(1, 3, 3, Stream::Noise));
        assert_ne!(base, first(1, 2, 4, Stream::Noise));
        assert_ne!(base, first(1, 2, 1 << 32 | 3, Stream::Noise));
        assert_ne!(base, first(1, 2, 3, Stream::Timestep));
    }

    #[test]
    fn uniforms_and_normals_have_their_moments() {
        let mut rng = SampleRng::new(7, 0, 0, Stream::Noise);
        let n = 40_000;
        let mut values = vec![0.0; n];
        rng.fill_normal(&mut values);
        let moment = |power: i32| values.iter().map(|x| f64::from(*x).powi(power)).sum::<f64>() / n as f64;
        assert!(moment(1).abs() < 0.02, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.03, "{}", moment(2));
        assert!(moment(3).abs() < 0.08, "{}", moment(3));
        assert!((moment(4) - 3.0).abs() < 0.2, "{}", moment(4));
        let mean = (0..n).map(|_| f64::from(rng.uniform())).sum::<f64>() / n as f64;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
    }

    #[test]
    fn below_stays_below_and_meets_every_value() {
        let mut rng = SampleRng::new(1, 0, 0, Stream::Caption);
        let mut seen = [0; 5];
        for _ in 0..500 {
            seen[rng.below(5) as usize] += 1;
        }
        assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
    }
}
