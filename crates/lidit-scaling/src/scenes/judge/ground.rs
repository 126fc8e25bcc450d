//! A picture's background, its noise, and how far every pixel is from it.

use image::RgbImage;

use super::super::colour::Background;

/// A picture as the judge works on it.
pub struct Ground {
    pub width: usize,
    pub height: usize,
    /// sRGB, 0 to 255, row by row.
    pub pixels: Vec<[f32; 3]>,
    /// The border's median.
    pub colour: [f32; 3],
    /// The noise of a channel: standard deviation, told from the border.
    pub noise: f32,
    /// Distance of every pixel, smoothed where there is noise, from the background.
    pub distance: Vec<f32>,
    /// The least distance of what is no background.
    pub threshold: f32,
}

impl Ground {
    pub fn of(picture: &RgbImage) -> Self {
        let (width, height) = (picture.width() as usize, picture.height() as usize);
        let pixels: Vec<[f32; 3]> = picture.pixels().map(|pixel| pixel.0.map(f32::from)).collect();
        let sides = sides(width, height);
        let border = || sides.iter().flatten();
        let colour = [0, 1, 2].map(|channel| median(border().map(|&at| pixels[at][channel]).collect()));
        let noise = noise(&sides, &pixels, colour);
        let (smooth, left) = match noise {
            noise if noise < SMOOTH_ONCE => (pixels.clone(), noise),
            noise if noise < SMOOTH_TWICE => (smoothed(&pixels, width, height), 0.375 * noise),
            noise => (
                smoothed(&smoothed(&pixels, width, height), width, height),
                0.273 * noise,
            ),
        };
        Self {
            width,
            height,
            distance: smooth.iter().map(|pixel| norm(minus(*pixel, colour))).collect(),
            pixels,
            colour,
            noise,
            threshold: THRESHOLD.max(NOISES * left),
        }
    }

    /// The background of this world that it is, if any.
    pub fn named(&self) -> Option<Background> {
        let apart = |background: &Background| norm(minus(background.rgb(), self.colour));
        let nearest = Background::ALL.into_iter().min_by(|a, b| apart(a).total_cmp(&apart(b)));
        nearest.filter(|background| apart(background) <= SAME_GROUND)
    }
}

// Below, distances are edges and compression's ripples.
const THRESHOLD: f32 = 40.0;
const NOISES: f32 = 5.0;
// Noise from which pictures are smoothed by (1 2 1), once and twice, before they are cut into pieces.
const SMOOTH_ONCE: f32 = 6.0;
const SMOOTH_TWICE: f32 = 30.0;
// White, grey and cream are 58 or more apart.
const SAME_GROUND: f32 = 28.0;

// Positions of the four sides' pixels.
fn sides(width: usize, height: usize) -> [Vec<usize>; 4] {
    [
        (0..width).collect(),
        (0..width).map(|x| (height - 1) * width + x).collect(),
        (0..height).map(|y| y * width).collect(),
        (0..height).map(|y| y * width + width - 1).collect(),
    ]
}

// Something may stand at one side or two: the quieter ones tell. Nine tenths of deviations are below 1.64 standard
// deviations, or below 1.28 on white, where half of the noise is cut off: between the two.
fn noise(sides: &[Vec<usize>; 4], pixels: &[[f32; 3]], colour: [f32; 3]) -> f32 {
    let mut estimates = sides.each_ref().map(|side| {
        let apart = side
            .iter()
            .flat_map(|&at| [0, 1, 2].map(|channel| (pixels[at][channel] - colour[channel]).abs()));
        quantile(&mut apart.collect::<Vec<_>>(), 0.9) / 1.45
    });
    estimates.sort_by(f32::total_cmp);
    estimates[1]
}

fn smoothed(pixels: &[[f32; 3]], width: usize, height: usize) -> Vec<[f32; 3]> {
    let mean = |from: &[[f32; 3]], a: usize, at: usize, b: usize| {
        [0, 1, 2].map(|channel| (from[a][channel] + 2.0 * from[at][channel] + from[b][channel]) / 4.0)
    };
    let across: Vec<_> = (0..pixels.len())
        .map(|at| {
            let x = at % width;
            mean(pixels, at - usize::from(x > 0), at, at + usize::from(x + 1 < width))
        })
        .collect();
    (0..pixels.len())
        .map(|at| {
            let y = at / width;
            let (above, below) = (usize::from(y > 0) * width, usize::from(y + 1 < height) * width);
            mean(&across, at - above, at, at + below)
        })
        .collect()
}

pub fn median(mut values: Vec<f32>) -> f32 {
    quantile(&mut values, 0.5)
}

/// The value below which this share lies; 0 of nothing.
pub fn quantile(values: &mut [f32], share: f32) -> f32 {
    if values.is_empty() {
        return 0.0;
    }
    let at = ((values.len() - 1) as f32 * share).round() as usize;
    *values.select_nth_unstable_by(at, f32::total_cmp).1
}

pub fn minus(a: [f32; 3], b: [f32; 3]) -> [f32; 3] {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

pub fn dot(a: [f32; 3], b: [f32; 3]) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

pub fn norm(a: [f32; 3]) -> f32 {
    dot(a, a).sqrt()
}
