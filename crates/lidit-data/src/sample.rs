//! One picture with its captions, decoded.

use crate::bucket::Bucket;
use crate::captions::Captions;
use crate::image::{Limits, decode, decode_cropped};
use crate::open_source::{Row, Wanted};

/// A decoded row.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Row number in the whole dataset.
    pub id: u64,
    /// The captions it may be shown with; at least one, which may be empty.
    pub captions: Captions,
    /// RGB, row by row: `[H, W, 3]`, 0 to 255. Empty where captions alone were read.
    pub pixels: Vec<u8>,
    /// Width `W` and height `H` in pixels.
    pub size: Bucket,
}

impl Sample {
    /// Writes the picture as `[3, H, W]` in [-1, 1] into `out`, which has that many elements.
    pub fn write_chw(&self, out: &mut [f32]) {
        let (red, rest) = out.split_at_mut(self.pixels.len() / 3);
        let (green, blue) = rest.split_at_mut(red.len());
        let planes = red.iter_mut().zip(green).zip(blue);
        for (pixel, ((red, green), blue)) in self.pixels.as_chunks().0.iter().zip(planes) {
            [*red, *green, *blue] = pixel.map(|value| f32::from(value) / 127.5 - 1.0);
        }
    }

    /// Decodes what is wanted of a row, its picture to `size`, or says why it can't be used.
    pub(crate) fn decode(id: u64, row: Row, size: Bucket, wanted: Wanted, limits: &Limits) -> Result<Self, String> {
        if row.captions.is_empty() {
            return Err("its caption is null".to_owned());
        }
        let pixels = match wanted {
            Wanted::All => {
                let bytes = row.image.ok_or("its picture is null")?;
                decode_cropped(&bytes, (size.width, size.height), limits)?.into_raw()
            }
            Wanted::Captions => Vec::new(),
        };
        Ok(Self {
            id,
            captions: row.captions,
            pixels,
            size,
        })
    }
}

/// Whether a row can be used: it has a caption and a picture that decodes within the limits.
pub(crate) fn check_row(row: &Row, limits: &Limits) -> Result<(), String> {
    if row.captions.is_empty() {
        return Err("its caption is null".to_owned());
    }
    decode(row.image.as_ref().ok_or("its picture is null")?, limits).map(drop)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::float_cmp, reason = "the same expression of the same integers")]

    use super::*;

    #[test]
    fn colours_become_planes_from_minus_one_to_one() {
        let sample = Sample {
            id: 0,
            captions: Captions::default(),
            pixels: vec![0, 51, 255, 102, 204, 153],
            size: Bucket { width: 2, height: 1 },
        };
        let mut planes = [9.0; 6];
        sample.write_chw(&mut planes);
        let expected = [0, 102, 51, 204, 255, 153].map(|value: u8| f32::from(value) / 127.5 - 1.0);
        assert_eq!(planes, expected);
        assert_eq!((planes[0], planes[4]), (-1.0, 1.0));
    }
}
