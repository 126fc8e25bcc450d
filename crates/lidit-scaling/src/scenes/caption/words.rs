//! Descriptions, places and relations to words.

use super::super::draws::Draws;
use super::super::object::{Description, Place, Relation, Size};
use super::super::texture::Texture;

const NUMBERS: [&str; 8] = ["one", "two", "three", "four", "five", "six", "seven", "eight"];
const ANY_NOUN: [(&str, &str); 3] = [("object", "objects"), ("shape", "shapes"), ("thing", "things")];

// How often a texture follows its noun ("with stripes"), a colour does ("in red"), a number is in digits.
const TEXTURE_BEHIND: f32 = 0.35;
const COLOUR_BEHIND: f32 = 0.12;
const DIGITS: f32 = 0.15;

/// "a striped red circle", "two circles in red with stripes": one noun phrase, its words and their order drawn.
pub fn phrase(what: Description, count: usize, draws: &mut Draws) -> String {
    let mut before = Vec::new();
    let mut behind = Vec::new();
    if let Some(colour) = what.colour {
        let word = draws.pick(colour.words());
        if draws.happens(COLOUR_BEHIND) {
            behind.push(format!("in {word}"));
        } else {
            before.push(word);
        }
    }
    if let Some(texture) = what.texture {
        let (words, phrases) = texture_words(texture);
        if !phrases.is_empty() && draws.happens(TEXTURE_BEHIND) {
            behind.push(draws.pick(phrases).to_owned());
        } else {
            let place = draws.below(before.len() + 1);
            before.insert(place, draws.pick(words));
        }
    }
    if let Some(size) = what.size {
        before.insert(0, draws.pick(size_words(size)));
    }
    let nouns = what.shape.map_or(&ANY_NOUN[..], |shape| shape.words());
    let (one, several) = draws.pick(nouns);
    before.push(if count == 1 { one } else { several });
    let mut words = vec![number(count, before[0], draws)];
    words.extend(before.into_iter().map(str::to_owned));
    words.extend(behind);
    words.join(" ")
}

fn number(count: usize, next: &str, draws: &mut Draws) -> String {
    match count {
        1 if next.starts_with(['a', 'e', 'i', 'o', 'u']) => "an".to_owned(),
        1 => "a".to_owned(),
        _ if draws.happens(DIGITS) => count.to_string(),
        _ => NUMBERS[count.min(NUMBERS.len()) - 1].to_owned(),
    }
}

/// "a, b and c", its commas and the word for "and" drawn.
pub fn listing(phrases: &[String], draws: &mut Draws) -> String {
    let joint = draws.pick(&[" and ", " and ", ", and ", ", plus ", " along with ", " and also "]);
    match phrases {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{}{joint}{last}", first.join(", ")),
    }
}

pub fn relation_words(relation: Relation, draws: &mut Draws) -> &'static str {
    draws.pick(match relation {
        Relation::LeftOf => &["to the left of", "left of", "on the left of"],
        Relation::RightOf => &["to the right of", "right of", "on the right of"],
        Relation::Above => &["above", "above", "over"],
        Relation::Below => &["below", "below", "under"],
    })
}

pub fn place_words(place: Place, draws: &mut Draws) -> &'static str {
    draws.pick(match place {
        Place::TopLeft => &["in the top left", "in the top left corner", "at the upper left"],
        Place::Top => &["at the top centre", "in the top middle", "at the upper centre"],
        Place::TopRight => &["in the top right", "in the top right corner", "at the upper right"],
        Place::Left => &["at the centre left", "in the middle left", "at the middle left"],
        Place::Centre => &["in the centre", "in the middle", "at the centre"],
        Place::Right => &["at the centre right", "in the middle right", "at the middle right"],
        Place::BottomLeft => &["in the bottom left", "in the bottom left corner", "at the lower left"],
        Place::Bottom => &["at the bottom centre", "in the bottom middle", "at the lower centre"],
        Place::BottomRight => &[
            "in the bottom right",
            "in the bottom right corner",
            "at the lower right",
        ],
    })
}

fn size_words(size: Size) -> &'static [&'static str] {
    match size {
        Size::Small => &["small", "little"],
        Size::Large => &["large", "big"],
    }
}

// Before the noun and behind it.
fn texture_words(texture: Texture) -> (&'static [&'static str], &'static [&'static str]) {
    match texture {
        Texture::Plain => (&["plain", "solid"], &[]),
        Texture::Striped => (&["striped", "stripy"], &["with stripes", "with a striped pattern"]),
        Texture::Dotted => (&["dotted", "spotted"], &["with dots", "with a dotted pattern"]),
        Texture::Checkered => (&["checkered", "checked"], &["with checks", "with a checkered pattern"]),
    }
}
