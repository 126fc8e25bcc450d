//! One picture with its captions, decoded.

use crate::block::RawRow;
use crate::image::{centre_square, decode};

/// A decoded row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Row number in the whole dataset.
    pub id: u64,
    /// The captions it may be shown with; at least one, which may be empty.
    pub captions: Vec<String>,
    /// RGB, row by row: `[S, S, 3]`, 0 to 255.
    pub pixels: Vec<u8>,
    /// The side `S`.
    pub image_size: usize,
}

impl Sample {
    /// Writes the picture as `[3, S, S]` in [-1, 1] into `out`, which has that many elements.
    pub fn write_chw(&self, out: &mut [f32]) {
        let area = self.image_size * self.image_size;
        for (index, pixel) in self.pixels.chunks_exact(3).enumerate() {
            for (channel, value) in pixel.iter().enumerate() {
                out[channel * area + index] = f32::from(*value) / 127.5 - 1.0;
            }
        }
    }

    /// Decodes a row, or says why it can't be used.
    pub(crate) fn decode(id: u64, row: RawRow, side: u32) -> Result<Self, String> {
        if row.captions.is_empty() {
            return Err("its caption is null".to_owned());
        }
        let bytes = row.image.ok_or("its picture is null")?;
        let picture = centre_square(decode(&bytes)?, side);
        Ok(Self {
            id,
            captions: row.captions,
            pixels: picture.into_raw(),
            image_size: side as usize,
        })
    }
}
