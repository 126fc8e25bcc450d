//! One picture with its captions, decoded.

use crate::bucket::Bucket;
use crate::captions::Captions;
use crate::image::{centre_square, decode};
use crate::open_source::Row;

/// A decoded row.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Row number in the whole dataset.
    pub id: u64,
    /// The captions it may be shown with; at least one, which may be empty.
    pub captions: Captions,
    /// RGB, row by row: `[H, W, 3]`, 0 to 255.
    pub pixels: Vec<u8>,
    /// Width `W` and height `H` in pixels.
    pub size: Bucket,
}

impl Sample {
    /// Writes the picture as `[3, H, W]` in [-1, 1] into `out`, which has that many elements.
    pub fn write_chw(&self, out: &mut [f32]) {
        let area = out.len() / 3;
        for (index, pixel) in self.pixels.chunks_exact(3).enumerate() {
            for (channel, value) in pixel.iter().enumerate() {
                out[channel * area + index] = f32::from(*value) / 127.5 - 1.0;
            }
        }
    }

    /// Decodes a row, or says why it can't be used.
    pub(crate) fn decode(id: u64, row: Row, size: Bucket) -> Result<Self, String> {
        if row.captions.is_empty() {
            return Err("its caption is null".to_owned());
        }
        let bytes = row.image.ok_or("its picture is null")?;
        let picture = centre_square(decode(&bytes)?, size.width);
        Ok(Self {
            id,
            captions: row.captions,
            pixels: picture.into_raw(),
            size,
        })
    }
}

/// Whether a row can be used: it has a caption and a picture that decodes, whose shorter side is at least `min_side`.
pub(crate) fn check_row(row: &Row, min_side: u32) -> Result<(), String> {
    if row.captions.is_empty() {
        return Err("its caption is null".to_owned());
    }
    let picture = decode(row.image.as_ref().ok_or("its picture is null")?)?;
    let (width, height) = picture.dimensions();
    if width.min(height) < min_side {
        return Err(format!(
            "{width} x {height} pixels: the shorter side is below {min_side}"
        ));
    }
    Ok(())
}
