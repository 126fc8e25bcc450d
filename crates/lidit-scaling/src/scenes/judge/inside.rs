//! What lies inside an outline: texture and colour.

use super::super::colour::Colour;
use super::super::texture::Texture;
use super::crop::Crop;
use super::ground::norm;
use super::outline::Outline;

// Pixels that are inside altogether, and where there are too few of them, mostly.
const INSIDE: f32 = 0.97;
const MOSTLY: f32 = 0.6;
const FEW: usize = 12;
// How much darker marks are, over the fill's brightness: 0.58 as drawn. And by how many errors that noise makes.
const LEAST_CONTRAST: f32 = 0.13;
const NOISES: f32 = 4.0;
// Deviation inside, over the fill's brightness: 0.25 or more as drawn. What deviates more and is no pattern of this
// world is no texture of it.
const PLAIN: f32 = 0.15;
// The share of the deviation that a texture must explain.
const EXPLAINED: f32 = 0.4;
// Where patterns may lie, as shares of the side: about where they are drawn.
const SHIFTS: [f32; 5] = [-0.08, -0.04, 0.0, 0.04, 0.08];

/// Texture and colour; `None` for what is none of this world's.
pub fn read(crop: &Crop, outline: &Outline, noise: f32) -> (Option<Texture>, Option<Colour>) {
    let inside = Inside::of(crop, outline, noise / crop.pool as f32);
    let best = Texture::MARKED
        .into_iter()
        .flat_map(|texture| inside.patterns(texture, outline.side, outline.soft));
    let best = best.max_by(|a, b| a.explained.total_cmp(&b.explained));
    let marked = best.filter(|pattern| {
        pattern.contrast >= LEAST_CONTRAST.max(NOISES * pattern.noise) && pattern.explained >= EXPLAINED
    });
    match marked {
        Some(pattern) => (Some(pattern.texture), named(pattern.fill)),
        None if inside.deviation() < PLAIN => (Some(Texture::Plain), named(inside.mean)),
        None => (None, named(inside.mean)),
    }
}

struct Inside {
    /// From the outline's middle.
    points: Vec<[f32; 2]>,
    pixels: Vec<[f32; 3]>,
    mean: [f32; 3],
    /// Squared distances from the mean, without those of noise.
    spread: f32,
    /// Of a channel.
    noise: f32,
}

struct Pattern {
    texture: Texture,
    /// The share of the spread that it explains.
    explained: f32,
    contrast: f32,
    /// The contrast's error.
    noise: f32,
    fill: [f32; 3],
}

impl Inside {
    fn of(crop: &Crop, outline: &Outline, noise: f32) -> Self {
        let within = |least: f32| -> Vec<([f32; 2], [f32; 3])> {
            let all = crop.points().zip(&crop.pixels).zip(&crop.weight);
            let inside = all.filter(|((at, _), weight)| **weight > 0.0 && outline.cover(*at) >= least);
            inside
                .map(|((at, pixel), _)| ([at[0] - outline.centre[0], at[1] - outline.centre[1]], *pixel))
                .collect()
        };
        let mut found = within(INSIDE);
        if found.len() < FEW {
            found = within(MOSTLY);
        }
        let (points, pixels): (Vec<_>, Vec<[f32; 3]>) = found.into_iter().unzip();
        let count = pixels.len().max(1) as f32;
        let mean = [0, 1, 2].map(|channel| pixels.iter().map(|pixel| pixel[channel]).sum::<f32>() / count);
        let squares = |pixel: &[f32; 3]| {
            (0..3)
                .map(|channel| (pixel[channel] - mean[channel]).powi(2))
                .sum::<f32>()
        };
        let spread = pixels.iter().map(squares).sum::<f32>() - 3.0 * noise * noise * count;
        Self {
            points,
            pixels,
            mean,
            spread: spread.max(0.0),
            noise,
        }
    }

    fn deviation(&self) -> f32 {
        (self.spread / self.pixels.len().max(1) as f32).sqrt() / norm(self.mean).max(1.0)
    }

