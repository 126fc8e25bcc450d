//! Styles in which the same emoji are drawn, and where their pictures come from.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use flate2::read::GzDecoder;
use tar::Archive;

use crate::error::DataError;
use crate::manifest::Licence;

/// A style in which emoji are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EmojiStyle {
    /// Twitter's flat drawings, which this program holds.
    Twemoji,
    /// Microsoft's glossy models.
    Fluent3d,
    /// Google's shaded drawings.
    Noto,
}

/// An npm package of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmojiPackage {
    /// As npm calls it: name and version.
    pub spec: &'static str,
    /// The file that `npm pack` makes of it.
    pub file: &'static str,
    /// Its SHA-256, in hex.
    pub sha256: &'static str,
    // Where the pictures lie in it, and how their names end.
    folder: &'static str,
    ending: &'static str,
}

const FLUENT: EmojiPackage = EmojiPackage {
    spec: "@lobehub/fluent-emoji-3d@1.1.0",
    file: "lobehub-fluent-emoji-3d-1.1.0.tgz",
    sha256: "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    folder: "package/assets/",
    ending: ".webp",
};

const GOOGLE: EmojiPackage = EmojiPackage {
    spec: "emoji-datasource-google@16.0.0",
    file: "emoji-datasource-google-16.0.0.tgz",
    sha256: "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    folder: "package/img/google/64/",
    ending: ".png",
};

impl EmojiStyle {
    /// Every style.
    pub const ALL: [Self; 3] = [Self::Twemoji, Self::Fluent3d, Self::Noto];

    /// The name that `--styles` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Twemoji => "twemoji",
            Self::Fluent3d => "fluent-3d",
            Self::Noto => "noto",
        }
    }

    /// The package that holds its pictures; none for those that this program holds itself.
    pub fn package(self) -> Option<&'static EmojiPackage> {
        match self {
            Self::Twemoji => None,
            Self::Fluent3d => Some(&FLUENT),
            Self::Noto => Some(&GOOGLE),
        }
    }

    /// How captions begin, with an article: `a flat cartoon emoji`.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Twemoji => "a flat cartoon emoji",
            Self::Fluent3d => "a glossy 3d emoji",
            Self::Noto => "a softly shaded emoji",
        }
    }

    pub(super) fn licence(self) -> Option<Licence> {
        let (licence, notice) = match self {
            Self::Twemoji => return None,
            Self::Fluent3d => (
                "MIT",
                "Fluent Emoji: Copyright (c) Microsoft Corporation; packaged by LobeHub",
            ),
            Self::Noto => (
                "Apache-2.0 AND MIT",
                "Noto Emoji: Copyright Google LLC; packaged as emoji-data, Copyright (c) Cal Henderson",
            ),
        };
        Some(Licence {
            part: format!("images in the style {}", self.name()),
            source: format!("npm {}", self.package().map_or("", |package| package.spec)),
            licence: licence.to_owned(),
            notice: format!("{notice}; changed: composed over white, perhaps resized"),
        })
    }
}

impl FromStr for EmojiStyle {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|style| style.name() == name.trim());
        found.ok_or_else(|| format!("unknown emoji style `{name}`; the styles are {known}"))
    }
}

/// The pictures of a package by their emoji's code points.
pub(super) struct Pictures(BTreeMap<String, Vec<u8>>);

impl Pictures {
    /// Reads an archive as `npm pack` makes it; only what `is_wanted` by its code points.
    pub fn read(path: &Path, package: &EmojiPackage, is_wanted: impl Fn(&str) -> bool) -> Result<Self, DataError> {
        let wrap = || DataError::io(path);
        let mut archive = Archive::new(GzDecoder::new(File::open(path).map_err(wrap())?));
        let mut pictures = BTreeMap::new();
        for entry in archive.entries().map_err(wrap())? {
            let mut entry = entry.map_err(wrap())?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let name = name
                .strip_prefix(package.folder)
                .and_then(|name| name.strip_suffix(package.ending));
            let Some(points) = name.map(plain) else {
                continue;
            };
            if is_wanted(&points) {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).map_err(wrap())?;
                pictures.insert(points, bytes);
            }
        }
        Ok(Self(pictures))
    }

    pub fn get(&self, points: &str) -> Option<&[u8]> {
        self.0.get(points).map(Vec::as_slice)
    }
}

/// An emoji's code points as file names have them: `1f98e`, `1f468-200d-1f33e`; without variation selectors, of which
/// sets differ in whether they write them.
pub(super) fn code_points(emoji: &str) -> String {
    let points = emoji.chars().filter(|point| *point != '\u{FE0F}');
    let points: Vec<String> = points.map(|point| format!("{:04x}", u32::from(point))).collect();
    points.join("-")
}

fn plain(name: &str) -> String {
    name.to_lowercase().replace("-fe0f", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emoji_and_file_names_meet_in_their_code_points() {
        assert_eq!(code_points("\u{2764}\u{FE0F}"), plain("2764-FE0F"));
        assert_eq!(code_points("\u{A9}"), "00a9");
        assert_eq!(code_points("\u{1F9D1}\u{200D}\u{1F33E}"), "1f9d1-200d-1f33e");
    }

    #[test]
    fn styles_are_taken_by_name() {
        for style in EmojiStyle::ALL {
            assert_eq!(style.name().parse(), Ok(style));
        }
        let refused = "openmoji".parse::<EmojiStyle>();
        assert!(refused.is_err_and(|message| message.contains("twemoji, fluent-3d, noto")));
    }
}
