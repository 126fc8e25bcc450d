//! The centre of a picture, resized.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{RgbImage, imageops};

/// The largest centred square, resized to `side` with Lanczos3 (antialiased when shrinking).
pub(crate) fn centre_square(picture: RgbImage, side: u32) -> RgbImage {
    centre_crop(picture, (side, side))
}

/// The largest centred rectangle with the aspect of `size` (width, height), to the nearest pixel, resized to `size` with
/// Lanczos3 (antialiased when shrinking). One that has the size already keeps its pixels.
pub(crate) fn centre_crop(picture: RgbImage, size: (u32, u32)) -> RgbImage {
    let (width, height) = picture.dimensions();
    if (width, height) == size {
        return picture;
    }
    let part = largest_within((width, height), size);
    let corner = ((width - part.0) / 2, (height - part.1) / 2);
    if part == size {
        return imageops::crop_imm(&picture, corner.0, corner.1, part.0, part.1).to_image();
    }
    match resized(&picture, corner, part, size) {
        Ok(small) => small,
        Err(error) => unreachable!("a part of {part:?} at {corner:?} of {width} x {height} to {size:?}: {error}"),
    }
}

/// The largest part of `(width, height)` with the aspect of `size`, each side rounded to at least one pixel.
fn largest_within((width, height): (u32, u32), size: (u32, u32)) -> (u32, u32) {
    let (w, h) = (u64::from(size.0), u64::from(size.1));
    let scaled = |side: u32, by: u64, over: u64| ((u64::from(side) * by + over / 2) / over).max(1) as u32;
    if u64::from(width) * h > u64::from(height) * w {
        (scaled(height, w, h).min(width), height)
    } else {
        (width, scaled(width, h, w).min(height))
    }
}

fn resized(
    picture: &RgbImage,
    corner: (u32, u32),
    part: (u32, u32),
    size: (u32, u32),
) -> Result<RgbImage, Box<dyn std::error::Error>> {
    let from = ImageRef::new(picture.width(), picture.height(), picture.as_raw(), PixelType::U8x3)?;
    let mut to = Image::new(size.0, size.1, PixelType::U8x3);
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3))
        .crop(corner.0.into(), corner.1.into(), part.0.into(), part.1.into());
    Resizer::new().resize(&from, &mut to, &options)?;
    RgbImage::from_raw(size.0, size.1, to.into_vec()).ok_or_else(|| "pixels are missing".into())
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn a_wide_picture_keeps_its_middle() {
        let red = |x| (16..24).contains(&x);
        let picture = RgbImage::from_fn(40, 8, |x, _| Rgb(if red(x) { [255, 0, 0] } else { [0, 0, 255] }));
        assert_eq!(
            centre_square(picture.clone(), 8),
            RgbImage::from_pixel(8, 8, Rgb([255, 0, 0]))
        );
        let tall = centre_crop(picture, (2, 4));
        assert_eq!(tall.dimensions(), (2, 4));
        assert!(tall.pixels().all(|pixel| *pixel == Rgb([255, 0, 0])), "{tall:?}");
    }

    #[test]
    fn shrinking_averages_instead_of_picking() {
        let stripes = RgbImage::from_fn(64, 64, |x, _| Rgb([(x % 2) as u8 * 255; 3]));
        let small = centre_square(stripes, 8);
        assert!(small.pixels().all(|pixel| (100..156).contains(&pixel[0])));
    }

    #[test]
    fn the_part_has_the_aspect_and_is_never_empty() {
        for (picture, size, part) in [
            ((640, 480), (256, 256), (480, 480)),
            ((640, 480), (64, 32), (640, 320)),
            ((640, 480), (32, 64), (240, 480)),
            ((16_384, 1), (1, 4096), (1, 1)),
            ((1, 16_384), (4096, 1), (1, 1)),
            ((500, 333), (3, 2), (500, 333)),
        ] {
            assert_eq!(largest_within(picture, size), part, "{picture:?} to {size:?}");
        }
    }
}
