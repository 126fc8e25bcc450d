//! From a Unicode short name to a phrase that a person would write.

use super::EmojiGroup;

/// The caption of an emoji: `a red apple, food & drink`.
pub(super) fn of(name: &str, group: EmojiGroup) -> String {
    format!("{}, {}", phrase(name), group.label())
}

// Names that take no article: uncountable things, states, proper names.
const BARE: &[&str] = &[
    "Capricorn",
    "Cancer",
    "Gemini",
    "Leo",
    "Libra",
    "Scorpio",
    "Tokyo tower",
    "Virgo",
    "ZZZ",
    "Aquarius",
    "Aries",
    "Ophiuchus",
    "Pisces",
    "Sagittarius",
    "Taurus",
    "badminton",
    "bacon",
    "baggage claim",
    "baguette bread",
    "bowling",
    "bread",
    "breast-feeding",
    "broccoli",
    "bubble tea",
    "building construction",
    "butter",
    "camping",
    "candy",
    "canned food",
    "children crossing",
    "construction",
    "cooked rice",
    "cooking",
    "copyright",
    "currency exchange",
    "curry rice",
    "custard",
    "dango",
    "dashing away",
    "divide",
    "dna",
    "field hockey",
    "fire",
    "fog",
    "fondue",
    "garlic",
    "high voltage",
    "horse racing",
    "ice",
    "ice cream",
    "ice hockey",
    "infinity",
    "information",
    "lacrosse",
    "left luggage",
    "luggage",
    "mate",
    "meat on bone",
    "minus",
    "mobile phone off",
    "money with wings",
    "mount fuji",
    "multiply",
    "nail polish",
    "non-potable water",
    "oden",
    "om",
    "palms up together",
    "ping pong",
    "plus",
    "popcorn",
    "potable water",
    "pouring liquid",
    "prohibited",
    "radioactive",
    "registered",
    "rolling on the floor laughing",
    "sake",
    "salt",
    "shaved ice",
    "soap",
    "soft ice cream",
    "spaghetti",
    "sushi",
    "tennis",
    "thumbs down",
    "thumbs up",
    "vibration mode",
    "wireless",
    "wood",
    "yarn",
    "yin yang",
];

// Names that are no noun.
const REWORDED: &[(&str, &str)] = &[
    ("Statue of Liberty", "the Statue of Liberty"),
    ("dizzy", "a dizzy star"),
    ("locked", "a closed padlock"),
    ("locked with key", "a closed padlock with a key"),
    ("locked with pen", "a closed padlock with a pen"),
    ("milky way", "the milky way"),
    ("star-struck", "a star-struck face"),
    ("unlocked", "an open padlock"),
];

fn phrase(name: &str) -> String {
    let name = name.replace(['\u{201C}', '\u{201D}'], "\"").replace('\u{2019}', "'");
    if let Some((_, phrase)) = REWORDED.iter().find(|(bare, _)| *bare == name) {
        return (*phrase).to_owned();
    }
    match name.split_once(": ") {
        Some((who, "bald")) => format!("a bald {who}"),
        Some((who, "beard")) => format!("a {who} with a beard"),
        Some((who, hair)) if hair.ends_with("hair") => format!("a {who} with {hair}"),
        Some((what, people)) => format!("{}: {}", with_article(what), listed(people)),
        None => with_article(&name),
    }
}

fn listed(people: &str) -> String {
    let people: Vec<String> = people.split(", ").map(with_article).collect();
    match people.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        _ => people.concat(),
    }
}

fn with_article(name: &str) -> String {
    if takes_none(name) {
        name.to_owned()
    } else if sounds_like_a_vowel(name) {
        format!("an {name}")
    } else {
        format!("a {name}")
    }
}

fn takes_none(name: &str) -> bool {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    let is_time = name.ends_with("o'clock") || name.ends_with("-thirty");
    BARE.contains(&name) || is_time || starts(&["input ", "men ", "no ", "people ", "women "]) || is_plural(name)
}

// The last word before one that goes on about it decides: "grapes", "folded hands", "women with bunny ears", but "bus".
fn is_plural(name: &str) -> bool {
    let joints = [
        " with ",
        " of ",
        " in ",
        " on ",
        " and ",
        " at ",
        " over ",
        " showing ",
        " holding ",
        " lifting ",
    ];
    let end = joints.iter().filter_map(|word| name.find(word)).min();
    let head = &name[..end.unwrap_or(name.len())];
    let singular = ["ss", "us", "fleur-de-lis", "rhinoceros"];
    head.ends_with('s') && !singular.iter().any(|ending| head.ends_with(ending))
}

fn sounds_like_a_vowel(name: &str) -> bool {
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    if starts(&["NG ", "SOS ", "hour", "x-ray"]) {
        return true;
    }
    let vowel = name.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']);
    vowel && !starts(&["euro", "ewe", "one", "unicorn", "uni", "Euro"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_phrases() {
        let cases = [
            ("red apple", "a red apple"),
            ("avocado", "an avocado"),
            ("skis", "skis"),
            ("globe showing Americas", "a globe showing Americas"),
            ("grapes", "grapes"),
            ("bread", "bread"),
            ("bus", "a bus"),
            ("unicorn", "a unicorn"),
            ("hourglass done", "an hourglass done"),
            ("women with bunny ears", "women with bunny ears"),
            ("face with tears of joy", "a face with tears of joy"),
            ("person: red hair", "a person with red hair"),
            ("woman: bald", "a bald woman"),
            ("family: man, woman, girl", "a family: a man, a woman and a girl"),
            ("twelve o\u{2019}clock", "twelve o'clock"),
            ("Japanese \u{201C}secret\u{201D} button", "a Japanese \"secret\" button"),
            ("OK hand", "an OK hand"),
        ];
        for (name, expected) in cases {
            assert_eq!(phrase(name), expected);
        }
    }

    #[test]
    fn a_caption_names_style_thing_and_group() {
        let caption = of("red apple", EmojiGroup::Food);
        assert_eq!(caption, "a red apple, food & drink");
    }
}
