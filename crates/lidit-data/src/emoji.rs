//! The emoji set: Twemoji pictures with captions from their Unicode names and groups.

mod caption;
mod style;
mod styled;

use std::path::Path;
use std::str::FromStr;

use emojis::{Emoji, Group};
use image::RgbImage;
use twemoji_assets::png::PngTwemojiAsset;

pub use self::style::{EmojiPackage, EmojiStyle};
pub use self::styled::{StyledEmojiBuild, build_emoji_styles};

use crate::error::DataError;
use crate::image::{Limits, centre_square, decode, to_png};
use crate::manifest::{Licence, Manifest};
use crate::shard_file::{CaptionColumn, MetadataColumn};
use crate::writer::{Record, ShardWriter, WriterConfig};

// A few dozen small pictures make a group of some hundred kilobytes: cheap to read for a handful of rows.
const ROWS_PER_GROUP: usize = 128;

/// A group of emoji, as Unicode sorts them. Flags are left out of the set: they show text-like detail and no concept
/// that a caption could say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmojiGroup {
    /// Faces, hearts.
    Smileys,
    /// People, hands, families.
    People,
    /// Animals and plants.
    Animals,
    /// Food, drink, dishes.
    Food,
    /// Vehicles, buildings, sky and weather.
    Travel,
    /// Sport, games, arts.
    Activities,
    /// Clothes, tools, office.
    Objects,
    /// Signs, arrows, shapes; keycaps are left out.
    Symbols,
}

impl EmojiGroup {
    /// Every group, in Unicode's order.
    pub const ALL: [Self; 8] = [
        Self::Smileys,
        Self::People,
        Self::Animals,
        Self::Food,
        Self::Travel,
        Self::Activities,
        Self::Objects,
        Self::Symbols,
    ];

    /// The name that `--groups` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Smileys => "smileys",
            Self::People => "people",
            Self::Animals => "animals",
            Self::Food => "food",
            Self::Travel => "travel",
            Self::Activities => "activities",
            Self::Objects => "objects",
            Self::Symbols => "symbols",
        }
    }

    /// What captions call it: Unicode's name of the group.
    pub fn label(self) -> &'static str {
        match self {
            Self::Smileys => "smileys & emotion",
            Self::People => "people & body",
            Self::Animals => "animals & nature",
            Self::Food => "food & drink",
            Self::Travel => "travel & places",
            Self::Activities => "activities",
            Self::Objects => "objects",
            Self::Symbols => "symbols",
        }
    }

    fn unicode(self) -> Group {
        match self {
            Self::Smileys => Group::SmileysAndEmotion,
            Self::People => Group::PeopleAndBody,
            Self::Animals => Group::AnimalsAndNature,
            Self::Food => Group::FoodAndDrink,
            Self::Travel => Group::TravelAndPlaces,
            Self::Activities => Group::Activities,
            Self::Objects => Group::Objects,
            Self::Symbols => Group::Symbols,
        }
    }
}

impl FromStr for EmojiGroup {
    type Err = String;

    /// Takes the short name or Unicode's, as `food` or `Food & Drink`.
    fn from_str(name: &str) -> Result<Self, String> {
        let lower = name.trim().to_lowercase();
        let known = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|group| group.name() == lower || group.label() == lower)
            .ok_or_else(|| format!("unknown emoji group `{name}`; the groups are {known}"))
    }
}

/// What to build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmojiBuild {
    /// Side in pixels to resize to; Twemoji's own 72 without it.
    pub size: Option<u32>,
    /// The groups to take, in Unicode's order whatever the order here.
    pub groups: Vec<EmojiGroup>,
    /// At most this many emoji, evenly spaced among the groups' emoji; all without it.
    pub limit: Option<usize>,
    /// Rows of every shard but the last.
    pub rows_per_shard: usize,
    /// How the manifest says it was built: the command's words after `lidit`.
    pub recipe: String,
}

/// Writes the emoji set as shards with a manifest. `progress` hears rows done and rows in all.
///
/// Pictures are RGB PNG, alpha composed over white. One picture a concept: of emoji with skin tones only the default,
/// yellow one, since the toned variants would fill half of the set with the same hands and people.
pub fn build_emoji(
    out: &Path,
    build: &EmojiBuild,
    mut progress: impl FnMut(usize, usize),
) -> Result<Manifest, DataError> {
    let config = WriterConfig {
        name: "emoji".to_owned(),
        recipe: build.recipe.clone(),
        rows_per_shard: build.rows_per_shard,
        rows_per_group: ROWS_PER_GROUP,
        captions: CaptionColumn::One,
        metadata: MetadataColumn::LeftOut,
    };
    let mut writer = ShardWriter::create(out, config)?;
    let chosen = choose(build);
    if chosen.is_empty() {
        let problem = "leaves no emoji: name at least one group".to_owned();
        return Err(DataError::Config { key: "groups", problem });
    }
    for (done, (group, emoji, asset)) in chosen.iter().enumerate() {
        writer.push(record(*group, emoji, asset, build.size)?)?;
        progress(done + 1, chosen.len());
    }
    writer.finish(licences())
}

type Chosen = (EmojiGroup, &'static Emoji, &'static PngTwemojiAsset);

fn choose(build: &EmojiBuild) -> Vec<Chosen> {
    let groups = EmojiGroup::ALL.into_iter().filter(|group| build.groups.contains(group));
    let all: Vec<Chosen> = groups.flat_map(pictured).collect();
    match build.limit.filter(|limit| *limit < all.len()) {
        Some(limit) => (0..limit).map(|index| all[index * all.len() / limit]).collect(),
        None => all,
    }
}

