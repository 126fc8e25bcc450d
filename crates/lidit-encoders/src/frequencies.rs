//! The rotary frequencies and the ways to stretch them beyond the lengths that a model was trained on.

use std::f32::consts::TAU;

/// How frequencies are stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Stretch {
    /// Not at all.
    None,
    /// All by one factor (position interpolation, arXiv 2306.15595).
    Linear {
        /// Divides every frequency.
        factor: f32,
    },
    /// Llama 3.1's: long waves by the factor, short ones not at all, those between by a share.
    Llama3 {
        /// Divides the frequencies of long waves.
        factor: f32,
        /// Waves longer than `original_length / low` are long.
        low: f32,
        /// Waves shorter than `original_length / high` are short.
        high: f32,
        /// Positions of the original training.
        original_length: f32,
    },
}

/// Radians a position for each of the `head_dim / 2` pairs: `base^(-2 i / head_dim)`, stretched; in f32 as
/// transformers computes it.
pub fn frequencies(base: f32, head_dim: usize, stretch: Stretch) -> Vec<f32> {
    let plain = (0..head_dim / 2).map(|i| base.powf((2 * i) as f32 / head_dim as f32).recip());
    plain.map(|frequency| stretch.apply(frequency)).collect()
}

impl Stretch {
    fn apply(self, frequency: f32) -> f32 {
        match self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 {
                factor,
                low,
                high,
                original_length,
            } => {
                let wave = TAU / frequency;
                if wave < original_length / high {
                    frequency
                } else if wave > original_length / low {
                    frequency / factor
                } else {
                    let share = (original_length / wave - low) / (high - low);
                    (1.0 - share) * frequency / factor + share * frequency
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_stretches_long_waves_only() {
        let stretch = Stretch::Llama3 {
            factor: 8.0,
            low: 1.0,
            high: 4.0,
            original_length: 8192.0,
        };
        let plain = frequencies(5e5, 128, Stretch::None);
        let stretched = frequencies(5e5, 128, stretch);
        assert_eq!(plain[..20], stretched[..20]);
        assert!((stretched[63] * 8.0 / plain[63] - 1.0).abs() < 1e-6);
        assert!(stretched.windows(2).all(|pair| pair[0] > pair[1]), "order is kept");
    }
}
