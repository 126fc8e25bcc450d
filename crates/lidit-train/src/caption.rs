//! Small text on pictures: `DejaVu` Sans Condensed, which has the letters of most alphabets (no Chinese, Japanese, Korean).

use ab_glyph::{Font as _, FontRef, Glyph, GlyphId, PxScaleFont, ScaleFont as _, point};
use anyhow::{Context, Result};
use image::{Rgb, RgbImage};

/// What stands for a character that the font lacks.
const UNKNOWN: char = '?';
const ELLIPSIS: char = '…';

/// The caption font at one size.
pub(crate) struct CaptionFont {
    font: PxScaleFont<FontRef<'static>>,
}

impl CaptionFont {
    /// The font with lines about `pixels` high.
    pub(crate) fn new(pixels: u32) -> Result<Self> {
        let font =
            FontRef::try_from_slice(dejavu::sans_condensed::regular()).context("the embedded font cannot be read")?;
        Ok(Self {
            font: font.into_scaled(pixels as f32),
        })
    }

    /// Pixels from one line to the next.
    pub(crate) fn line_height(&self) -> u32 {
        self.font.height().ceil() as u32 + 1
    }

    /// Breaks a text between words, or inside a word that is wider than a line, into at most `max_lines` lines of at
    /// most `max_width` pixels; a longer text ends in an ellipsis.
    pub(crate) fn wrap(&self, text: &str, max_width: u32, max_lines: usize) -> Vec<String> {
        let fits = |line: &str| self.width(line) <= max_width as f32;
        let mut lines: Vec<String> = Vec::new();
        for word in text.split_whitespace() {
            if let Some(line) = lines.last_mut()
                && fits(&format!("{line} {word}"))
            {
                line.push(' ');
                line.push_str(word);
                continue;
            }
            lines.push(String::new());
            for letter in word.chars() {
                if let Some(line) = lines.last_mut()
                    && (line.is_empty() || fits(&format!("{line}{letter}")))
                {
                    line.push(letter);
                } else {
                    lines.push(letter.to_string());
                }
            }
        }
        if lines.len() > max_lines {
            lines.truncate(max_lines);
            if let Some(last) = lines.last_mut() {
                while !last.is_empty() && !fits(&format!("{last}{ELLIPSIS}")) {
                    last.pop();
                }
                last.truncate(last.trim_end().len());
                last.push(ELLIPSIS);
            }
        }
        lines
    }

    /// Draws one line with its top left corner at `(left, top)`; what lies outside the canvas is left out.
    pub(crate) fn draw(&self, canvas: &mut RgbImage, left: u32, top: u32, line: &str, color: Rgb<u8>) {
        let baseline = top as f32 + self.font.ascent().ceil();
        for glyph in self.glyphs(line, left as f32, baseline) {
            let Some(outline) = self.font.outline_glyph(glyph) else {
                continue;
            };
            let corner = outline.px_bounds().min;
            outline.draw(|x, y, cover| {
                let (x, y) = (i64::from(x) + corner.x as i64, i64::from(y) + corner.y as i64);
                if let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y))
                    && let Some(pixel) = canvas.get_pixel_mut_checked(x, y)
                {
                    for (channel, ink) in pixel.0.iter_mut().zip(color.0) {
                        let paper = f32::from(*channel);
                        *channel = (paper + (f32::from(ink) - paper) * cover.clamp(0.0, 1.0)).round() as u8;
                    }
                }
            });
        }
    }

    /// The width of a line in pixels.
    fn width(&self, line: &str) -> f32 {
        self.glyphs(line, 0.0, 0.0)
            .last()
            .map_or(0.0, |last| last.position.x + self.font.h_advance(last.id))
    }

    fn glyphs(&self, line: &str, left: f32, baseline: f32) -> Vec<Glyph> {
        let (mut x, mut before) = (left, None);
        let mut glyphs = Vec::new();
        for id in line.chars().filter_map(|letter| self.glyph_id(letter)) {
            x += before.map_or(0.0, |b| self.font.kern(b, id));
            glyphs.push(id.with_scale_and_position(self.font.scale(), point(x, baseline)));
            x += self.font.h_advance(id);
            before = Some(id);
        }
        glyphs
    }

    /// `None` for what has no ink of its own: control characters, joiners and variation selectors of emoji.
    fn glyph_id(&self, letter: char) -> Option<GlyphId> {
        if letter.is_control() || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}') {
            return None;
        }
        let id = self.font.glyph_id(letter);
        Some(if id == GlyphId(0) {
            self.font.glyph_id(UNKNOWN)
        } else {
            id
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn text_breaks_between_words_and_long_words_break_inside() {
        let font = CaptionFont::new(13).unwrap();
        assert_eq!(font.wrap("", 100, 3), Vec::<String>::new());
        assert_eq!(font.wrap("a red\n apple", 500, 3), ["a red apple"]);
        let lines = font.wrap("a red apple on a blue table", 60, 9);
        assert!(
            lines.len() > 2 && lines.join(" ") == "a red apple on a blue table",
            "{lines:?}"
        );
        let lines = font.wrap("Donaudampfschifffahrtsgesellschaft", 60, 9);
        assert!(
            lines.len() > 2 && lines.concat() == "Donaudampfschifffahrtsgesellschaft",
            "{lines:?}"
        );
        assert!(lines.iter().all(|line| font.width(line) <= 60.0));
    }

    #[test]
    fn what_does_not_fit_ends_in_an_ellipsis_within_the_width() {
        let font = CaptionFont::new(13).unwrap();
        let lines = font.wrap("a very long caption that goes on and on about one small picture", 80, 2);
        assert_eq!(lines.len(), 2);
        assert!(
            lines[1].ends_with('…') && lines.iter().all(|line| font.width(line) <= 80.0),
            "{lines:?}"
        );
    }

    #[test]
    fn accents_have_glyphs_and_unknown_characters_are_question_marks() {
        let font = CaptionFont::new(13).unwrap();
        let question = font.glyph_id('?');
        for letter in "éàçñüßøæłžЖλ".chars() {
            assert!(font.glyph_id(letter).is_some_and(|id| Some(id) != question), "{letter}");
        }
        assert_eq!(font.glyph_id('語'), question);
        assert_eq!(font.glyph_id('\u{fe0f}'), None);
    }

    #[test]
    fn drawing_leaves_ink_and_never_leaves_the_canvas() {
        let font = CaptionFont::new(13).unwrap();
        let mut canvas = RgbImage::from_pixel(20, 10, Rgb([255; 3]));
        font.draw(&mut canvas, 12, 4, "Wide", Rgb([0; 3]));
        assert!(canvas.pixels().any(|p| p.0[0] < 128));
    }
}
