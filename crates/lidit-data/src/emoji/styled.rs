//! The same emoji in several styles, with pairs of style and emoji held out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use emojis::Emoji;
use serde::Serialize;

use super::style::{EmojiStyle, Pictures, code_points};
use super::{EmojiBuild, EmojiGroup, ROWS_PER_GROUP, caption, choose, licences, record};
use crate::error::DataError;
use crate::manifest::Manifest;
use crate::permutation::KeyedPermutation;
use crate::philox::Stream;
use crate::shard_file::{CaptionColumn, MetadataColumn};
use crate::writer::{Record, ShardWriter, WriterConfig};

const HELD_OUT: &str = "held_out.jsonl";
const FORMAT_VERSION: u32 = 1;

/// Emoji in several styles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StyledEmojiBuild {
    /// Which emoji, at which size, under which recipe.
    pub emoji: EmojiBuild,
    /// The styles, and the archive of each that has a package, as `npm pack` makes it.
    pub styles: Vec<(EmojiStyle, Option<PathBuf>)>,
    /// So many pairs of style and emoji are left out of the shards and listed in `held_out.jsonl`.
    pub held_out: usize,
    /// Chooses them; with the same seed a longer list begins with a shorter one.
    pub seed: u64,
}

/// A pair that the shards don't have, although they have its style and its emoji.
#[derive(Serialize)]
struct HeldOut<'a> {
    format_version: u32,
    style: &'a str,
    emoji: &'a str,
    key: &'a str,
    caption: &'a str,
}

/// Writes the emoji in every style that has them. `progress` hears pictures done and pictures in all.
///
/// Captions begin with the style: `a glossy 3d emoji of a red apple, food & drink`; keys are `STYLE/EMOJI`. Rows are
/// sorted by emoji, then by style. A held-out pair is the only one of its emoji.
pub fn build_emoji_styles(
    out: &Path,
    build: &StyledEmojiBuild,
    mut progress: impl FnMut(usize, usize),
) -> Result<Manifest, DataError> {
    let refuse = |key, problem: String| Err(DataError::Config { key, problem });
    let styles: BTreeMap<EmojiStyle, Option<&PathBuf>> = build
        .styles
        .iter()
        .map(|(style, archive)| (*style, archive.as_ref()))
        .collect();
    let chosen = choose(&build.emoji);
    let points: BTreeSet<String> = chosen.iter().map(|(_, emoji, _)| code_points(emoji.as_str())).collect();
    let mut pictures = BTreeMap::new();
    for (style, archive) in &styles {
        match (style.package(), archive) {
            (None, _) => {}
            (Some(package), Some(archive)) => {
                pictures.insert(*style, Pictures::read(archive, package, |name| points.contains(name))?);
            }
            (Some(package), None) => return refuse("styles", format!("{} needs {}", style.name(), package.spec)),
        }
    }
    let mut pairs = Vec::new();
    for (concept, (group, emoji, twemoji)) in chosen.iter().enumerate() {
        for style in styles.keys() {
            let picture = match pictures.get(style) {
                Some(pictures) => pictures.get(&code_points(emoji.as_str())),
                None => Some(&twemoji[..]),
            };
            if let Some(picture) = picture {
                pairs.push(Pair {
                    concept,
                    group: *group,
                    emoji,
                    style: *style,
                    picture,
                });
            }
        }
    }
    if pairs.is_empty() {
        return refuse(
            "styles",
            "leave no emoji: name at least one style and one group".to_owned(),
        );
    }
    let held_out = hold_out(&pairs, build.held_out, build.seed)?;
    let config = WriterConfig {
        name: "emoji".to_owned(),
        recipe: build.emoji.recipe.clone(),
        rows_per_shard: build.emoji.rows_per_shard,
        rows_per_group: ROWS_PER_GROUP,
        captions: CaptionColumn::One,
        metadata: MetadataColumn::LeftOut,
    };
    let mut writer = ShardWriter::create(out, config)?;
    let mut lines = vec![String::new(); held_out.len()];
    for (number, pair) in pairs.iter().enumerate() {
        match held_out.iter().position(|held| *held == number) {
            Some(place) => lines[place] = pair.held_out(out)?,
            None => writer.push(pair.record(build.emoji.size)?)?,
        }
        progress(number + 1, pairs.len());
    }
    if !lines.is_empty() {
        writer.add_list(HELD_OUT, &lines)?;
    }
    let mut terms = licences();
    if !styles.contains_key(&EmojiStyle::Twemoji) {
        terms.retain(|licence| licence.part == "captions");
    }
    terms.extend(styles.keys().filter_map(|style| style.licence()));
    writer.finish(terms)
}

// One emoji in one style.
struct Pair<'a> {
    concept: usize,
    group: EmojiGroup,
    emoji: &'static Emoji,
    style: EmojiStyle,
    picture: &'a [u8],
}

impl Pair<'_> {
    fn key(&self) -> String {
        format!("{}/{}", self.style.name(), self.emoji.as_str())
    }

    fn caption(&self) -> String {
        format!(
            "{} of {}",
            self.style.words(),
            caption::of(self.emoji.name(), self.group)
        )
    }

    fn record(&self, size: Option<u32>) -> Result<Record, DataError> {
        let plain = record(self.group, self.emoji, self.picture, size)?;
        Ok(Record {
            key: self.key(),
            captions: vec![self.caption()],
            ..plain
        })
    }

    fn held_out(&self, out: &Path) -> Result<String, DataError> {
        let line = HeldOut {
            format_version: FORMAT_VERSION,
            style: self.style.name(),
            emoji: self.emoji.as_str(),
            key: &self.key(),
            caption: &self.caption(),
        };
        serde_json::to_string(&line).map_err(|error| DataError::io(out)(error.into()))
    }
}

