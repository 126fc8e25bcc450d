//! Between image and tokens.

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};

use crate::linear::Linear;

/// Cuts an image into `p x p` patches and projects each to a token.
#[derive(Module, Debug)]
pub struct Patchify {
    /// `[C * p * p, hidden]`; the rows run over channel, then row, then column of the patch, as a convolution's do.
    pub linear: Linear,
    /// Side of a patch, in pixels or latents.
    pub patch_size: usize,
}

impl Patchify {
    /// An empty layer; [`initialize`](crate::initialize()) fills it.
    pub fn zeros(in_channels: usize, patch_size: usize, hidden_size: usize, device: &Device) -> Self {
        Self {
            linear: Linear::zeros(in_channels * patch_size * patch_size, hidden_size, device),
            patch_size,
        }
    }

    /// `[B, C, H, W]` to `[B, H/p * W/p, D]`, f32; tokens run along rows.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<3> {
        let [b, c, height, width] = x.dims();
        let p = self.patch_size;
        let (h, w) = (height / p, width / p);
        let x = x
            .reshape([b, c, h, p, w, p])
            .permute([0, 2, 4, 1, 3, 5]) // [B, h, w, C, p, p]
            .reshape([b, h * w, c * p * p]); // [B, N, C * p * p]
        self.linear.forward(x).cast(FloatDType::F32)
    }
}

/// Tokens back to an image: `[B, h * w, C * p * p]` to `[B, C, h * p, w * p]`, the inverse of cutting.
pub fn unpatchify(tokens: Tensor<3>, [h, w]: [usize; 2], patch_size: usize) -> Tensor<4> {
    let [b, _, features] = tokens.dims();
    let p = patch_size;
    let c = features / (p * p);
    tokens
        .reshape([b, h, w, c, p, p])
        .permute([0, 3, 1, 4, 2, 5]) // [B, C, h, p, w, p]
        .reshape([b, c, h * p, w * p]) // [B, C, H, W]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::Golden;

    #[test]
    fn patchify_matches_a_strided_convolution() {
        let golden = Golden::open("patchify");
        let patchify = golden.load(Patchify::zeros(3, 2, 8, &Device::flex()));
        golden.check("out.tokens", patchify.forward(golden.tensor("in.x")), 1e-5);
    }

    #[test]
    fn unpatchify_matches_fold() {
        let golden = Golden::open("final_layer");
        golden.check("out.image", unpatchify(golden.tensor("out.tokens"), [2, 3], 2), 1e-6);
    }
}
