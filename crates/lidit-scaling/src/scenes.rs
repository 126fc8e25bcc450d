//! Scenes: a world of drawn objects with captions and an exact judge.
//!
//! [`World`] draws and describes scenes from a seed and a row's number. [`see`] reads a picture and says what is in it.
//! [`Suite`] writes prompts with the [`Fact`]s they state, [`Verdict`] judges a picture made from one, and [`Scores`]
//! gathers verdicts into a table.

mod arrange;
mod caption;
mod category;
mod colour;
mod draw;
mod draws;
mod fact;
mod held_out;
mod judge;
mod object;
mod prompt;
mod scene;
mod score;
mod scores;
mod shape;
mod sight;
mod suite;
mod texture;
mod trial;
mod world;

pub use self::caption::Caption;
pub use self::category::Category;
pub use self::colour::{Background, Colour};
pub use self::fact::Fact;
pub use self::held_out::HeldOut;
pub use self::judge::see;
pub use self::object::{Description, Object, Place, Relation, Size};
pub use self::prompt::{Prompt, Verdict, quartile};
pub use self::scene::Scene;
pub use self::score::Score;
pub use self::scores::{CategoryScore, QuartileScore, Scores, Split};
pub use self::shape::Shape;
pub use self::sight::{Seen, Sight};
pub use self::suite::Suite;
pub use self::texture::Texture;
pub use self::trial::{Damage, Tally, TrialError, trial};
pub use self::world::{Row, World, WorldError};