// Emoji that are newer than the pictures have none and are left out.
fn pictured(group: EmojiGroup) -> Vec<Chosen> {
    let emoji = group.unicode().emojis().filter(|emoji| !is_keycap(emoji));
    emoji
        .filter_map(|emoji| Some((group, emoji, picture(emoji.as_str())?)))
        .collect()
}

fn is_keycap(emoji: &Emoji) -> bool {
    emoji.name().starts_with("keycap: ")
}

// Twemoji leaves the variation selector out of most of its names.
fn picture(emoji: &str) -> Option<&'static PngTwemojiAsset> {
    PngTwemojiAsset::from_emoji(emoji).or_else(|| PngTwemojiAsset::from_emoji(&emoji.replace('\u{FE0F}', "")))
}

fn record(group: EmojiGroup, emoji: &Emoji, picture: &[u8], size: Option<u32>) -> Result<Record, DataError> {
    let wrap = |reason| DataError::Picture {
        what: format!("emoji {} ({})", emoji.as_str(), emoji.name()),
        reason,
    };
    let picture: RgbImage = decode(picture, &Limits::new(1)).map_err(wrap)?;
    let picture = match size {
        Some(side) => centre_square(picture, side),
        None => picture,
    };
    Ok(Record {
        key: emoji.as_str().to_owned(),
        image: to_png(&picture).map_err(wrap)?,
        captions: vec![caption::of(emoji.name(), group)],
        metadata: None,
        width: picture.width(),
        height: picture.height(),
    })
}

fn licences() -> Vec<Licence> {
    let licence = |part: &str, source: &str, licence: &str, notice: &str| Licence {
        part: part.to_owned(),
        source: source.to_owned(),
        licence: licence.to_owned(),
        notice: notice.to_owned(),
    };
    vec![
        licence(
            "images",
            "Twemoji 17, through crate twemoji-assets 1.5",
            "CC-BY-4.0",
            "Twemoji graphics: Copyright 2020 Twitter, Inc and other contributors, licensed under CC-BY 4.0 \
             (https://creativecommons.org/licenses/by/4.0/); changed: composed over white, perhaps resized",
        ),
        licence(
            "image packaging",
            "crate twemoji-assets 1.5",
            "MIT",
            "Copyright (c) 2023 Tim 'Piepmatz' Hesse",
        ),
        licence(
            "captions",
            "Unicode CLDR short names, through crate emojis 0.9",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Names: Copyright Unicode, Inc., Unicode License v3; changed: made into phrases",
        ),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::DataConfig;
    use crate::dataset::Dataset;
    use crate::test_shards::config;

    fn build(groups: &[EmojiGroup], limit: Option<usize>) -> EmojiBuild {
        EmojiBuild {
            size: Some(16),
            groups: groups.to_vec(),
            limit,
            rows_per_shard: 10,
            recipe: "data build emoji".into(),
        }
    }

    #[test]
    fn a_part_of_the_set_is_built_read_back_and_says_its_licences() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("emoji");
        let mut heard = Vec::new();
        let manifest = build_emoji(&out, &build(&EmojiGroup::ALL, Some(24)), |done, total| {
            heard.push((done, total));
        })
        .unwrap();
        assert_eq!((manifest.rows, manifest.shards.len()), (24, 3));
        assert_eq!(heard.last(), Some(&(24, 24)));
        assert!(manifest.licences.iter().any(|licence| licence.licence == "CC-BY-4.0"));
        let config = DataConfig {
            image_size: 16,
            ..config(&out)
        };
        let dataset = Dataset::open(&config).unwrap();
        let sample = dataset.sample(0).unwrap();
        assert_eq!(sample.captions.original, ["a grinning face, smileys & emotion"]);
        // The corner is transparent, so white; the middle of the face is Twemoji's yellow.
        assert_eq!(sample.pixels[..3], [255, 255, 255]);
        let middle = &sample.pixels[(4 * 16 + 8) * 3..][..3];
        assert!(middle[0] > 200 && middle[1] > 150 && middle[2] < 130, "{middle:?}");
    }

    #[test]
    fn the_same_flags_give_the_bytes_that_they_always_gave() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/fixtures/emoji");
        let manifest = Manifest::read(&fixture.join("manifest.json")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("emoji");
        let mut wanted = build(&EmojiGroup::ALL, Some(24));
        wanted.recipe.clone_from(&manifest.recipe);
        assert_eq!(build_emoji(&out, &wanted, |_, _| {}).unwrap(), manifest);
    }

    #[test]
    fn flags_keycaps_and_skin_tones_are_left_out_and_captions_differ() {
        let chosen = choose(&build(&EmojiGroup::ALL, None));
        assert!((1550..1700).contains(&chosen.len()), "{}", chosen.len());
        for (_, emoji, _) in &chosen {
            assert!(
                emoji.group() != Group::Flags && !emoji.name().contains("keycap"),
                "{}",
                emoji.name()
            );
            assert!(!emoji.name().contains("skin tone"), "{}", emoji.name());
        }
        let captions: BTreeSet<String> = chosen
            .iter()
            .map(|(group, emoji, _)| caption::of(emoji.name(), *group))
            .collect();
        assert_eq!(captions.len(), chosen.len());
    }

    #[test]
    fn groups_are_taken_by_short_and_by_unicode_name() {
        let food = choose(&build(&[EmojiGroup::Food], None));
        assert!(food.iter().all(|(_, emoji, _)| emoji.group() == Group::FoodAndDrink));
        assert_eq!("food".parse(), Ok(EmojiGroup::Food));
        assert_eq!("Food & Drink".parse(), Ok(EmojiGroup::Food));
        assert!(
            "foods"
                .parse::<EmojiGroup>()
                .unwrap_err()
                .contains("smileys, people, animals, food")
        );
    }
}
