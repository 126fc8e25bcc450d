//! Drawings as SVG.

use std::fmt::Write as _;

use super::drawing::{Anchor, Drawing, Fill, Item, Shape, Stroke};
use super::escape::escaped;
use super::ink::Ink;

const FONT: &str = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";

/// Where the SVG will stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the page: colours are its variables, marks carry their runs.
    Page,
    /// A file of its own: colours are values, on white.
    File,
}

impl Drawing {
    /// The drawing as SVG.
    pub fn svg(&self, place: Place) -> String {
        let (width, height, title) = (self.width, self.height, escaped(&self.title));
        let mut out = match place {
            Place::Page => format!(
                "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\" tabindex=\"0\" \
                 style=\"max-width:{width}px\">\n"
            ),
            Place::File => format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} \
                 {height}\" font-family=\"{FONT}\">\n<title>{title}</title>\n<rect width=\"{width}\" height=\"{height}\" \
                 fill=\"{}\"/>\n",
                Ink::Paper.hex()
            ),
        };
        for item in &self.items {
            write_item(&mut out, item, place);
        }
        out.push_str("</svg>\n");
        out
    }
}

fn write_item(out: &mut String, item: &Item, place: Place) {
    // Writing to a string can't fail.
    let _ = match (&item.mark, place) {
        (Some(mark), Place::Page) => {
            let runs: Vec<String> = mark.runs.iter().map(usize::to_string).collect();
            write!(
                out,
                "<g class=\"mark\" data-runs=\"{}\" data-tip=\"{}\">",
                runs.join(" "),
                escaped(&mark.tip).replace('\n', "&#10;")
            )
        }
        (Some(mark), Place::File) => write!(out, "<g><title>{}</title>", escaped(&mark.tip)),
        (None, _) => Ok(()),
    };
    write_shape(out, &item.shape, place);
    out.push_str(if item.mark.is_some() { "</g>\n" } else { "\n" });
}

fn write_shape(out: &mut String, shape: &Shape, place: Place) {
    let _ = match shape {
        Shape::Line {
            points,
            ink,
            width,
            stroke,
        } => {
            let dash = if *stroke == Stroke::Dashed {
                ";stroke-dasharray:5 4"
            } else {
                ""
            };
            let ink = colour(*ink, place);
            write!(
                out,
                "<polyline points=\"{}\" style=\"fill:none;stroke:{ink};stroke-width:{width};stroke-linejoin:round{dash}\"/>",
                corners(points)
            )
        }
        Shape::Area { points, ink, opacity } => write!(
            out,
            "<polygon points=\"{}\" style=\"fill:{};opacity:{opacity}\"/>",
            corners(points),
            colour(*ink, place)
        ),
        Shape::Dot { at, radius, ink, fill } => {
            let rim = colour(ink.rim(), place);
            let ink = colour(*ink, place);
            let paper = colour(Ink::Paper, place);
            let (inside, edge) = match fill {
                Fill::Full => (&ink, &rim),
                Fill::Hollow => (&paper, &ink),
            };
            let edge_width = if *fill == Fill::Full { 1.0 } else { 2.0 };
            write!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\" style=\"fill:{inside};stroke:{edge};stroke-width:{edge_width}\"/>",
                at.0, at.1
            )
        }
        Shape::Words {
            at: (x, y),
            text,
            size,
            ink,
            anchor,
        } => {
            let (anchor, turn) = match anchor {
                Anchor::Start => ("start", String::new()),
                Anchor::Middle => ("middle", String::new()),
                Anchor::End => ("end", String::new()),
                Anchor::Upwards => ("middle", format!(" transform=\"rotate(-90 {x:.1} {y:.1})\"")),
            };
            write!(
                out,
                "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\"{turn} style=\"fill:{}\">{}</text>",
                colour(*ink, place),
                escaped(text)
            )
        }
    };
}

fn corners(points: &[(f64, f64)]) -> String {
    let mut out = String::with_capacity(points.len() * 12);
    for (x, y) in points {
        let _ = write!(out, "{x:.1},{y:.1} ");
    }
    out.truncate(out.trim_end().len());
    out
}

/// A colour as CSS.
pub fn colour(ink: Ink, place: Place) -> String {
    match (place, ink.variable()) {
        (Place::Page, Some(variable)) => format!("var({variable})"),
        _ => ink.hex(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::drawing::Mark;
    use super::*;

    fn drawing() -> Drawing {
        let mut drawing = Drawing::new("a < b", 20.0, 10.0);
        drawing.words((1.0, 2.0), "<script>", 8.0, Ink::Text, Anchor::Upwards);
        drawing.mark(
            Shape::Dot {
                at: (3.0, 4.0),
                radius: 2.0,
                ink: Ink::Kind(1),
                fill: Fill::Full,
            },
            Mark {
                runs: vec![0, 2],
                tip: "\"n\"\n1".to_owned(),
            },
        );
        drawing
    }

    #[test]
    fn words_are_escaped_and_marks_name_their_runs() {
        let page = drawing().svg(Place::Page);
        assert!(page.contains("aria-label=\"a &lt; b\"") && page.contains("&lt;script&gt;"));
        assert!(page.contains("data-runs=\"0 2\" data-tip=\"&quot;n&quot;&#10;1\""));
        assert!(page.contains("fill:var(--kind-1)"));
    }

    #[test]
    fn a_file_needs_no_page() {
        let file = drawing().svg(Place::File);
        assert!(file.contains("xmlns=") && file.contains("#d06a0a") && !file.contains("var("));
    }
}