// Numbers of pairs, in the order of a permutation; never two of an emoji, and never an emoji's only one.
fn hold_out(pairs: &[Pair], count: usize, seed: u64) -> Result<Vec<usize>, DataError> {
    let mut pictures = BTreeMap::<usize, usize>::new();
    for pair in pairs {
        *pictures.entry(pair.concept).or_default() += 1;
    }
    let order = KeyedPermutation::new(seed, Stream::Subset, 0, pairs.len() as u64);
    let mut held = Vec::new();
    let mut concepts = BTreeSet::new();
    for number in (0..pairs.len() as u64).map(|place| order.at(place) as usize) {
        if held.len() == count {
            break;
        }
        let concept = pairs[number].concept;
        if pictures[&concept] > 1 && concepts.insert(concept) {
            held.push(number);
        }
    }
    if held.len() < count {
        let problem = format!("is {count}, but only {} emoji have more than one style", held.len());
        return Err(DataError::Config {
            key: "held-out",
            problem,
        });
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::{self, File};

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use image::{Rgb, RgbImage};

    use super::*;
    use crate::image::to_png;

    fn emoji(limit: Option<usize>) -> EmojiBuild {
        EmojiBuild {
            size: Some(16),
            groups: vec![EmojiGroup::Food],
            limit,
            rows_per_shard: 50,
            recipe: "data build emoji --styles twemoji,noto".into(),
        }
    }

    // A package as npm packs it, with a green picture of each emoji but the first.
    fn write_package(path: &Path) {
        let mut tar = tar::Builder::new(GzEncoder::new(File::create(path).unwrap(), Compression::fast()));
        let picture = to_png(&RgbImage::from_pixel(8, 8, Rgb([0, 200, 0]))).unwrap();
        for (_, emoji, _) in &choose(&emoji(Some(20)))[1..] {
            let mut header = tar::Header::new_gnu();
            header.set_size(picture.len() as u64);
            let name = format!("package/img/google/64/{}.png", code_points(emoji.as_str()));
            tar.append_data(&mut header, name, &picture[..]).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap();
    }

    fn styled(folder: &Path, held_out: usize) -> StyledEmojiBuild {
        StyledEmojiBuild {
            emoji: emoji(Some(20)),
            styles: vec![
                (EmojiStyle::Twemoji, None),
                (EmojiStyle::Noto, Some(folder.join("noto.tgz"))),
            ],
            held_out,
            seed: 7,
        }
    }

    fn lines(out: &Path) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(out.join(HELD_OUT)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn held_out_pairs_are_listed_and_in_no_shard_while_style_and_emoji_are() {
        let folder = tempfile::tempdir().unwrap();
        write_package(&folder.path().join("noto.tgz"));
        let out = folder.path().join("set");
        let manifest = build_emoji_styles(&out, &styled(folder.path(), 5), |_, _| {}).unwrap();
        assert_eq!(manifest.rows, 20 + 19 - 5);
        let set = crate::shard_set::ShardSet::open(&out).unwrap();
        let mut keys = Vec::new();
        let columns = crate::block::Columns {
            caption: Some("key"),
            ..crate::block::Columns::default()
        };
        let ids: Vec<u64> = (0..set.rows()).collect();
        set.read(&ids, columns, |_, row| keys.extend(row.captions)).unwrap();
        let held = lines(&out);
        assert_eq!(held.len(), 5);
        for pair in &held {
            let (key, emoji) = (pair["key"].as_str().unwrap(), pair["emoji"].as_str().unwrap());
            assert!(!keys.iter().any(|found| found == key), "{key}");
            assert_eq!(
                keys.iter()
                    .filter(|found| found.ends_with(&format!("/{emoji}")))
                    .count(),
                1
            );
            let words = if pair["style"] == "noto" {
                "a softly shaded emoji of "
            } else {
                "a flat cartoon emoji of "
            };
            assert!(pair["caption"].as_str().unwrap().starts_with(words), "{pair}");
        }
        let terms: Vec<_> = manifest
            .licences
            .iter()
            .map(|licence| licence.licence.as_str())
            .collect();
        assert!(
            terms.contains(&"CC-BY-4.0") && terms.contains(&"Apache-2.0 AND MIT"),
            "{terms:?}"
        );
        // A longer list begins with the shorter one.
        build_emoji_styles(&out, &styled(folder.path(), 9), |_, _| {}).unwrap();
        assert_eq!(lines(&out)[..5], held);
    }

    #[test]
    fn too_many_pairs_and_a_missing_package_are_named() {
        let folder = tempfile::tempdir().unwrap();
        write_package(&folder.path().join("noto.tgz"));
        let out = folder.path().join("set");
        let message = |build: &StyledEmojiBuild| build_emoji_styles(&out, build, |_, _| {}).unwrap_err().to_string();
        let said = message(&styled(folder.path(), 20));
        assert!(said.contains("held-out is 20, but only 19 emoji"), "{said}");
        let mut build = styled(folder.path(), 0);
        build.styles[1].1 = None;
        assert!(message(&build).contains("noto needs emoji-datasource-google@16.0.0"));
        assert!(!out.exists());
    }
}
