//! Thousands of damaged and cut pictures: an error each, or pixels; never a panic, never memory that the file does not
//! justify.

#![allow(clippy::unwrap_used)]

use std::alloc::System;

use cap::Cap;
use image::RgbImage;

use super::goldens::encoded;
use super::{Limits, decode, dimensions, to_png, upright};

/// An allocation beyond the limit ends the process, which fails the tests.
#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, 256 << 20);

/// As in a run, but for small pictures: what a damaged header may promise is then little.
const SMALL: Limits = Limits {
    max_pixels: 1 << 20,
    ..Limits::new(1)
};

/// One of each kind of decoder.
const ATTACKED: [&str; 12] = [
    "gif.gif",
    "jpeg-420.jpg",
    "jpeg-cmyk.jpg",
    "jpeg-exif-6.jpg",
    "jpeg-progressive.jpg",
    "jpeg-restart.jpg",
    "png-palette-4-trns.png",
    "png-rgb-16-interlaced.png",
    "png-rgba-8.png",
    "webp-animated.webp",
    "webp-lossless.webp",
    "webp-lossy-alpha.webp",
];

fn attacked() -> Vec<(String, Vec<u8>)> {
    let files: Vec<_> = encoded()
        .into_iter()
        .filter(|(name, _)| ATTACKED.contains(&name.as_str()))
        .collect();
    assert_eq!(files.len(), ATTACKED.len());
    files
}

#[test]
fn changed_bytes_never_panic_and_never_take_much_memory() {
    for (name, good) in attacked() {
        let mut refused = 0;
        let step = (good.len() / 500).max(1);
        // Headers whole, the rest by samples.
        for at in (0..good.len().min(200)).chain((200..good.len()).step_by(step)) {
            for value in [0, 0xff, good[at] ^ 1, good[at] ^ 0x80] {
                let mut bytes = good.clone();
                bytes[at] = value;
                // Without the guard: a decoder that panics should be known.
                refused += usize::from(upright(&bytes, &SMALL).is_err());
                let _ = dimensions(&bytes);
            }
        }
        println!("{name}: {refused} refused");
        assert!(refused > 0, "{name}");
    }
}

#[test]
fn a_cut_file_is_an_error() {
    for (name, good) in attacked() {
        let picture = decode(&good, &SMALL).unwrap();
        for len in (0..good.len())
            .step_by((good.len() / 400).max(1))
            .chain([good.len() - 1])
        {
            match upright(&good[..len], &SMALL) {
                Err(reason) => assert!(!reason.is_empty()),
                // What is cut off then said nothing of the pixels: an end marker, later frames.
                Ok(cut) => assert!(cut == picture, "{name} cut to {len} of {} bytes decodes", good.len()),
            }
        }
    }
}

/// A PNG's header chunk with another size and the checksum that it then has.
fn with_png_size(mut png: Vec<u8>, width: u32, height: u32) -> Vec<u8> {
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = !png[12..29].iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    });
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    png
}

#[test]
fn a_header_that_promises_too_much_is_refused_before_decoding() {
    let limits = Limits::new(16);
    let png = to_png(&RgbImage::new(20, 20)).unwrap();
    let file = |wanted: &str| encoded().into_iter().find(|(name, _)| name == wanted).unwrap().1;
    let mut jpeg = file("jpeg-420.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    let mut gif = file("gif.gif");
    gif[6..10].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    // The frame in a canvas of the extended format, which stays as small as it was.
    let mut webp = file("webp-lossy-alpha.webp");
    let frame = webp.windows(4).position(|name| name == b"VP8 ").unwrap();
    webp[frame + 14..frame + 18].copy_from_slice(&[0xff, 0x3f, 0xff, 0x3f]);
    for (bytes, expected) in [
        (
            with_png_size(png.clone(), 100_000, 100_000),
            "100000 x 100000 pixels is over",
        ),
        (with_png_size(png.clone(), 16_384, 4_097), "16384 x 4097 pixels is over"),
        (with_png_size(png.clone(), 16_385, 16), "16385 x 16 pixels is over"),
        (with_png_size(png, 16_384, 15), "under the 16 pixels of data.min_side"),
        (jpeg, "65535 x 65535 pixels is over"),
        (gif, "65535 x 65535 pixels is over"),
        (webp, "a frame of 16383 x 16383 pixels"),
        (vec![0xff; (64 << 20) + 1], "67108865 bytes are over"),
    ] {
        let reason = decode(&bytes, &limits).unwrap_err();
        assert!(reason.contains(expected), "{reason}");
    }
}

#[test]
fn a_cut_jpeg_is_said_to_be_cut() {
    let (_, jpeg) = encoded().into_iter().find(|(name, _)| name == "jpeg-420.jpg").unwrap();
    let reason = decode(&jpeg[..jpeg.len() - 2], &SMALL).unwrap_err();
    assert!(reason.contains("cut off"), "{reason}");
    let trailing = [&jpeg[..], b"appended"].concat();
    assert_eq!(decode(&trailing, &SMALL), decode(&jpeg, &SMALL));
}
