//! What is said of a scene.

use serde::{Deserialize, Serialize};

use super::draws::Draws;
use super::fact::Fact;
use super::scene::Scene;

/// A text and what it states. All of it holds; not all that holds is stated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Caption {
    /// The text.
    pub text: String,
    /// What it states, in order of mention.
    pub facts: Vec<Fact>,
}

impl Caption {
    pub(crate) fn of(_scene: &Scene, _draws: &mut Draws) -> Self {
        Self {
            text: String::new(),
            facts: vec![],
        }
    }
}
