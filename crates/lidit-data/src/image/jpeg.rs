//! JPEG through zune-jpeg.

use image::{DynamicImage, RgbImage};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::options::DecoderOptions;

/// Scans of a progressive picture; encoders write about ten, and each costs a pass over the whole picture.
const MAX_SCANS: usize = 100;

const SOS: [u8; 2] = [0xff, 0xda];
const EOI: [u8; 2] = [0xff, 0xd9];

/// A JPEG whose header has been read: baseline or progressive Huffman; grey, YCbCr, RGB, CMYK or YCCK, the last two
/// inverted, as Adobe writes them.
pub(super) struct Jpeg<'a> {
    decoder: JpegDecoder<ZCursor<&'a [u8]>>,
    bytes: &'a [u8],
    size: (u32, u32),
}

impl<'a> Jpeg<'a> {
    pub fn open(bytes: &'a [u8]) -> Result<Self, String> {
        // Strict: otherwise what can't be decoded becomes grey, and training learns grey. The format itself bounds a
        // side at 65,535; the limits of this project are checked by the caller, before anything is decoded.
        let options = DecoderOptions::default()
            .set_strict_mode(true)
            .set_max_width(usize::from(u16::MAX))
            .set_max_height(usize::from(u16::MAX))
            .jpeg_set_max_scans(MAX_SCANS);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
        decoder.decode_headers().map_err(|error| format!("JPEG: {error}"))?;
        let (width, height) = decoder.dimensions().ok_or("JPEG: its header says no size")?;
        Ok(Self {
            decoder,
            bytes,
            size: (width as u32, height as u32),
        })
    }

    pub fn size(&self) -> (u32, u32) {
        self.size
    }

    pub fn exif(&self) -> Option<Vec<u8>> {
        self.decoder.exif().cloned()
    }

    pub fn pixels(mut self) -> Result<DynamicImage, String> {
        if !ends(self.bytes) {
            return Err("JPEG: it is cut off: there is no end marker".to_owned());
        }
        let pixels = self.decoder.decode().map_err(|error| format!("JPEG: {error}"))?;
        let (width, height) = self.size;
        let picture = RgbImage::from_raw(width, height, pixels);
        picture.map(DynamicImage::from).ok_or("JPEG: pixels are missing".into())
    }
}

/// Whether the last scan is followed by an end marker. The decoder misses the end of the last row of blocks only.
///
/// Inside a scan the byte 255 is followed by 0 or a restart marker, so in a file that is cut off the last marker of the
/// two is a start.
fn ends(bytes: &[u8]) -> bool {
    let last = bytes.windows(2).rev().find(|pair| *pair == SOS || *pair == EOI);
    last.is_some_and(|pair| pair == EOI)
}
