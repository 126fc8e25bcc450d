//! What the page's script works with.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::Report;
use super::config_diff::ConfigDiff;
use super::error::ReportError;
use super::escape::script_json;

#[derive(Serialize)]
struct PageData<'a> {
    runs: Vec<PageRun<'a>>,
    common: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct PageRun<'a> {
    name: &'a str,
    status: &'static str,
    axes: &'a BTreeMap<String, String>,
    has_config: bool,
    diff: BTreeMap<String, Option<String>>,
    pictures: Vec<PagePicture<'a>>,
}

#[derive(Serialize)]
struct PagePicture<'a> {
    src: String,
    prompt: &'a str,
    verdict: &'a str,
    right: Option<bool>,
}

impl Report {
    /// The data as JSON that can stand in a `<script>` element.
    pub(super) fn page_data(&self) -> Result<String, ReportError> {
        let ConfigDiff { common, differences } = ConfigDiff::of(&self.runs);
        let runs = self.runs.iter().zip(differences).map(|(run, diff)| PageRun {
            name: &run.name,
            status: run.status.word(),
            axes: &run.axes,
            has_config: !run.config.is_empty(),
            diff,
            pictures: run
                .pictures
                .iter()
                .map(|picture| PagePicture {
                    src: format!("data:image/png;base64,{}", STANDARD.encode(&picture.png)),
                    prompt: &picture.prompt,
                    verdict: &picture.verdict,
                    right: picture.right,
                })
                .collect(),
        });
        let data = PageData {
            runs: runs.collect(),
            common,
        };
        Ok(script_json(&serde_json::to_string(&data)?))
    }
}