    fn patterns(&self, texture: Texture, side: f32, soft: f32) -> Vec<Pattern> {
        let shifts = SHIFTS.iter().flat_map(|x| SHIFTS.map(|y| [x * side, y * side]));
        // Stripes are the same wherever they lie sideways.
        let shifts = shifts.filter(|shift| texture != Texture::Striped || shift[0] == 0.0);
        let patterns = shifts.map(|[x, y]| {
            let marks = self
                .points
                .iter()
                .map(|at| texture.mark([at[0] - x, at[1] - y], side, soft));
            self.compared(texture, &marks.collect::<Vec<_>>())
        });
        patterns.collect()
    }

    // Least squares of every channel on the marks.
    fn compared(&self, texture: Texture, marks: &[f32]) -> Pattern {
        let count = marks.len().max(1) as f32;
        let middle = marks.iter().sum::<f32>() / count;
        let own: f32 = marks.iter().map(|mark| (mark - middle).powi(2)).sum::<f32>().max(1e-6);
        let slope = [0, 1, 2].map(|channel| {
            let both = marks
                .iter()
                .zip(&self.pixels)
                .map(|(mark, pixel)| (mark - middle) * (pixel[channel] - self.mean[channel]));
            both.sum::<f32>() / own
        });
        let fill = [0, 1, 2].map(|channel| self.mean[channel] - slope[channel] * middle);
        // Marks are darker: a pattern of lighter ones is another pattern.
        let darker = slope.iter().sum::<f32>() < 0.0;
        Pattern {
            texture,
            explained: if darker {
                norm(slope).powi(2) * own / self.spread.max(1e-6)
            } else {
                0.0
            },
            contrast: norm(slope) / norm(fill).max(1.0),
            noise: self.noise * (3.0 / own).sqrt() / norm(fill).max(1.0),
            fill,
        }
    }
}

/// The colour whose hue is nearest, if it is near and the colour neither grey, black nor white.
fn named(rgb: [f32; 3]) -> Option<Colour> {
    let [lightness, hue, chroma] = lightness_hue_chroma(rgb);
    if chroma < LEAST_CHROMA {
        return None;
    }
    let apart = |colour: &Colour| {
        let own = lightness_hue_chroma(colour.rgb());
        let around = (own[1] - hue).abs();
        (around.min(std::f32::consts::TAU - around), (own[0] - lightness).abs())
    };
    let nearest = Colour::ALL.into_iter().min_by(|a, b| apart(a).0.total_cmp(&apart(b).0));
    nearest.filter(|colour| apart(colour).0 <= SAME_HUE && apart(colour).1 <= SAME_LIGHTNESS)
}

const LEAST_CHROMA: f32 = 0.07;
// Radians; neighbours are 0.55 or more apart.
const SAME_HUE: f32 = 0.38;
const SAME_LIGHTNESS: f32 = 0.28;

// Oklab (Ottosson, 2020), its plane in polar coordinates.
fn lightness_hue_chroma(rgb: [f32; 3]) -> [f32; 3] {
    let [r, g, b] = rgb.map(|channel| {
        let share = (channel / 255.0).clamp(0.0, 1.0);
        if share <= 0.04045 {
            share / 12.92
        } else {
            ((share + 0.055) / 1.055).powf(2.4)
        }
    });
    let l = (0.412_221_46 * r + 0.536_332_55 * g + 0.051_445_995 * b).cbrt();
    let m = (0.211_903_5 * r + 0.680_699_5 * g + 0.107_396_96 * b).cbrt();
    let s = (0.088_302_46 * r + 0.281_718_85 * g + 0.629_978_7 * b).cbrt();
    let lightness = 0.210_454_26 * l + 0.793_617_8 * m - 0.004_072_047 * s;
    let a = 1.977_998_5 * l - 2.428_592_2 * m + 0.450_593_7 * s;
    let b = 0.025_904_037 * l + 0.782_771_77 * m - 0.808_675_77 * s;
    [lightness, b.atan2(a), a.hypot(b)]
}
