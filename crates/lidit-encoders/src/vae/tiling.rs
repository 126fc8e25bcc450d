//! Large pictures a tile at a time, so that memory is that of one tile.

use burn::tensor::{DType, Tensor, TensorData};

use crate::EncoderError;

/// Square tiles that overlap by a quarter of their side. Where two meet, one fades linearly into the other, so that no
/// seam shows; positions, order and weights are those of diffusers' `AutoencoderKL` with tiling enabled.
///
/// A tile sees nothing beyond its border and normalises over itself, so the result differs from that of the whole
/// picture; the more, the smaller the tile. A picture that fits into one tile is computed whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// A tile's side, in latents.
    tile: usize,
    /// How far neighbours reach into each other, in latents.
    overlap: usize,
    /// Pixels per latent along one side.
    factor: usize,
}

/// A cut of what goes in, and what comes out of it: the same tiles in two units.
struct Cut {
    tile: usize,
    stride: usize,
    /// A tile's side without the overlap, as it comes out.
    kept: usize,
    /// The overlap, as it comes out.
    fade: usize,
}

impl Tiling {
    /// Tiles of `tile` by `tile` pixels for an autoencoder with `factor` pixels per latent.
    pub(super) fn new(tile: usize, factor: usize) -> Result<Self, EncoderError> {
        let multiple = 4 * factor;
        if tile == 0 || !tile.is_multiple_of(multiple) {
            return Err(EncoderError::Tile { tile, multiple });
        }
        Ok(Self {
            tile: tile / factor,
            overlap: tile / multiple,
            factor,
        })
    }

    /// `[B, 3, H, W]` to `[B, _, H / f, W / f]`, where `encode` does so for tiles.
    pub(super) fn encode(&self, images: Tensor<4>, encode: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        let kept = self.tile - self.overlap;
        let cut = Cut {
            tile: self.tile * self.factor,
            stride: kept * self.factor,
            kept,
            fade: self.overlap,
        };
        cut.apply(images, encode)
    }

    /// `[B, C, h, w]` to `[B, _, h * f, w * f]`, where `decode` does so for tiles.
    pub(super) fn decode(&self, latents: Tensor<4>, decode: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        let kept = self.tile - self.overlap;
        let cut = Cut {
            tile: self.tile,
            stride: kept,
            kept: kept * self.factor,
            fade: self.overlap * self.factor,
        };
        cut.apply(latents, decode)
    }
}

impl Cut {
    fn apply(&self, x: Tensor<4>, compute: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
        let [_, _, h, w] = x.dims();
        if h.max(w) <= self.tile {
            return compute(x);
        }
        let mut above: Vec<Tensor<4>> = Vec::new();
        let mut rows = Vec::new();
        for top in (0..h).step_by(self.stride) {
            let strip = x.clone().narrow(2, top, self.tile.min(h - top));
            let mut row: Vec<Tensor<4>> = Vec::new();
            for (column, left) in (0..w).step_by(self.stride).enumerate() {
                let mut tile = compute(strip.clone().narrow(3, left, self.tile.min(w - left)));
                if let Some(above) = above.get(column) {
                    tile = faded(above, tile, 2, self.fade);
                }
                if let Some(before) = row.last() {
                    tile = faded(before, tile, 3, self.fade);
                }
                row.push(tile);
            }
            let kept = row.iter().map(|tile| self.crop(tile.clone())).collect();
            rows.push(Tensor::cat(kept, 3));
            above = row;
        }
        Tensor::cat(rows, 2)
    }

    fn crop(&self, tile: Tensor<4>) -> Tensor<4> {
        let [_, _, h, w] = tile.dims();
        tile.narrow(2, 0, self.kept.min(h)).narrow(3, 0, self.kept.min(w))
    }
}

/// `tile`, whose beginning along `dim` fades out of the end of the tile before it.
fn faded(before: &Tensor<4>, tile: Tensor<4>, dim: usize, fade: usize) -> Tensor<4> {
    let (len_before, len) = (before.dims()[dim], tile.dims()[dim]);
    let fade = fade.min(len_before).min(len);
    let weights = (0..fade).map(|i| i as f32 / fade as f32).collect::<Vec<_>>();
    let mut shape = [1; 4];
    shape[dim] = fade;
    let weights: Tensor<4> = Tensor::from_data(TensorData::new(weights, shape), (&tile.device(), DType::F32));
    let end = before.clone().narrow(dim, len_before - fade, fade);
    let begin = tile.clone().narrow(dim, 0, fade);
    let mixed = end * (weights.clone() * -1.0 + 1.0) + begin * weights;
    if fade == len {
        return mixed;
    }
    Tensor::cat(vec![mixed, tile.narrow(dim, fade, len - fade)], dim)
}
