//! The colours of plots.

/// A colour by its role: the page gives it a value for light and for dark, files get the light one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ink {
    /// Labels.
    Text,
    /// Ticks and small print.
    Muted,
    /// Grid lines.
    Grid,
    /// The paper.
    Paper,
    /// The fitted law.
    Law,
    /// One of kinds that have no order.
    Kind(usize),
    /// A place between the least (0) and the most (1) of something.
    Ordered(f64),
    /// A value between 0 and 1 on the heat map, the same in light and dark.
    Heat(f64),
    /// Words on a dark cell.
    OnDark,
    /// Words on a bright cell.
    OnBright,
}

const KINDS: [[u8; 3]; 8] = [
    [0x2b, 0x66, 0xd9],
    [0xd0, 0x6a, 0x0a],
    [0x17, 0x85, 0x57],
    [0xc4, 0x36, 0x46],
    [0x7a, 0x4f, 0xcf],
    [0x0d, 0x86, 0x9a],
    [0x86, 0x5f, 0x2f],
    [0xbb, 0x3e, 0x8a],
];

const ORDERED: [[u8; 3]; 7] = [
    [0xe8, 0x9c, 0x2c],
    [0xe0, 0x6c, 0x35],
    [0xcc, 0x47, 0x5a],
    [0x9d, 0x3d, 0x8b],
    [0x6c, 0x41, 0xa2],
    [0x40, 0x45, 0xa0],
    [0x1d, 0x3f, 0x73],
];

/// Viridis, from its dark end: van der Walt and Smith.
const HEAT: [[u8; 3]; 7] = [
    [0x44, 0x01, 0x54],
    [0x44, 0x3a, 0x83],
    [0x31, 0x68, 0x8e],
    [0x21, 0x91, 0x8c],
    [0x35, 0xb7, 0x79],
    [0x90, 0xd7, 0x43],
    [0xfd, 0xe7, 0x25],
];

impl Ink {
    /// The page's variable for it; none of colours that are the same in light and dark.
    pub fn variable(self) -> Option<String> {
        Some(match self {
            Self::Text => "--text".to_owned(),
            Self::Muted => "--muted".to_owned(),
            Self::Grid => "--grid".to_owned(),
            Self::Paper => "--paper".to_owned(),
            Self::Law => "--law".to_owned(),
            Self::Kind(kind) => format!("--kind-{}", kind % KINDS.len()),
            Self::Ordered(share) => format!("--ordered-{}", step(share)),
            Self::Heat(_) | Self::OnDark | Self::OnBright => return None,
        })
    }

    /// Red, green and blue on white paper.
    pub fn light(self) -> [u8; 3] {
        match self {
            Self::Text | Self::Law | Self::OnBright => [0x1c, 0x22, 0x2b],
            Self::Muted => [0x5a, 0x66, 0x75],
            Self::Grid => [0xe3, 0xe7, 0xec],
            Self::Paper | Self::OnDark => [0xff, 0xff, 0xff],
            Self::Kind(kind) => KINDS[kind % KINDS.len()],
            Self::Ordered(share) => ORDERED[step(share)],
            Self::Heat(share) => heat(share),
        }
    }

    /// Around a dot of this colour: the ends of the heat map need a rim to be seen on black or white.
    pub fn rim(self) -> Self {
        if matches!(self, Self::Heat(_)) {
            Self::Muted
        } else {
            Self::Paper
        }
    }

    /// As `#rrggbb`.
    pub fn hex(self) -> String {
        let [red, green, blue] = self.light();
        format!("#{red:02x}{green:02x}{blue:02x}")
    }
}

fn step(share: f64) -> usize {
    (share.clamp(0.0, 1.0) * (ORDERED.len() - 1) as f64).round() as usize
}

fn heat(share: f64) -> [u8; 3] {
    let place = share.clamp(0.0, 1.0) * (HEAT.len() - 1) as f64;
    let below = (place as usize).min(HEAT.len() - 2);
    let part = place - below as f64;
    std::array::from_fn(|i| {
        let (low, high) = (f64::from(HEAT[below][i]), f64::from(HEAT[below + 1][i]));
        (low + (high - low) * part).round() as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heat_map_goes_from_end_to_end() {
        assert_eq!(Ink::Heat(0.0).hex(), "#440154");
        assert_eq!(Ink::Heat(1.0).hex(), "#fde725");
        assert_eq!(Ink::Heat(f64::NAN).light().len(), 3);
    }
}
