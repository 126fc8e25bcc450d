//! A picture of pictures: rows of tiles with a caption under each.

use std::io::Cursor;

use anyhow::{Context, Result, ensure};
use image::imageops::{self, FilterType};
use image::{ImageFormat, Rgb, RgbImage};

use crate::caption::CaptionFont;

/// Tiles are enlarged until their longer side has at least this many pixels.
const READABLE: u32 = 128;
const CAPTION_LINES: usize = 3;
const FONT_PIXELS: u32 = 14;
const HEADING_PIXELS: u32 = 18;
const GAP: u32 = 10;
const PAPER: Rgb<u8> = Rgb([255; 3]);
const INK: Rgb<u8> = Rgb([32; 3]);
/// Around each tile, so that a white picture has an edge.
const FRAME: Rgb<u8> = Rgb([216; 3]);

/// One picture and what is said under it.
#[derive(Debug, Clone)]
pub struct Tile {
    /// The picture, at its own size.
    pub image: RgbImage,
    /// Wrapped to three lines at most; may be empty.
    pub caption: String,
}

/// Tiles side by side.
#[derive(Debug, Clone)]
pub struct GridRow {
    /// Stands above the row.
    pub heading: Option<String>,
    /// From left to right.
    pub tiles: Vec<Tile>,
}

/// A labelled grid of pictures. Small ones are enlarged by a whole factor without smoothing, so each pixel of the
/// model stays visible: 32 pixels become 128.
#[derive(Debug, Clone)]
pub struct ImageGrid {
    /// From top to bottom.
    pub rows: Vec<GridRow>,
}

impl ImageGrid {
    /// A grid without headings, filled row by row.
    pub fn wrapped(tiles: Vec<Tile>, columns: usize) -> Self {
        let mut rows: Vec<GridRow> = Vec::new();
        for tile in tiles {
            match rows.last_mut() {
                Some(row) if row.tiles.len() < columns.max(1) => row.tiles.push(tile),
                _ => rows.push(GridRow {
                    heading: None,
                    tiles: vec![tile],
                }),
            }
        }
        Self { rows }
    }

    /// Draws the grid.
    ///
    /// # Errors
    /// When there is no tile, or one without pixels.
    pub fn draw(&self) -> Result<RgbImage> {
        let tiles = || self.rows.iter().flat_map(|row| &row.tiles);
        ensure!(tiles().next().is_some(), "a grid needs at least one picture");
        ensure!(
            tiles().all(|t| t.image.width() > 0 && t.image.height() > 0),
            "a picture of a grid has no pixels"
        );
        let (text, heading) = (CaptionFont::new(FONT_PIXELS)?, CaptionFont::new(HEADING_PIXELS)?);
        let cell = tiles().map(|t| t.image.width() * factor(&t.image)).max().unwrap_or(0);
        let columns = self.rows.iter().map(|row| row.tiles.len()).max().unwrap_or(0) as u32;
        let width = GAP + columns * (cell + GAP);
        let rows: Vec<Layout> = self
            .rows
            .iter()
            .map(|row| Layout::of(row, cell, width, &text, &heading))
            .collect();
        let height = GAP + rows.iter().map(|row| row.height + GAP).sum::<u32>();
        let mut canvas = RgbImage::from_pixel(width, height, PAPER);
        let mut top = GAP;
        for (row, layout) in self.rows.iter().zip(&rows) {
            for (i, line) in layout.heading.iter().enumerate() {
                heading.draw(&mut canvas, GAP, top + i as u32 * heading.line_height(), line, INK);
            }
            let pictures = top + layout.heading_height;
            for (i, (tile, lines)) in row.tiles.iter().zip(&layout.captions).enumerate() {
                let left = GAP + i as u32 * (cell + GAP);
                place(&mut canvas, &tile.image, left, pictures);
                for (i, line) in lines.iter().enumerate() {
                    text.draw(
                        &mut canvas,
                        left,
                        pictures + layout.picture_height + 2 + i as u32 * text.line_height(),
                        line,
                        INK,
                    );
                }
            }
            top += layout.height + GAP;
        }
        Ok(canvas)
    }
}

/// Where the parts of a row go.
struct Layout {
    heading: Vec<String>,
    heading_height: u32,
    picture_height: u32,
    captions: Vec<Vec<String>>,
    height: u32,
}

