//! What differs from the background, cut into connected pieces.

use super::ground::{Ground, quantile};

/// Connected pixels.
pub struct Piece {
    /// Positions, row by row in the picture.
    pub pixels: Vec<usize>,
    /// Left, top, right and bottom, the last two beyond it.
    pub bounds: [usize; 4],
}

/// The pieces that are large enough to be objects.
///
/// Cut twice: at the threshold of the whole picture, then each piece again where it is less than a share of its own
/// strength, so that what a blur joined comes apart.
pub fn pieces(ground: &Ground) -> Vec<Piece> {
    let mut inside: Vec<bool> = ground
        .distance
        .iter()
        .map(|distance| *distance > ground.threshold)
        .collect();
    let side = ground.width.min(ground.height) as f32;
    let least_side = (LEAST_SIDE * side).max(LEAST_PIXELS);
    let mut found = Vec::new();
    for joined in connected(&mut inside, ground.width) {
        let mut strengths: Vec<f32> = joined.pixels.iter().map(|at| ground.distance[*at]).collect();
        let strong = STRONG * quantile(&mut strengths, 0.75);
        let mut own = vec![false; inside.len()];
        for &at in &joined.pixels {
            own[at] = ground.distance[at] > strong;
        }
        found.extend(connected(&mut own, ground.width));
    }
    found.retain(|piece| {
        let [left, top, right, bottom] = piece.bounds;
        let extent = (right - left).max(bottom - top) as f32;
        extent >= least_side && piece.pixels.len() as f32 >= LEAST_FILLED * extent * extent
    });
    found
}

/// For every pixel the number of its piece, one more than its index; 0 where there is none.
pub fn labels(ground: &Ground, pieces: &[Piece]) -> Vec<usize> {
    let mut labels = vec![0; ground.distance.len()];
    for (number, piece) in pieces.iter().enumerate() {
        for &at in &piece.pixels {
            labels[at] = number + 1;
        }
    }
    labels
}

// Objects are at least 0.14 of the side; specks are not objects, and nor are lines.
const LEAST_SIDE: f32 = 0.09;
const LEAST_PIXELS: f32 = 5.0;
const LEAST_FILLED: f32 = 0.15;
// Fill is at least half as far from the background as marks are.
const STRONG: f32 = 0.4;

// Takes the connected sets out of `inside`.
fn connected(inside: &mut [bool], width: usize) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut open = Vec::new();
    for start in 0..inside.len() {
        if !std::mem::take(&mut inside[start]) {
            continue;
        }
        let mut piece = Piece {
            pixels: Vec::new(),
            bounds: [usize::MAX, usize::MAX, 0, 0],
        };
        open.push(start);
        while let Some(at) = open.pop() {
            let (x, y) = (at % width, at / width);
            piece.pixels.push(at);
            let [left, top, right, bottom] = piece.bounds;
            piece.bounds = [left.min(x), top.min(y), right.max(x + 1), bottom.max(y + 1)];
            let beside = [
                (x > 0).then(|| at - 1),
                (x + 1 < width).then(|| at + 1),
                (y > 0).then(|| at - width),
                (at + width < inside.len()).then(|| at + width),
            ];
            open.extend(
                beside
                    .into_iter()
                    .flatten()
                    .filter(|next| std::mem::take(&mut inside[*next])),
            );
        }
        pieces.push(piece);
    }
    pieces
}
