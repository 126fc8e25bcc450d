//! What a caption can state, and whether it holds.

use serde::{Deserialize, Serialize};

use super::colour::Background;
use super::object::{Description, Place, Relation};
use super::sight::Sight;

/// A statement about a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum Fact {
    /// At least one object fits.
    Exists {
        /// What it must fit.
        what: Description,
    },
    /// So many objects fit, no more and no fewer.
    Count {
        /// What they must fit.
        what: Description,
        /// How many.
        count: usize,
    },
    /// One object lies so to another.
    Relation {
        /// What the one must fit.
        subject: Description,
        /// How it lies.
        relation: Relation,
        /// What the other must fit.
        object: Description,
    },
    /// An object that fits has its middle there.
    Placed {
        /// What it must fit.
        what: Description,
        /// Where.
        place: Place,
    },
    /// The background is of this colour.
    Background {
        /// The colour.
        background: Background,
    },
}

impl Fact {
    /// Whether it is so in what was seen. What the judge could not tell fits no description.
    pub fn holds(&self, sight: &Sight) -> bool {
        match self {
            Self::Exists { what } => sight.fitting(*what).next().is_some(),
            Self::Count { what, count } => sight.fitting(*what).count() == *count,
            Self::Relation {
                subject,
                relation,
                object,
            } => sight.fitting(*subject).any(|a| {
                sight
                    .fitting(*object)
                    .any(|b| !std::ptr::eq(a, b) && Relation::of(a.centre, b.centre) == *relation)
            }),
            Self::Placed { what, place } => sight.fitting(*what).any(|seen| Place::of(seen.centre) == *place),
            Self::Background { background } => sight.background == Some(*background),
        }
    }
}
