//! Drawings as pixels.

use std::io::Cursor;

use ab_glyph::{Font as _, FontRef, OutlineCurve, ScaleFont as _};
use tiny_skia::{FillRule, Paint, Path, PathBuilder, Pixmap, Stroke as Pen, StrokeDash, Transform};

use super::drawing::{Anchor, Drawing, Fill, Shape, Stroke};
use super::ink::Ink;

/// Pixels of the file for each of the drawing.
const SCALE: f32 = 2.0;

impl Drawing {
    /// The drawing as a PNG file's bytes, on white, with two pixels for each of its own. The error says what failed.
    pub fn png(&self) -> Result<Vec<u8>, String> {
        let (width, height) = ((self.width as f32 * SCALE) as u32, (self.height as f32 * SCALE) as u32);
        let pixels = Pixmap::new(width, height).ok_or("it has no pixels")?;
        let font = FontRef::try_from_slice(dejavu::sans::regular()).map_err(|error| error.to_string())?;
        let mut canvas = Canvas { pixels, font };
        let [red, green, blue] = Ink::Paper.light();
        canvas.pixels.fill(tiny_skia::Color::from_rgba8(red, green, blue, 255));
        for item in &self.items {
            canvas.shape(&item.shape);
        }
        let mut file = Cursor::new(Vec::new());
        // All pixels are opaque: premultiplied values are plain ones.
        let picture = image::RgbaImage::from_raw(width, height, canvas.pixels.take()).ok_or("its pixels are lost")?;
        image::DynamicImage::ImageRgba8(picture)
            .to_rgb8()
            .write_to(&mut file, image::ImageFormat::Png)
            .map_err(|error| error.to_string())?;
        Ok(file.into_inner())
    }
}

struct Canvas {
    pixels: Pixmap,
    font: FontRef<'static>,
}

impl Canvas {
    fn shape(&mut self, shape: &Shape) {
        match shape {
            Shape::Line {
                points,
                ink,
                width,
                stroke,
            } => {
                let dash = match stroke {
                    Stroke::Solid => None,
                    Stroke::Dashed => StrokeDash::new(vec![5.0, 4.0], 0.0),
                };
                if let Some(path) = polygon(points, false) {
                    self.stroke(&path, *ink, *width as f32, dash);
                }
            }
            Shape::Area { points, ink, opacity } => {
                if let Some(path) = polygon(points, true) {
                    self.fill(&path, *ink, *opacity as f32, scaled());
                }
            }
            Shape::Dot { at, radius, ink, fill } => {
                if let Some(path) = PathBuilder::from_circle(at.0 as f32, at.1 as f32, *radius as f32) {
                    let (inside, edge, width) = match fill {
                        Fill::Full => (*ink, ink.rim(), 1.0),
                        Fill::Hollow => (Ink::Paper, *ink, 2.0),
                    };
                    self.fill(&path, inside, 1.0, scaled());
                    self.stroke(&path, edge, width, None);
                }
            }
            Shape::Words {
                at,
                text,
                size,
                ink,
                anchor,
            } => self.words((at.0 as f32, at.1 as f32), text, *size as f32, *ink, *anchor),
        }
    }

    fn fill(&mut self, path: &Path, ink: Ink, opacity: f32, transform: Transform) {
        self.pixels
            .fill_path(path, &paint(ink, opacity), FillRule::Winding, transform, None);
    }

    fn stroke(&mut self, path: &Path, ink: Ink, width: f32, dash: Option<StrokeDash>) {
        let pen = Pen {
            width,
            dash,
            line_join: tiny_skia::LineJoin::Round,
            ..Pen::default()
        };
        self.pixels.stroke_path(path, &paint(ink, 1.0), &pen, scaled(), None);
    }

