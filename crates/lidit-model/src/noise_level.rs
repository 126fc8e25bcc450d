//! How much of a noisy picture is noise.

/// A point between a clean picture and noise: `noisy = signal * picture + noise * z`, z standard normal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NoiseLevel {
    /// Factor of the clean picture, `alpha` in the literature.
    pub signal: f64,
    /// Factor of the noise, `sigma`.
    pub noise: f64,
    /// What the network is told, 0..1000.
    pub time: f64,
}

impl NoiseLevel {
    /// The clean picture itself, where every sampler ends.
    pub const CLEAN: Self = Self {
        signal: 1.0,
        noise: 0.0,
        time: 0.0,
    };

    /// The level of time `t`, 0..=1, on a straight path.
    pub(crate) fn straight(t: f64) -> Self {
        Self {
            signal: 1.0 - t,
            noise: t,
            time: MAX_TIME * t,
        }
    }

    /// Signal-to-noise ratio, `alpha^2 / sigma^2`.
    pub fn snr(&self) -> f64 {
        (self.signal / self.noise).powi(2)
    }
}

/// The longest time that a network is told.
pub(crate) const MAX_TIME: f64 = 1000.0;
