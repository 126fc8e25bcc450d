//! A piece of a picture, cut out and made small enough to compare.

use super::ground::{Ground, dot, minus, norm, quantile};
use super::pieces::Piece;

/// What lies around a piece. Lengths are in pixels of the crop, each of `pool` by `pool` of the picture's.
pub struct Crop {
    pub width: usize,
    pub height: usize,
    pub pool: usize,
    corner: [f32; 2],
    /// sRGB, row by row.
    pub pixels: Vec<[f32; 3]>,
    /// How much of a pixel belongs to the piece, 0 for background to 1.
    pub cover: Vec<f32>,
    /// What counts: 0 where another piece is.
    pub weight: Vec<f32>,
    /// The middle and the longer side of its bounds.
    pub middle: [f32; 2],
    pub side: f32,
    /// How far the piece is from the background.
    pub strength: f32,
}

// A shape is told from the others by no more than so many pixels a side.
const SIDE: usize = 22;
// Room around the bounds, in pixels of the crop.
const ROOM: usize = 2;

impl Crop {
    pub fn of(ground: &Ground, piece: &Piece, labels: &[usize], number: usize) -> Self {
        let [left, top, right, bottom] = piece.bounds;
        let longest = (right - left).max(bottom - top);
        let pool = longest.div_ceil(SIDE).max(1);
        let room = ROOM * pool;
        let extent = |low: usize, high: usize, limit: usize| {
            let from = low.saturating_sub(room);
            (from, ((high + room).min(limit) - from) / pool)
        };
        let (x, width) = extent(left, right, ground.width);
        let (y, height) = extent(top, bottom, ground.height);
        let mut crop = Self {
            width,
            height,
            pool,
            corner: [x as f32, y as f32],
            pixels: Vec::with_capacity(width * height),
            cover: Vec::new(),
            weight: Vec::with_capacity(width * height),
            middle: [[left, right, x], [top, bottom, y]]
                .map(|[low, high, from]| ((low + high) as f32 / 2.0 - from as f32) / pool as f32),
            side: longest as f32 / pool as f32,
            strength: 0.0,
        };
        for cell in 0..width * height {
            let (column, row) = (x + cell % width * pool, y + cell / width * pool);
            let own = (0..pool * pool).map(|at| (row + at / pool) * ground.width + column + at % pool);
            let mut sum = [0.0; 3];
            let mut others = false;
            for at in own {
                for (sum, channel) in sum.iter_mut().zip(ground.pixels[at]) {
                    *sum += channel;
                }
                others |= labels[at] != 0 && labels[at] != number + 1;
            }
            crop.pixels.push(sum.map(|sum| sum / (pool * pool) as f32));
            crop.weight.push(if others { 0.0 } else { 1.0 });
        }
        crop.measure(ground, piece);
        crop
    }

    /// Where a point of the crop is in the picture, in its pixels.
    pub fn in_picture(&self, at: [f32; 2]) -> [f32; 2] {
        [0, 1].map(|axis| self.corner[axis] + at[axis] * self.pool as f32)
    }

    /// The middle of every pixel.
    pub fn points(&self) -> impl Iterator<Item = [f32; 2]> {
        let width = self.width;
        (0..self.pixels.len()).map(move |at| [(at % width) as f32 + 0.5, (at / width) as f32 + 0.5])
    }

    // Along the way from the background to the piece: noise to the sides of it does not matter then. Marks lie further
    // along it than fill, so the lower part of the piece says where full coverage begins.
    fn measure(&mut self, ground: &Ground, piece: &Piece) {
        let mut sum = [0.0; 3];
        for &at in &piece.pixels {
            let apart = minus(ground.pixels[at], ground.colour);
            for (sum, channel) in sum.iter_mut().zip(apart) {
                *sum += channel;
            }
        }
        let length = norm(sum).max(1e-6);
        let way = sum.map(|channel| channel / length);
        let along: Vec<f32> = self
            .pixels
            .iter()
            .map(|pixel| dot(minus(*pixel, ground.colour), way))
            .collect();
        let width = self.width;
        let peak = along.iter().copied().fold(0.0, f32::max);
        let low = PEAK_SHARE * peak;
        let inner = (0..along.len()).filter(|&at| {
            let (x, y) = (at % width, at / width);
            let beside = x > 0 && x + 1 < width && y > 0 && y + 1 < self.height;
            beside
                && [at, at - 1, at + 1, at - width, at + width]
                    .iter()
                    .all(|at| along[*at] > low)
        });
        let mut inner: Vec<f32> = inner.filter(|at| self.weight[*at] > 0.0).map(|at| along[at]).collect();
        self.strength = if inner.is_empty() {
            peak
        } else {
            quantile(&mut inner, 0.3)
        }
        .max(1e-6);
        self.cover = along
            .iter()
            .map(|along| (along / self.strength).clamp(-1.0, 1.0))
            .collect();
    }
}

const PEAK_SHARE: f32 = 0.3;