    /// Words are filled outlines, so that they can be turned.
    fn words(&mut self, at: (f32, f32), text: &str, size: f32, ink: Ink, anchor: Anchor) {
        let Some(units) = self.font.units_per_em() else { return };
        // CSS sizes are of the em square; the font's own scale is of its height.
        let zoom = size / units;
        let scaled_font = self.font.as_scaled(self.font.height_unscaled() * zoom);
        let width: f32 = text
            .chars()
            .map(|letter| scaled_font.h_advance(scaled_font.glyph_id(letter)))
            .sum();
        let start = match anchor {
            Anchor::Start => 0.0,
            Anchor::Middle | Anchor::Upwards => -width / 2.0,
            Anchor::End => -width,
        };
        let mut outline = PathBuilder::new();
        let mut pen = start;
        for letter in text.chars() {
            let glyph = scaled_font.glyph_id(letter);
            if let Some(shape) = self.font.outline(glyph) {
                add_curves(&mut outline, &shape.curves, pen, zoom);
            }
            pen += scaled_font.h_advance(glyph);
        }
        let turn = if anchor == Anchor::Upwards { -90.0 } else { 0.0 };
        let place = scaled().pre_translate(at.0, at.1).pre_rotate(turn);
        if let Some(path) = outline.finish() {
            self.fill(&path, ink, 1.0, place);
        }
    }
}

/// A glyph's outline at `pen` on the baseline; fonts count upwards, pixels downwards.
fn add_curves(outline: &mut PathBuilder, curves: &[OutlineCurve], pen: f32, zoom: f32) {
    let at = |point: &ab_glyph::Point| (pen + point.x * zoom, -point.y * zoom);
    let mut last = None;
    for curve in curves {
        let (OutlineCurve::Line(from, _) | OutlineCurve::Quad(from, ..) | OutlineCurve::Cubic(from, ..)) = curve;
        if last != Some(*from) {
            let (x, y) = at(from);
            outline.move_to(x, y);
        }
        let end = match curve {
            OutlineCurve::Line(_, to) => {
                let (x, y) = at(to);
                outline.line_to(x, y);
                *to
            }
            OutlineCurve::Quad(_, control, to) => {
                let ((cx, cy), (x, y)) = (at(control), at(to));
                outline.quad_to(cx, cy, x, y);
                *to
            }
            OutlineCurve::Cubic(_, first, second, to) => {
                let ((ax, ay), (bx, by), (x, y)) = (at(first), at(second), at(to));
                outline.cubic_to(ax, ay, bx, by, x, y);
                *to
            }
        };
        last = Some(end);
    }
}

fn polygon(points: &[(f64, f64)], is_closed: bool) -> Option<Path> {
    let (first, rest) = points.split_first()?;
    let mut path = PathBuilder::new();
    path.move_to(first.0 as f32, first.1 as f32);
    for (x, y) in rest {
        path.line_to(*x as f32, *y as f32);
    }
    if is_closed {
        path.close();
    }
    path.finish()
}

fn paint(ink: Ink, opacity: f32) -> Paint<'static> {
    let [red, green, blue] = ink.light();
    let mut paint = Paint::default();
    paint.set_color_rgba8(red, green, blue, (opacity * 255.0).round() as u8);
    paint
}

fn scaled() -> Transform {
    Transform::from_scale(SCALE, SCALE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dark_pixels(drawing: &Drawing) -> Vec<(u32, u32)> {
        let picture = image::load_from_memory(&drawing.png().unwrap()).unwrap().to_luma8();
        let dark = picture.enumerate_pixels().filter(|(_, _, pixel)| pixel.0[0] < 128);
        dark.map(|(x, y, _)| (x, y)).collect()
    }

    #[test]
    fn words_stand_where_they_are_anchored() {
        let drawn = |anchor| {
            let mut drawing = Drawing::new("", 100.0, 100.0);
            drawing.words((50.0, 50.0), "HHHH", 10.0, Ink::Text, anchor);
            dark_pixels(&drawing)
        };
        assert!(
            drawn(Anchor::Start)
                .iter()
                .all(|(x, y)| *x >= 100 && *y <= 100 && *y > 80)
        );
        assert!(drawn(Anchor::End).iter().all(|(x, _)| *x <= 100));
        let upwards = drawn(Anchor::Upwards);
        assert!(upwards.iter().all(|(x, _)| *x <= 100 && *x > 80));
        assert!(upwards.iter().any(|(_, y)| *y < 90) && upwards.iter().any(|(_, y)| *y > 110));
    }

    #[test]
    fn dots_and_areas_have_their_size() {
        let mut drawing = Drawing::new("", 40.0, 20.0);
        drawing.add(Shape::Area {
            points: vec![(5.0, 5.0), (15.0, 5.0), (15.0, 15.0), (5.0, 15.0)],
            ink: Ink::Text,
            opacity: 1.0,
        });
        assert_eq!(dark_pixels(&drawing).len(), 400);
    }
}
