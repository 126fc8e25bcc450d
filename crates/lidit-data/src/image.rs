//! Encoded pictures to square RGB.

use std::io::Cursor;

use image::imageops::{self, FilterType};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};

/// The longest side that is decoded.
const MAX_SIDE: u32 = 16_384;
/// The most pixels that are decoded.
const MAX_PIXELS: u64 = 1 << 26;
/// The most memory that a decoder may take.
const MAX_ALLOC: u64 = 1 << 30;

/// Decodes a PNG, JPEG or WebP picture upright and composes its alpha over white. Errors say why not.
///
/// Format and sizes are checked from the header, before anything is decoded.
pub(crate) fn decode(bytes: &[u8]) -> Result<RgbImage, String> {
    let mut decoder = decoder(bytes)?;
    let (width, height) = decoder.dimensions();
    if width > MAX_SIDE || height > MAX_SIDE || u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(format!(
            "{width} x {height} pixels is over the limit of {MAX_SIDE} a side and {MAX_PIXELS} in all"
        ));
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| error.to_string())?;
    picture.apply_orientation(orientation);
    Ok(over_white(picture))
}

/// Width and height of an encoded picture, from its header.
pub(crate) fn dimensions(bytes: &[u8]) -> Result<(u32, u32), String> {
    Ok(decoder(bytes)?.dimensions())
}

fn decoder(bytes: &[u8]) -> Result<impl ImageDecoder, String> {
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| error.to_string())?;
    match reader.format() {
        Some(ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP) => {}
        Some(other) => return Err(format!("{other:?} pictures are not read, only PNG, JPEG and WebP")),
        None => return Err("not a PNG, JPEG or WebP picture".to_owned()),
    }
    let mut limits = image::Limits::default();
    limits.max_alloc = Some(MAX_ALLOC);
    reader.limits(limits);
    reader.into_decoder().map_err(|error| error.to_string())
}

fn over_white(picture: DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let rgba = picture.into_rgba8();
    let mut rgb = RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in rgb.pixels_mut().zip(rgba.pixels()) {
        let alpha = u32::from(from[3]);
        for channel in 0..3 {
            let mixed = u32::from(from[channel]) * alpha + 255 * (255 - alpha);
            to[channel] = ((mixed + 127) / 255) as u8;
        }
    }
    rgb
}

/// The largest centred square, resized to `side` with Lanczos3 (antialiased when shrinking).
pub(crate) fn centre_square(picture: RgbImage, side: u32) -> RgbImage {
    let (width, height) = picture.dimensions();
    if (width, height) == (side, side) {
        return picture;
    }
    let short = width.min(height);
    let (x, y) = ((width - short) / 2, (height - short) / 2);
    let square = imageops::crop_imm(&picture, x, y, short, short);
    imageops::resize(&*square, side, side, FilterType::Lanczos3)
}

/// Encodes as PNG, with the same bytes for the same pixels.
pub(crate) fn to_png(picture: &RgbImage) -> Result<Vec<u8>, String> {
    let mut bytes = Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, ImageFormat::Png)
        .map_err(|error| error.to_string())?;
    Ok(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use image::{GrayImage, Luma, Rgb, Rgba, RgbaImage};

    use super::*;

    fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn alpha_is_composed_over_white() {
        let mut picture = RgbaImage::from_pixel(3, 1, Rgba([200, 100, 0, 255]));
        picture.put_pixel(1, 0, Rgba([200, 100, 0, 0]));
        picture.put_pixel(2, 0, Rgba([0, 0, 0, 51]));
        let rgb = decode(&encoded(picture, ImageFormat::Png)).unwrap();
        assert_eq!(rgb.get_pixel(0, 0), &Rgb([200, 100, 0]));
        assert_eq!(rgb.get_pixel(1, 0), &Rgb([255, 255, 255]));
        assert_eq!(rgb.get_pixel(2, 0), &Rgb([204, 204, 204]));
    }

    #[test]
    fn grey_jpeg_and_webp_become_rgb() {
        let jpeg = encoded(GrayImage::from_pixel(8, 8, Luma([90])), ImageFormat::Jpeg);
        let pixel = *decode(&jpeg).unwrap().get_pixel(4, 4);
        assert!(pixel.0.iter().all(|value| value.abs_diff(90) <= 2), "{pixel:?}");
        let webp = encoded(RgbImage::from_pixel(4, 4, Rgb([9, 8, 7])), ImageFormat::WebP);
        assert_eq!(decode(&webp).unwrap().get_pixel(1, 1), &Rgb([9, 8, 7]));
    }

    #[test]
    fn a_wide_picture_keeps_its_middle() {
        let picture = RgbImage::from_fn(40, 8, |x, _| {
            if (16..24).contains(&x) {
                Rgb([255, 0, 0])
            } else {
                Rgb([0, 0, 255])
            }
        });
        let square = centre_square(picture, 4);
        assert_eq!(square.dimensions(), (4, 4));
        assert!(square.pixels().all(|pixel| *pixel == Rgb([255, 0, 0])), "{square:?}");
    }

    #[test]
    fn shrinking_averages_instead_of_picking() {
        let stripes = RgbImage::from_fn(64, 64, |x, _| Rgb([(x % 2) as u8 * 255; 3]));
        let small = centre_square(stripes, 8);
        assert!(small.pixels().all(|pixel| (100..156).contains(&pixel[0])));
    }

    #[test]
    fn a_header_that_promises_too_much_is_refused_before_decoding() {
        let mut png = encoded(RgbImage::new(4, 4), ImageFormat::Png);
        png[16..20].copy_from_slice(&100_000_u32.to_be_bytes());
        png[20..24].copy_from_slice(&100_000_u32.to_be_bytes());
        // The header's checksum, which the decoder checks first, over type and body.
        let crc = crc32(&png[12..29]);
        png[29..33].copy_from_slice(&crc.to_be_bytes());
        let reason = decode(&png).unwrap_err();
        assert!(
            reason.contains("100000 x 100000") || reason.contains("limit"),
            "{reason}"
        );
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
            })
        })
    }

    #[test]
    fn other_formats_and_broken_files_say_why() {
        assert!(decode(b"GIF89a......").unwrap_err().contains("only PNG"));
        assert!(decode(b"hello").unwrap_err().contains("not a PNG"));
        let png = encoded(RgbImage::new(30, 30), ImageFormat::Png);
        assert!(decode(&png[..png.len() / 2]).is_err());
    }
}
