//! What is said of a scene: captions of varied words, order and detail that state only what holds.

mod words;

use serde::{Deserialize, Serialize};

pub(super) use self::words::{listing, phrase, place_words, relation_words};

use super::colour::Background;
use super::draws::Draws;
use super::fact::Fact;
use super::object::{Description, Object, Place, Relation, Size};
use super::scene::Scene;
use super::sight::Sight;
use super::texture::Texture;

/// A text and what it states. All of it holds; not all that holds is stated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Caption {
    /// The text.
    pub text: String,
    /// What it states, in order of mention.
    pub facts: Vec<Fact>,
}

impl Caption {
    /// Says every object of the scene, in any order, with more or less detail.
    pub(crate) fn of(scene: &Scene, draws: &mut Draws) -> Self {
        let sight = scene.sight();
        let mut groups = groups(scene);
        draws.shuffle(&mut groups);
        let (mut facts, mut mentions) = (Vec::new(), Vec::new());
        // Related objects come last: of "a circle left of a square and a star" it would be unclear what the star is to
        // the circle.
        let (rest, relation) = match &groups[..] {
            [rest @ .., a, b] if draws.happens(RELATED) => match related(a, b, &sight, draws) {
                Some(relation) => (rest, Some(relation)),
                None => (&groups[..], None),
            },
            all => (all, None),
        };
        for group in rest {
            let what = group.describe(&sight, draws);
            let mut text = phrase(what, group.count, draws);
            facts.push(match group.count {
                1 => Fact::Exists { what },
                count => Fact::Count { what, count },
            });
            if let Some(place) = clear_place(group)
                && draws.happens(PLACED)
            {
                text = format!("{text} {}", place_words(place, draws));
                facts.push(Fact::Placed { what, place });
            }
            mentions.push(text);
        }
        if let Some((text, fact)) = relation {
            mentions.push(text);
            facts.push(fact);
        }
        let background = draws.happens(GROUNDED).then_some(scene.background);
        facts.extend(background.map(|background| Fact::Background { background }));
        let text = sentence(&listing(&mentions, draws), groups[0].count, background, draws);
        Self { text, facts }
    }
}

/// A caption around what it lists: words before and behind that state nothing but, where it is given, the background.
/// `count` is how many objects the list begins with.
pub(super) fn sentence(list: &str, count: usize, background: Option<Background>, draws: &mut Draws) -> String {
    let there = if count == 1 { "there is " } else { "there are " };
    let before = draws.pick(&[
        "",
        "",
        "",
        "",
        "a photo of ",
        "a picture of ",
        "an image of ",
        "a drawing of ",
        "an illustration of ",
        "this picture shows ",
        "an image showing ",
        "please draw ",
        "we see ",
        there,
    ]);
    let behind = match background {
        Some(background) => draws
            .pick(&[
                "on a GROUND background",
                "against a GROUND background",
                "in front of a GROUND background",
            ])
            .replace("GROUND", background.name()),
        None => draws
            .pick(&[
                "",
                "",
                "",
                "",
                "on a plain background",
                "as flat shapes",
                "in simple style",
                "drawn cleanly",
            ])
            .to_owned(),
    };
    let joint = match (
        behind.is_empty(),
        list.contains(" in ") || list.contains(" at ") || draws.happens(0.3),
    ) {
        (true, _) => "",
        (false, true) => ", ",
        (false, false) => " ",
    };
    let text = format!("{before}{list}{joint}{behind}");
    if draws.happens(CAPITAL) {
        let (first, others) = text.split_at(1);
        format!("{}{others}.", first.to_uppercase())
    } else {
        text
    }
}

/// Objects alike: they are named together.
struct Group {
    object: Object,
    count: usize,
    /// Where it is clearly one or the other, and the picture has few enough objects for both.
    size: Option<Size>,
}

// In a scene no two groups share colour and shape.
fn groups(scene: &Scene) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for &object in &scene.objects {
        let same = |group: &&mut Group| (group.object.colour, group.object.shape) == (object.colour, object.shape);
        match groups.iter_mut().find(same) {
            Some(group) => group.count += 1,
            None => groups.push(Group {
                object,
                count: 1,
                size: clear_size(object.side).filter(|_| scene.objects.len() <= SIZED_OBJECTS),
            }),
        }
    }
    groups
}

impl Group {
    fn full(&self) -> Description {
        Description {
            colour: Some(self.object.colour),
            shape: Some(self.object.shape),
            ..Description::default()
        }
    }

    // Some of what holds: always enough to mean these objects and no others.
    fn describe(&self, sight: &Sight, draws: &mut Draws) -> Description {
        let mut what = self.full();
        let marked = self.object.texture != Texture::Plain;
        let said = draws.happens(if marked { SAYS_MARKED } else { SAYS_PLAIN });
        what.texture = said.then_some(self.object.texture);
        match draws.uniform() {
            at if at < NO_COLOUR => what.colour = None,
            at if at < NO_COLOUR + NO_SHAPE => what.shape = None,
            at if at < NO_COLOUR + NO_SHAPE + NEITHER && marked => {
                what = Description {
                    texture: Some(self.object.texture),
                    ..Description::default()
                };
            }
            _ => {}
        }
        what.size = self.size.filter(|_| draws.happens(SAYS_SIZE));
        if sight.fitting(what).count() != self.count {
            what = Description {
                texture: what.texture,
                size: what.size,
                ..self.full()
            };
        }
        what
    }
}

