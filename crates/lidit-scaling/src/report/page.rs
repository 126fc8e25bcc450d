//! The page: one file, without network.

use super::Report;
use super::error::ReportError;
use super::escape::escaped;
use super::figure::Figure;
use super::law_section::law_section;
use super::sections::figure_section;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// Nothing is fetched, whatever a name or a prompt says.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

impl Report {
    /// The page as HTML.
    pub fn page(&self) -> Result<String, ReportError> {
        let figures = self.figures();
        let law = self.fit.as_ref().map(law_section).unwrap_or_default();
        let plots: String = figures.iter().map(figure_section).collect();
        let (groups, pictures, configs) = (self.group_section(), self.picture_section(), self.config_section());
        let links = links(
            &figures,
            &[
                ("law", "The law", !law.is_empty()),
                ("runs", "Runs", true),
                ("groups", "Means over seeds", !groups.is_empty()),
                ("pictures", "Pictures", !pictures.is_empty()),
                ("configs", "Configs", !configs.is_empty()),
            ],
        );
        let title = escaped(&self.title);
        let made: Vec<String> = [&self.made, &self.version]
            .into_iter()
            .filter(|text| !text.is_empty())
            .map(|text| escaped(text))
            .collect();
        Ok(format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
             content=\"width=device-width, initial-scale=1\">\n<meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
             <link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n<div>\
             <h1>{title}</h1>\n<p class=\"small\">{}</p></div>\n<button type=\"button\" id=\"theme\">dark</button>\n</header>\n\
             <nav aria-label=\"Sections\">{links}</nav>\n<main>\n{}{law}{}{plots}<section id=\"runs\">\n<h2>Runs</h2>\n{}</section>\n\
             {groups}{pictures}{configs}</main>\n<div id=\"tip\" role=\"status\" hidden></div>\n<script \
             type=\"application/json\" id=\"data\">{}</script>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
            made.join(" · "),
            self.summary(),
            self.filters(),
            self.run_table(),
            self.page_data()?,
        ))
    }
}

fn links(figures: &[Figure], sections: &[(&str, &str, bool)]) -> String {
    let (law, rest) = sections.split_at(1);
    let named = |(id, name, _): &(&str, &str, bool)| format!("<a href=\"#{id}\">{name}</a>\n");
    let of = |sections: &[(&str, &str, bool)]| -> String {
        sections.iter().filter(|section| section.2).map(named).collect()
    };
    let plots: String = figures
        .iter()
        .map(|figure| format!("<a href=\"#{}\">{}</a>\n", figure.id, figure.link))
        .collect::<Vec<String>>()
        .concat();
    of(law) + &plots + &of(rest)
}
