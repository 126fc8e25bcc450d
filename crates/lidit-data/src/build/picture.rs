//! Encoded pictures as a set stores them: their size upright, and smaller where asked.

use image::codecs::jpeg::JpegEncoder;

use super::item::MAX_PICTURE_BYTES;
use crate::image::{Limits, centre_crop, decode, dimensions, to_png};

// Of pictures that were JPEG before: one more generation can't be seen.
const JPEG_QUALITY: u8 = 95;
const JPEG_MAGIC: [u8; 2] = [0xff, 0xd8];

/// An encoded picture and its size in pixels when shown upright.
pub(super) struct Picture {
    pub bytes: Vec<u8>,
    pub width: u32,
    pub height: u32,
}

impl Picture {
    /// Reads the header. The bytes stay as they are, unless `resize` asks for a shorter side of so many pixels and
    /// there are more: then JPEG becomes JPEG of quality 95, anything else PNG. Errors say why it is no picture.
    pub fn prepare(bytes: Vec<u8>, resize: Option<u32>) -> Result<Self, String> {
        if bytes.len() as u64 > MAX_PICTURE_BYTES {
            return Err(too_long(bytes.len() as u64));
        }
        let (width, height) = dimensions(&bytes)?;
        match resize {
            Some(side) if width.min(height) > side => shrink(&bytes, side),
            _ => Ok(Self { bytes, width, height }),
        }
    }
}

/// Why a picture of so many bytes is not taken.
pub(super) fn too_long(bytes: u64) -> String {
    format!("{bytes} bytes is over the limit of {MAX_PICTURE_BYTES}")
}

fn shrink(bytes: &[u8], side: u32) -> Result<Picture, String> {
    let picture = decode(bytes, &Limits::new(1))?;
    let (width, height) = picture.dimensions();
    let short = u64::from(width.min(height));
    let scaled = |length: u32| ((u64::from(length) * u64::from(side) + short / 2) / short) as u32;
    let (width, height) = (scaled(width), scaled(height));
    let small = centre_crop(picture, (width, height));
    let bytes = if bytes.starts_with(&JPEG_MAGIC) {
        let mut jpeg = Vec::new();
        let mut encoder = JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY);
        let encoded = encoder.encode_image(&small);
        encoded.map_err(|error| format!("can't be resized: {error}"))?;
        jpeg
    } else {
        to_png(&small)?
    };
    Ok(Picture { bytes, width, height })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Cursor;

    use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

    use super::*;

    fn encoded(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
        let picture = RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 90]));
        let mut bytes = Cursor::new(Vec::new());
        DynamicImage::from(picture).write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    // A JPEG whose EXIF block says: turn by a quarter (orientation 6).
    fn lying_jpeg(width: u32, height: u32) -> Vec<u8> {
        let jpeg = encoded(width, height, ImageFormat::Jpeg);
        let exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let mut turned = jpeg[..2].to_vec();
        turned.extend([0xFF, 0xE1]);
        turned.extend((exif.len() as u16 + 2).to_be_bytes());
        turned.extend(exif);
        turned.extend(&jpeg[2..]);
        turned
    }

    #[test]
    fn bytes_stay_and_the_size_is_the_upright_one() {
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif] {
            let bytes = encoded(40, 24, format);
            let picture = Picture::prepare(bytes.clone(), Some(24)).unwrap();
            assert_eq!((picture.width, picture.height), (40, 24), "{format:?}");
            assert_eq!(picture.bytes, bytes);
        }
        let picture = Picture::prepare(lying_jpeg(40, 24), None).unwrap();
        assert_eq!((picture.width, picture.height), (24, 40));
    }

    #[test]
    fn a_resized_picture_has_the_shorter_side_asked_for_and_its_kind_of_format() {
        for (bytes, format, size) in [
            (encoded(100, 50, ImageFormat::Jpeg), ImageFormat::Jpeg, (32, 16)),
            (encoded(50, 101, ImageFormat::Png), ImageFormat::Png, (16, 32)),
            (encoded(50, 50, ImageFormat::WebP), ImageFormat::Png, (16, 16)),
            (lying_jpeg(100, 50), ImageFormat::Jpeg, (16, 32)),
        ] {
            let picture = Picture::prepare(bytes, Some(16)).unwrap();
            assert_eq!((picture.width, picture.height), size);
            assert_eq!(image::guess_format(&picture.bytes).unwrap(), format);
            assert_eq!(decode(&picture.bytes, &Limits::new(1)).unwrap().dimensions(), size);
        }
    }

    #[test]
    fn what_is_no_picture_says_so() {
        let reason = |bytes: &[u8]| Picture::prepare(bytes.to_vec(), None).err().unwrap();
        assert!(reason(b"").contains("is empty"));
        assert!(reason(b"<html>").contains("not a JPEG"));
        assert!(reason(b"BM\0\0\0\0").contains("is BMP"));
        let png = encoded(4, 4, ImageFormat::Png);
        assert!(!reason(&png[..20]).is_empty());
    }
}