fn related(a: &Group, b: &Group, sight: &Sight, draws: &mut Draws) -> Option<(String, Fact)> {
    let relation = clear_relation(&a.object, &b.object).filter(|_| a.count == 1 && b.count == 1)?;
    let (subject, object) = (a.describe(sight, draws), b.describe(sight, draws));
    let [first, second] = [subject, object].map(|what| phrase(what, 1, draws));
    let text = format!("{first} {} {second}", relation_words(relation, draws));
    Some((
        text,
        Fact::Relation {
            subject,
            relation,
            object,
        },
    ))
}

/// The relation of two objects where nobody would call it another.
pub(super) fn clear_relation(a: &Object, b: &Object) -> Option<Relation> {
    let [dx, dy] = [0, 1].map(|axis| (a.centre[axis] - b.centre[axis]).abs());
    (dx.max(dy) >= CLEAR_RATIO * dx.min(dy)).then(|| Relation::of(a.centre, b.centre))
}

/// The place of an object that is well inside it.
pub(super) fn place_of(object: &Object) -> Option<Place> {
    let clear = |at: f32| Place::CUTS.iter().all(|cut| (at - cut).abs() >= CLEAR_PLACE);
    object.centre.into_iter().all(clear).then(|| Place::of(object.centre))
}

fn clear_place(group: &Group) -> Option<Place> {
    place_of(&group.object).filter(|_| group.count == 1)
}

fn clear_size(side: f32) -> Option<Size> {
    ((side - Size::LIMIT).abs() >= CLEAR_SIZE).then(|| Size::of(side))
}

// How often a caption relates its first two objects, names an object's place, names the background; begins with a
// capital and ends with a full stop.
const RELATED: f32 = 0.4;
const PLACED: f32 = 0.25;
const GROUNDED: f32 = 0.2;
const CAPITAL: f32 = 0.3;
// How often a mention leaves out colour, shape, or of marked objects both; and says a texture or a size. Prompts of
// every category are worded as some captions are.
const NO_COLOUR: f32 = 0.2;
const NO_SHAPE: f32 = 0.1;
const NEITHER: f32 = 0.1;
const SAYS_PLAIN: f32 = 0.1;
const SAYS_MARKED: f32 = 0.75;
const SAYS_SIZE: f32 = 0.4;
// Size is said of pictures with so few objects.
const SIZED_OBJECTS: usize = 2;
// How far from its limits something must be to be said.
const CLEAR_RATIO: f32 = 1.5;
const CLEAR_PLACE: f32 = 0.04;
const CLEAR_SIZE: f32 = 0.04;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::held_out::HeldOut;
    use super::super::world::{Row, World};
    use super::*;

    fn rows(size: u32, count: u64) -> Vec<(World, Row)> {
        let world = World::new(size, 1..=World::most_objects(size), HeldOut::draw(8, 1).unwrap()).unwrap();
        (0..count).map(|index| (world.clone(), world.row(5, index))).collect()
    }

    #[test]
    fn a_caption_states_only_what_holds_and_mentions_every_object() {
        for (_, row) in rows(64, 400).iter().chain(&rows(32, 400)) {
            let sight = row.scene.sight();
            for caption in &row.captions {
                for fact in &caption.facts {
                    assert!(fact.holds(&sight), "{}: {fact:?}", caption.text);
                }
                let mentioned: usize = caption
                    .facts
                    .iter()
                    .map(|fact| match fact {
                        Fact::Exists { .. } => 1,
                        Fact::Count { count, .. } => *count,
                        Fact::Relation { .. } => 2,
                        Fact::Placed { .. } | Fact::Background { .. } => 0,
                    })
                    .sum();
                assert_eq!(mentioned, row.scene.objects.len(), "{}", caption.text);
            }
        }
    }

    #[test]
    fn what_is_held_out_is_neither_drawn_nor_said() {
        for (world, row) in rows(64, 400) {
            for object in &row.scene.objects {
                assert!(!world.held_out().contains(object.colour, object.shape));
            }
        }
    }

    #[test]
    fn an_object_is_mentioned_early_as_often_as_late() {
        let mut early = 0;
        let mut all = 0;
        for (_, row) in rows(64, 900) {
            let objects = &row.scene.objects;
            let first = (objects[0].colour, objects[0].shape);
            let said: Vec<_> = row.captions[0]
                .facts
                .iter()
                .filter_map(|fact| match fact {
                    Fact::Exists { what } => Some((what.colour?, what.shape?)),
                    _ => None,
                })
                .collect();
            if let Some(at) = said.iter().position(|pair| *pair == first).filter(|_| said.len() >= 2) {
                all += 1;
                early += usize::from(2 * at < said.len() - 1) * 2 + usize::from(2 * at == said.len() - 1);
            }
        }
        // Twice a mean of a half, four standard deviations.
        let spread = 4.0 * f64::from(all as u32).sqrt();
        assert!(
            all > 200 && (f64::from(early as u32) - f64::from(all as u32)).abs() < spread,
            "{early} of {all}"
        );
    }

    #[test]
    fn captions_are_varied() {
        let rows = rows(64, 300);
        let texts = rows
            .iter()
            .flat_map(|(_, row)| &row.captions)
            .map(|caption| &caption.text);
        let mut texts: Vec<&String> = texts.collect();
        let all = texts.len();
        texts.sort();
        texts.dedup();
        assert!(texts.len() * 100 > all * 98, "{} of {all} differ", texts.len());
        let words = [
            "photo of",
            "background",
            "to the left of",
            "three ",
            "turquoise",
            "in the bottom",
            "small",
            "with dots",
        ];
        for word in words {
            assert!(texts.iter().any(|text| text.contains(word)), "nobody says `{word}`");
        }
    }
}
