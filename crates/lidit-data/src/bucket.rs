//! Aspect-ratio buckets: the sizes that pictures are cut to when a global batch has one shape.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::error::DataError;

/// The sizes of a set: about `side * side` pixels each, both sides multiples of `step`, neither more than `max_ratio`
/// times the other.
///
/// For each longer side the longest shorter one that stays within the area, so that every bucket costs the network nearly
/// the same. Source: `NovelAI`, "Novel AI's Aspect Ratio Bucketing" (2022).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketGrid {
    /// Side in pixels of the square bucket.
    pub side: u32,
    /// Sides are multiples of it.
    pub step: u32,
    /// The longest allowed side over the shortest.
    pub max_ratio: u32,
}

/// Width and height in pixels that a bucket's pictures have at the grid's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

impl Bucket {
    /// A square of `side` pixels.
    pub fn square(side: u32) -> Self {
        Self {
            width: side,
            height: side,
        }
    }
}

impl BucketGrid {
    /// Refuses a grid without a square bucket.
    pub fn validate(&self) -> Result<(), DataError> {
        let refuse = |key, problem| Err(DataError::Config { key, problem });
        let (side, step) = (self.side, self.step);
        if !(1..=4096).contains(&side) {
            return refuse("bucket side", format!("is {side}, must be from 1 to 4096 pixels"));
        }
        if step == 0 || !side.is_multiple_of(step) {
            return refuse("bucket step", format!("is {step}, must divide the side, {side}"));
        }
        if !(1..=16).contains(&self.max_ratio) {
            return refuse("bucket ratio", format!("is {}, must be from 1 to 16", self.max_ratio));
        }
        Ok(())
    }

    /// Every bucket, from the tallest to the widest.
    pub fn buckets(&self) -> Vec<Bucket> {
        let units = self.side / self.step;
        let mut sizes = BTreeSet::new();
        for long in units..=units * self.max_ratio {
            let short = units * units / long;
            if short > 0 && long <= short * self.max_ratio {
                sizes.extend([(short, long), (long, short)]);
            }
        }
        let pixels = sizes.into_iter().map(|(width, height)| Bucket {
            width: width * self.step,
            height: height * self.step,
        });
        pixels.collect()
    }

    /// The bucket whose shape is nearest to a picture's (smallest difference of the logarithms of width over height).
    pub fn nearest(&self, width: u32, height: u32) -> Bucket {
        let log_ratio = |width: u32, height: u32| (f64::from(width.max(1)) / f64::from(height.max(1))).ln();
        let wanted = log_ratio(width, height);
        let off = |bucket: &Bucket| (log_ratio(bucket.width, bucket.height) - wanted).abs();
        let square = Bucket::square(self.side);
        let buckets = self.buckets().into_iter();
        buckets.fold(
            square,
            |best, bucket| if off(&bucket) < off(&best) { bucket } else { best },
        )
    }

    /// The size of `bucket` when the square one has `side` pixels a side.
    pub fn scaled(&self, bucket: Bucket, side: u32) -> Result<Bucket, DataError> {
        let scale = |length: u32| {
            let pixels = u64::from(length) * u64::from(side);
            let base = u64::from(self.side);
            pixels.is_multiple_of(base).then_some((pixels / base) as u32)
        };
        match (scale(bucket.width), scale(bucket.height)) {
            (Some(width), Some(height)) => Ok(Bucket { width, height }),
            _ => Err(DataError::Config {
                key: "data.image_size",
                problem: format!(
                    "is {side}, at which the set's bucket of {} x {} (at {}) has no whole size: take a multiple of {}",
                    bucket.width,
                    bucket.height,
                    self.side,
                    self.side / self.step
                ),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GRID: BucketGrid = BucketGrid {
        side: 256,
        step: 64,
        max_ratio: 3,
    };

    fn sizes(grid: &BucketGrid) -> Vec<(u32, u32)> {
        grid.buckets().iter().map(|b| (b.width, b.height)).collect()
    }

    #[test]
    fn buckets_stay_within_the_area_and_the_ratio() {
        for grid in [
            GRID,
            BucketGrid {
                side: 1024,
                max_ratio: 4,
                ..GRID
            },
        ] {
            for (width, height) in sizes(&grid) {
                assert!(width * height <= grid.side * grid.side, "{width} x {height}");
                assert!(width <= grid.max_ratio * height && height <= grid.max_ratio * width);
            }
            assert!(sizes(&grid).contains(&(grid.side, grid.side)));
        }
        assert_eq!(
            sizes(&GRID),
            [(128, 384), (192, 320), (256, 256), (320, 192), (384, 128)]
        );
    }

    #[test]
    fn a_picture_goes_to_the_bucket_of_its_shape() {
        let nearest = |width, height| {
            let bucket = GRID.nearest(width, height);
            (bucket.width, bucket.height)
        };
        assert_eq!(nearest(1000, 1000), (256, 256));
        assert_eq!(nearest(1600, 900), (320, 192));
        assert_eq!(nearest(90, 160), (192, 320));
        assert_eq!(nearest(100, 1), (384, 128));
    }

    #[test]
    fn a_bucket_has_a_size_at_every_multiple_of_the_side_over_the_step() {
        let wide = Bucket {
            width: 320,
            height: 192,
        };
        let scaled = GRID.scaled(wide, 64).unwrap();
        assert_eq!((scaled.width, scaled.height), (80, 48));
        let message = GRID.scaled(wide, 30).unwrap_err().to_string();
        assert!(
            message.contains("data.image_size is 30") && message.contains("multiple of 4"),
            "{message}"
        );
    }
}
