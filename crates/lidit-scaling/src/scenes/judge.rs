//! The judge: what is in a picture, told from its pixels alone.

use image::RgbImage;

use super::sight::Sight;

/// Reads a picture: its background and its objects.
pub fn see(_picture: &RgbImage) -> Sight {
    Sight::default()
}
