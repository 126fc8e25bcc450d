//! WebP through image-webp.

use std::io::Cursor;

use image::{DynamicImage, RgbImage, RgbaImage};
use image_webp::WebPDecoder;

/// A WebP whose header has been read. Of an animation, the first frame.
pub(super) struct Webp<'a> {
    decoder: WebPDecoder<Cursor<&'a [u8]>>,
}

impl<'a> Webp<'a> {
    pub fn open(bytes: &'a [u8]) -> Result<Self, String> {
        let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(|error| format!("WebP: {error}"))?;
        // A chunk that claims more than the whole file is not believed.
        decoder.set_memory_limit(bytes.len());
        let (width, height) = decoder.dimensions();
        for frame in lossy_sizes(bytes.get(12..).unwrap_or_default()) {
            if frame.0 > width || frame.1 > height {
                let (x, y) = frame;
                return Err(format!(
                    "WebP: a frame of {x} x {y} pixels in a picture of {width} x {height}"
                ));
            }
        }
        Ok(Self { decoder })
    }

    pub fn size(&self) -> (u32, u32) {
        self.decoder.dimensions()
    }

    pub fn exif(&mut self) -> Option<Vec<u8>> {
        self.decoder.exif_metadata().ok().flatten()
    }

    pub fn pixels(mut self) -> Result<DynamicImage, String> {
        let (width, height) = self.decoder.dimensions();
        let len = self.decoder.output_buffer_size().ok_or("WebP: too large")?;
        let mut pixels = vec![0; len];
        self.decoder
            .read_image(&mut pixels)
            .map_err(|error| format!("WebP: {error}"))?;
        let picture = if self.decoder.has_alpha() {
            RgbaImage::from_raw(width, height, pixels).map(DynamicImage::from)
        } else {
            RgbImage::from_raw(width, height, pixels).map(DynamicImage::from)
        };
        picture.ok_or("WebP: pixels are missing".into())
    }
}

/// The sizes that lossy frames in `chunks` claim: the decoder allocates by them before it compares them with the size
/// of the whole picture.
fn lossy_sizes(mut chunks: &[u8]) -> Vec<(u32, u32)> {
    let mut sizes = Vec::new();
    while let Some((header, rest)) = chunks.split_at_checked(8) {
        let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let body = &rest[..len.min(rest.len())];
        match &header[..4] {
            // RFC 6386, 9.1: three bytes of tag, three of start code, then 14 bits a side.
            b"VP8 " => {
                if let Some([w0, w1, h0, h1]) = body.get(6..10) {
                    let side = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
                    sizes.push((side(*w0, *w1), side(*h0, *h1)));
                }
            }
            b"ANMF" => sizes.extend(lossy_sizes(body.get(16..).unwrap_or_default())),
            _ => {}
        }
        chunks = rest.get(len.saturating_add(len & 1)..).unwrap_or_default();
    }
    sizes
}
