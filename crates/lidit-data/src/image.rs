//! Encoded pictures to upright RGB.
//!
//! JPEG, PNG, WebP and the first frame of GIF. Orientation comes from EXIF, alpha is composed over white. ICC profiles
//! and gamma are ignored. `docs/images.md` says what is decoded how.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::codecs::gif::GifDecoder;
use image::codecs::png::PngDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, RgbImage};

mod crop;
mod format;
#[cfg(test)]
mod goldens;
#[cfg(test)]
mod hostile;
mod jpeg;
mod webp;

pub(crate) use crop::{centre_crop, centre_square};
use format::Format;
use jpeg::Jpeg;
use webp::Webp;

use crate::DataError;

/// What a picture may be, checked from its header before anything is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The shortest side, in pixels.
    pub min_side: u32,
    /// The longest side, in pixels.
    pub max_side: u32,
    /// The most pixels.
    pub max_pixels: u64,
    /// The most encoded bytes.
    pub max_bytes: usize,
}

impl Limits {
    /// 16,384 pixels a side, 2^26 pixels, 64 MiB, and the shortest side of the configuration (`data.min_side`).
    pub const fn new(min_side: u32) -> Self {
        Self {
            min_side,
            max_side: 16_384,
            max_pixels: 1 << 26,
            max_bytes: 64 << 20,
        }
    }

    fn check_bytes(&self, bytes: &[u8]) -> Result<(), String> {
        if bytes.len() > self.max_bytes {
            let (len, most) = (bytes.len(), self.max_bytes);
            return Err(format!("its {len} bytes are over the limit of {most}"));
        }
        Ok(())
    }

    fn check_size(&self, (width, height): (u32, u32)) -> Result<(), String> {
        if width.max(height) > self.max_side || u64::from(width) * u64::from(height) > self.max_pixels {
            let (side, pixels) = (self.max_side, self.max_pixels);
            return Err(format!(
                "{width} x {height} pixels is over the limit of {side} a side and {pixels} in all"
            ));
        }
        if width.min(height) < self.min_side.max(1) {
            let least = self.min_side.max(1);
            return Err(format!(
                "{width} x {height} pixels: a side is under the {least} pixels of data.min_side"
            ));
        }
        Ok(())
    }
}

/// A picture from a file, decoded as a shard's pictures are: upright, its alpha over white.
///
/// # Errors
/// When the file can't be read, is no picture, or is over the limits of a shard's row.
pub fn read_picture(path: &Path) -> Result<RgbImage, DataError> {
    let bytes = std::fs::read(path).map_err(|source| DataError::Io {
        path: path.to_owned(),
        source,
    })?;
    decode(&bytes, &Limits::new(1)).map_err(|reason| DataError::Picture {
        what: path.display().to_string(),
        reason,
    })
}

/// Decodes a picture, upright and with its alpha over white. Errors say why not.
pub(crate) fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, String> {
    guarded(|| upright(bytes, limits))
}

/// The largest centred rectangle of a picture with the aspect of `size` (width, height), resized to exactly `size`
/// with Lanczos3. A rectangle that has the size already keeps its pixels.
pub(crate) fn decode_cropped(bytes: &[u8], size: (u32, u32), limits: &Limits) -> Result<RgbImage, String> {
    guarded(|| Ok(centre_crop(upright(bytes, limits)?, size)))
}

/// Upright width and height of an encoded picture, from its header.
pub(crate) fn dimensions(bytes: &[u8]) -> Result<(u32, u32), String> {
    guarded(|| {
        let mut decoder = Decoder::open(bytes)?;
        let (width, height) = decoder.size();
        Ok(match decoder.orientation() {
            Orientation::NoTransforms
            | Orientation::Rotate180
            | Orientation::FlipHorizontal
            | Orientation::FlipVertical => (width, height),
            Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH => (height, width),
        })
    })
}

/// Encodes as PNG, with the same bytes for the same pixels.
pub(crate) fn to_png(picture: &RgbImage) -> Result<Vec<u8>, String> {
    let mut bytes = Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, ImageFormat::Png)
        .map_err(|error| error.to_string())?;
    Ok(bytes.into_inner())
}

/// A panic in a decoder costs the row that caused it, not the run.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("its decoder failed (a bug in the decoder)".into()))
}

fn upright(bytes: &[u8], limits: &Limits) -> Result<RgbImage, String> {
    limits.check_bytes(bytes)?;
    let mut decoder = Decoder::open(bytes)?;
    limits.check_size(decoder.size())?;
    let orientation = decoder.orientation();
    let mut picture = decoder.pixels()?;
    picture.apply_orientation(orientation);
    Ok(over_white(picture))
}

/// A picture whose header has been read.
enum Decoder<'a> {
    Jpeg(Box<Jpeg<'a>>),
    Webp(Box<Webp<'a>>),
    /// PNG or GIF, by its name.
    Other(&'static str, Box<dyn ImageDecoder + 'a>),
}

impl<'a> Decoder<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self, String> {
        // A PNG's text and profile chunks may be compressed; no row of a legal picture takes as much.
        let mut limits = image::Limits::no_limits();
        limits.max_alloc = Some(1 << 30);
        Ok(match Format::of(bytes)? {
            Format::Jpeg => Self::Jpeg(Box::new(Jpeg::open(bytes)?)),
            Format::Webp => Self::Webp(Box::new(Webp::open(bytes)?)),
            Format::Png => {
                let decoder = PngDecoder::with_limits(Cursor::new(bytes), limits);
                Self::Other("PNG", Box::new(decoder.map_err(|error| format!("PNG: {error}"))?))
            }
            Format::Gif => {
                let mut decoder = GifDecoder::new(Cursor::new(bytes)).map_err(|error| format!("GIF: {error}"))?;
                decoder.set_limits(limits).map_err(|error| format!("GIF: {error}"))?;
                Self::Other("GIF", Box::new(decoder))
            }
        })
    }

    /// As stored, before it is turned upright.
    fn size(&self) -> (u32, u32) {
        match self {
            Self::Jpeg(decoder) => decoder.size(),
            Self::Webp(decoder) => decoder.size(),
            Self::Other(_, decoder) => decoder.dimensions(),
        }
    }

    /// Unreadable EXIF says nothing about orientation and is no reason to lose a picture.
    fn orientation(&mut self) -> Orientation {
        let exif = match self {
            Self::Jpeg(decoder) => decoder.exif(),
            Self::Webp(decoder) => decoder.exif(),
            Self::Other(_, decoder) => decoder.exif_metadata().ok().flatten(),
        };
        let exif = exif.unwrap_or_default();
        let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(&exif);
        Orientation::from_exif_chunk(tiff).unwrap_or(Orientation::NoTransforms)
    }

    fn pixels(self) -> Result<DynamicImage, String> {
        match self {
            Self::Jpeg(decoder) => decoder.pixels(),
            Self::Webp(decoder) => decoder.pixels(),
            Self::Other(name, decoder) => {
                DynamicImage::from_decoder(decoder).map_err(|error| format!("{name}: {error}"))
            }
        }
    }
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
