//! One picture with its captions, decoded.

use crate::bucket::Bucket;
use crate::captions::Captions;
use crate::image::{Limits, decode, decode_cropped};
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
        let (red, rest) = out.split_at_mut(out.len() / 3);
        let (green, blue) = rest.split_at_mut(red.len());
        let planes = red.iter_mut().zip(green).zip(blue);
        for (pixel, ((red, green), blue)) in self.pixels.as_chunks().0.iter().zip(planes) {
            [*red, *green, *blue] = pixel.map(|value| f32::from(value) / 127.5 - 1.0);
        }
    }

    /// Decodes a row, or says why it can't be used.
    pub(crate) fn decode(id: u64, row: Row, size: Bucket, limits: &Limits) -> Result<Self, String> {
        if row.captions.is_empty() {
            return Err("its caption is null".to_owned());
        }
        let bytes = row.image.ok_or("its picture is null")?;
        let picture = decode_cropped(&bytes, (size.width, size.height), limits)?;
        Ok(Self {
            id,
            captions: row.captions,
            pixels: picture.into_raw(),
            size,
        })
    }
}

/// Whether a row can be used: it has a caption and a picture that decodes within `limits`.
pub(crate) fn check_row(row: &Row, limits: &Limits) -> Result<(), String> {
    if row.captions.is_empty() {
        return Err("its caption is null".to_owned());
    }
    decode(row.image.as_ref().ok_or("its picture is null")?, limits).map(drop)
}
