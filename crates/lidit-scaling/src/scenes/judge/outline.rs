//! Which shape a piece is: the one that covers its pixels best.

use super::super::shape::Shape;
use super::crop::Crop;

/// A shape laid over a crop. Lengths are in the crop's pixels.
#[derive(Clone, Copy, Debug)]
pub struct Outline {
    pub shape: Shape,
    pub centre: [f32; 2],
    pub side: f32,
    /// How wide its edge is: 1 as drawn, more in soft pictures.
    pub soft: f32,
    /// Squares of what is covered wrongly, over those of what is covered; without what noise explains.
    pub error: f32,
}

// A shape of this world, well drawn, is below 0.05; the second best of them above 0.1.
const WORST_FIT: f32 = 0.16;
// The most noise, over the piece's distance from the background, in which a shape can be told: in more, anything
// would fit.
const MOST_NOISE: f32 = 0.5;
// Shapes that the first look leaves for a closer one.
const CANDIDATES: usize = 4;
// Widths of edges.
const SOFT: [f32; 4] = [1.0, 2.0, 3.0, 4.5];

impl Outline {
    /// The best of all shapes.
    pub fn fit(crop: &Crop, noise: f32) -> Self {
        let noise = noise / (crop.pool as f32 * crop.strength);
        let mut all = Shape::ALL.map(|shape| {
            let first = Self {
                shape,
                centre: crop.middle,
                side: crop.side,
                soft: SOFT[0],
                error: f32::MAX,
            };
            first.with_error(crop, noise).refined(crop, noise, &[1.0])
        });
        all.sort_by(|a, b| a.error.total_cmp(&b.error));
        let close = all[..CANDIDATES]
            .iter()
            .map(|one| one.refined(crop, noise, &[0.5, 0.25]));
        let best = close.min_by(|a, b| a.error.total_cmp(&b.error)).unwrap_or(all[0]);
        let error = if noise > MOST_NOISE { f32::MAX } else { best.error };
        Self { error, ..best }
    }

    /// Whether the piece is this shape rather than something else.
    pub fn fits(&self) -> bool {
        self.error <= WORST_FIT
    }

    /// How much of the pixel at a point is covered.
    pub fn cover(&self, at: [f32; 2]) -> f32 {
        let half = self.side / 2.0;
        let own = [0, 1].map(|axis| (at[axis] - self.centre[axis]) / half);
        (0.5 - self.shape.distance(own) * half / self.soft).clamp(0.0, 1.0)
    }

    // Steps of every length while one makes it better.
    fn refined(self, crop: &Crop, noise: f32, steps: &[f32]) -> Self {
        let mut best = self;
        for &step in steps {
            for _ in 0..MOST_STEPS {
                let moves = [[step, 0.0, 0.0], [0.0, step, 0.0], [0.0, 0.0, step]];
                let before = best.error;
                for change in moves {
                    for sign in [1.0, -1.0] {
                        let next = Self {
                            centre: [best.centre[0] + sign * change[0], best.centre[1] + sign * change[1]],
                            side: best.side + sign * change[2],
                            ..best
                        };
                        let next = next.with_error(crop, noise);
                        if next.error < best.error && next.side > 2.0 {
                            best = next;
                        }
                    }
                }
                if best.error >= before {
                    break;
                }
            }
        }
        best
    }

    fn with_error(self, crop: &Crop, noise: f32) -> Self {
        let (mut wrong, mut covered) = (0.0, 0.0);
        for ((at, cover), weight) in crop.points().zip(&crop.cover).zip(&crop.weight) {
            let own = self.cover(at);
            let apart = own - cover;
            wrong += weight * (apart * apart - noise * noise);
            covered += weight * own * own;
        }
        Self {
            error: wrong / covered.max(1.0),
            ..self
        }
    }
}

const MOST_STEPS: usize = 4;
