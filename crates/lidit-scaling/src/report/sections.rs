//! Groups, pictures and configs on the page.

use std::collections::BTreeSet;

use super::Report;
use super::chart::{Chart, LegendKey, Size};
use super::escape::escaped;
use super::figure::Figure;
use super::group::varying_axes;
use super::svg::{Place, colour};

impl Report {
    /// What the runs can be filtered by.
    pub(super) fn filters(&self) -> String {
        let mut selects = String::new();
        for axis in varying_axes(&self.runs) {
            let values: BTreeSet<&String> = self.runs.iter().filter_map(|run| run.axes.get(&axis)).collect();
            selects += &select(&axis, "axis", &axis, values.into_iter().map(String::as_str));
        }
        let words: BTreeSet<&str> = self.runs.iter().map(|run| run.status.word()).collect();
        if words.len() > 1 {
            selects += &select("status", "status", "status", words.into_iter());
        }
        format!(
            "<form id=\"filters\" aria-label=\"Filter runs\">\n<label>search <input type=\"search\" id=\"search\" \
             placeholder=\"part of a name\"></label>\n{selects}<button type=\"reset\">clear</button>\n<output id=\"shown\" \
             aria-live=\"polite\">{0} of {0} runs</output>\n</form>\n",
            self.runs.len()
        )
    }

    /// The pictures of one run after the other; the page's script fills it.
    pub(super) fn picture_section(&self) -> String {
        let with: Vec<usize> = (0..self.runs.len())
            .filter(|run| !self.runs[*run].pictures.is_empty())
            .collect();
        if with.is_empty() {
            return String::new();
        }
        format!(
            "<section id=\"pictures\">\n<h2>Pictures</h2>\n<p>The same prompts, run by run; drag the slider or use the arrow \
             keys.</p>\n<div class=\"slider\"><label for=\"slider\">run</label> <input type=\"range\" id=\"slider\" min=\"0\" \
             max=\"{}\" value=\"0\"><output id=\"slider-name\" for=\"slider\" aria-live=\"polite\"></output></div>\n<div \
             id=\"grid\" class=\"pictures\"></div>\n</section>\n",
            with.len() - 1
        )
    }

    /// Two configs beside each other; the page's script fills it.
    pub(super) fn config_section(&self) -> String {
        if self.runs.iter().all(|run| run.config.is_empty()) {
            return String::new();
        }
        let runs: String = self
            .runs
            .iter()
            .enumerate()
            .filter(|(_, run)| !run.config.is_empty())
            .map(|(i, run)| format!("<option value=\"{i}\">{}</option>", escaped(&run.name)))
            .collect::<Vec<String>>()
            .concat();
        format!(
            "<section id=\"configs\">\n<h2>Configs</h2>\n<div class=\"controls\"><label>compare <select id=\"left\">{runs}</select>\
             </label> <label>with <select id=\"right\"><option value=\"common\">the sweep's most common values</option>{runs}\
             </select></label></div>\n<div class=\"scroll\"><table id=\"diff\"><thead><tr><th scope=\"col\">key</th><th \
             scope=\"col\" id=\"left-name\"></th><th scope=\"col\" id=\"right-name\"></th></tr></thead><tbody></tbody></table></div>\n\
             <p id=\"same\" class=\"small\"></p>\n</section>\n"
        )
    }
}

/// A figure with its plots, each laid out for desks and for phones.
pub fn figure_section(figure: &Figure) -> String {
    let several = figure.charts.len() > 1 || figure.charts.iter().any(|(name, _)| !name.is_empty());
    let charts: String = figure
        .charts
        .iter()
        .map(|(name, chart)| {
            if several {
                let svg = chart.draw(Size::Panel).svg(Place::Page);
                format!(
                    "<figure class=\"panel\"><figcaption>{}</figcaption>{svg}</figure>\n",
                    escaped(name)
                )
            } else {
                let [wide, narrow] = [Size::Wide, Size::Narrow].map(|size| chart.draw(size).svg(Place::Page));
                format!("<figure class=\"wide\">{wide}</figure>\n<figure class=\"narrow\">{narrow}</figure>\n")
            }
        })
        .collect::<Vec<String>>()
        .concat();
    let legend = if several {
        figure
            .charts
            .first()
            .map(|(_, chart)| legend(chart))
            .unwrap_or_default()
    } else {
        String::new()
    };
    format!(
        "<section id=\"{}\" class=\"plot\">\n<h2>{}</h2>\n<p>{}</p>\n{legend}<div class=\"{}\">\n{charts}</div>\n</section>\n",
        figure.id,
        figure.heading,
        escaped(&figure.note),
        if several { "panels" } else { "single" }
    )
}

/// One legend for all panels.
fn legend(chart: &Chart) -> String {
    let entries: String = chart
        .legend
        .iter()
        .map(|entry| {
            let ink = colour(entry.ink, Place::Page);
            let line = if entry.key == LegendKey::Dashed {
                " class=\"line\""
            } else {
                ""
            };
            format!(
                "<li><i{line} style=\"background:{ink};border-color:{ink}\"></i>{}</li>\n",
                escaped(&entry.label)
            )
        })
        .collect::<Vec<String>>()
        .concat();
    format!("<ul class=\"legend\">\n{entries}</ul>\n")
}

fn select<'a>(name: &str, kind: &str, key: &str, values: impl Iterator<Item = &'a str>) -> String {
    let options: String = values
        .map(|value| format!("<option>{}</option>", escaped(value)))
        .collect::<Vec<String>>()
        .concat();
    format!(
        "<label>{} <select data-{kind}=\"{}\"><option value=\"\">all</option>{options}</select></label>\n",
        escaped(name),
        escaped(key)
    )
}