impl Layout {
    fn of(row: &GridRow, cell: u32, width: u32, text: &CaptionFont, large: &CaptionFont) -> Self {
        let heading = row
            .heading
            .as_ref()
            .map_or(Vec::new(), |line| large.wrap(line, width - 2 * GAP, CAPTION_LINES));
        let captions: Vec<_> = row
            .tiles
            .iter()
            .map(|tile| text.wrap(&tile.caption, cell, CAPTION_LINES))
            .collect();
        let heading_height = heading.len() as u32 * large.line_height();
        let picture_height = row
            .tiles
            .iter()
            .map(|t| t.image.height() * factor(&t.image))
            .max()
            .unwrap_or(0);
        let lines = captions.iter().map(Vec::len).max().unwrap_or(0) as u32;
        let caption_height = if lines == 0 { 0 } else { 2 + lines * text.line_height() };
        let height = heading_height + picture_height + caption_height;
        Self {
            heading,
            heading_height,
            picture_height,
            captions,
            height,
        }
    }
}

/// Encodes a picture as PNG.
pub fn png(image: &RgbImage) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    image
        .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
        .context("cannot encode a PNG")?;
    Ok(bytes)
}

/// The whole factor that makes a picture readable.
fn factor(image: &RgbImage) -> u32 {
    READABLE.div_ceil(image.width().max(image.height()))
}

/// Draws an enlarged picture and a line of one pixel around it.
fn place(canvas: &mut RgbImage, image: &RgbImage, left: u32, top: u32) {
    let (width, height) = (image.width() * factor(image), image.height() * factor(image));
    let frame = RgbImage::from_pixel(width + 2, height + 2, FRAME);
    imageops::replace(canvas, &frame, i64::from(left) - 1, i64::from(top) - 1);
    let large = imageops::resize(image, width, height, FilterType::Nearest);
    imageops::replace(canvas, &large, i64::from(left), i64::from(top));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tile(side: u32, color: [u8; 3], caption: &str) -> Tile {
        Tile {
            image: RgbImage::from_pixel(side, side, Rgb(color)),
            caption: caption.to_owned(),
        }
    }

    #[test]
    fn small_pictures_are_enlarged_pixel_by_pixel() {
        let mut picture = tile(32, [0, 0, 255], "");
        picture.image.put_pixel(31, 0, Rgb([255, 0, 0]));
        let grid = ImageGrid::wrapped(vec![picture], 4).draw().unwrap();
        assert_eq!(grid.dimensions(), (128 + 2 * GAP, 128 + 2 * GAP));
        for (x, y, color) in [
            (0, 0, [0, 0, 255]),
            (123, 0, [0, 0, 255]),
            (124, 3, [255, 0, 0]),
            (127, 4, [0, 0, 255]),
        ] {
            assert_eq!(grid.get_pixel(GAP + x, GAP + y).0, color, "{x} {y}");
        }
        assert_eq!(grid.get_pixel(GAP + 128, GAP).0, FRAME.0);
    }

    #[test]
    fn a_picture_of_readable_size_keeps_it() {
        let grid = ImageGrid::wrapped(vec![tile(200, [1; 3], "")], 1).draw().unwrap();
        assert_eq!(grid.dimensions(), (200 + 2 * GAP, 200 + 2 * GAP));
    }

    #[test]
    fn rows_wrap_and_captions_and_headings_take_room() {
        let tiles: Vec<_> = (0..5).map(|i| tile(64, [i; 3], "")).collect();
        let plain = ImageGrid::wrapped(tiles.clone(), 3);
        assert_eq!(plain.rows.iter().map(|r| r.tiles.len()).collect::<Vec<_>>(), [3, 2]);
        let bare = plain.draw().unwrap();
        assert_eq!(bare.dimensions(), (3 * 128 + 4 * GAP, 2 * 128 + 3 * GAP));
        let mut labelled = plain.clone();
        labelled.rows[0].tiles[1].caption = "a caption".to_owned();
        let with_caption = labelled.draw().unwrap().height();
        labelled.rows[0].heading = Some("drawn".to_owned());
        let with_both = labelled.draw().unwrap();
        assert!(bare.height() < with_caption && with_caption < with_both.height());
        assert!(
            with_both.rows().take(30).flatten().any(|p| p.0[0] < 100),
            "the heading has ink"
        );
    }

    #[test]
    fn a_grid_without_pictures_is_refused() {
        assert!(ImageGrid::wrapped(Vec::new(), 3).draw().is_err());
        assert!(ImageGrid::wrapped(vec![tile(0, [0; 3], "")], 3).draw().is_err());
    }
}
