//! Scenes to pictures, with smooth edges.

use image::{Rgb, RgbImage};

use super::object::Object;
use super::scene::Scene;

impl Scene {
    /// A square picture of so many pixels a side. Edges are smoothed by each pixel's distance from them.
    pub fn draw(&self, size: u32) -> RgbImage {
        let background = self.background.rgb();
        let mut picture = RgbImage::from_pixel(size, size, Rgb(background.map(|channel| channel as u8)));
        for object in &self.objects {
            draw_object(object, background, &mut picture);
        }
        picture
    }
}

fn draw_object(object: &Object, background: [f32; 3], picture: &mut RgbImage) {
    let scale = picture.width() as f32;
    let [x, y] = object.centre.map(|at| at * scale);
    let side = object.side * scale;
    let (fill, mark) = (object.colour.rgb(), object.colour.mark_rgb());
    let reach = side / 2.0 + 1.0;
    let within = |low: f32, limit: u32| low.max(0.0) as u32..((low + 2.0 * reach).ceil().max(0.0) as u32).min(limit);
    for row in within(y - reach, picture.height()) {
        for column in within(x - reach, picture.width()) {
            let at = [column as f32 + 0.5 - x, row as f32 + 0.5 - y];
            let covered = coverage(object, at, side);
            if covered == 0.0 {
                continue;
            }
            let marked = object.texture.mark(at, side, 1.0);
            let blend = |channel: usize| {
                let own = fill[channel] + (mark[channel] - fill[channel]) * marked;
                (background[channel] + (own - background[channel]) * covered).round() as u8
            };
            picture.put_pixel(column, row, Rgb([blend(0), blend(1), blend(2)]));
        }
    }
}

fn coverage(object: &Object, at: [f32; 2], side: f32) -> f32 {
    let half = side / 2.0;
    (0.5 - object.shape.distance(at.map(|at| at / half)) * half).clamp(0.0, 1.0)
}
