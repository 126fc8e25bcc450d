//! A scene: one to eight objects on a background.

use serde::{Deserialize, Serialize};

use super::colour::Background;
use super::object::Object;
use super::sight::{Seen, Sight};

/// Objects on a background.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// What they stand on.
    pub background: Background,
    /// The objects; none touches another.
    pub objects: Vec<Object>,
}

impl Scene {
    /// What is to be seen in it, known rather than judged.
    pub fn sight(&self) -> Sight {
        let seen = |object: &Object| Seen {
            shape: Some(object.shape),
            colour: Some(object.colour),
            texture: Some(object.texture),
            centre: object.centre,
            side: object.side,
        };
        Sight {
            background: Some(self.background),
            objects: self.objects.iter().map(seen).collect(),
        }
    }
}
