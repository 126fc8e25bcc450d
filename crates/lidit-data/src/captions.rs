//! The captions of a row and the choice among them.

use crate::philox::SampleRng;

/// The captions that a row may be shown with.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Captions {
    /// Those that came with the picture; may be empty texts, none where the column is null.
    pub original: Vec<String>,
    /// Those that a model wrote.
    pub synthetic: Vec<String>,
    /// How often a synthetic one is taken where there are both, from 0 to 1.
    pub synthetic_share: f32,
}

impl Captions {
    /// Whether there is no caption at all.
    pub fn is_empty(&self) -> bool {
        self.original.is_empty() && self.synthetic.is_empty()
    }

    /// All captions, the original ones first; none for rows without.
    pub fn all(&self) -> impl Iterator<Item = &String> {
        self.original.iter().chain(&self.synthetic)
    }

    /// One caption; empty where there is none. A row with both kinds takes one word of `rng` for the kind; then one word
    /// chooses among its alternatives.
    pub fn choose(&self, rng: &mut SampleRng) -> &str {
        let kind = match (self.original.is_empty(), self.synthetic.is_empty()) {
            (false, false) if rng.uniform() < self.synthetic_share => &self.synthetic,
            (false, _) => &self.original,
            (true, _) => &self.synthetic,
        };
        match kind.len() as u32 {
            0 => "",
            len => &kind[rng.below(len) as usize],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::Stream;

    fn taken(captions: &Captions) -> Vec<&str> {
        let chosen = (0..400).map(|id| captions.choose(&mut SampleRng::new(1, 0, id, Stream::Caption)));
        chosen.collect()
    }

    fn captions(original: &[&str], synthetic: &[&str]) -> Captions {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Captions {
            original: owned(original),
            synthetic: owned(synthetic),
            synthetic_share: 0.25,
        }
    }

    #[test]
    fn each_kind_is_taken_in_its_share_and_its_alternatives_evenly() {
        let captions = captions(&["a", "b"], &["s"]);
        let taken = taken(&captions);
        let count = |text| taken.iter().filter(|own| **own == text).count();
        // Expected 100 and 150, standard deviations 8.7 and 9.7.
        assert!((70..130).contains(&count("s")), "{}", count("s"));
        assert!((115..185).contains(&count("a")), "{}", count("a"));
    }

    #[test]
    fn a_row_with_one_kind_takes_it_always_and_a_row_without_is_empty() {
        assert!(taken(&captions(&["a"], &[])).iter().all(|own| *own == "a"));
        assert!(taken(&captions(&[], &["s"])).iter().all(|own| *own == "s"));
        assert!(captions(&[], &[]).is_empty());
        assert_eq!(taken(&captions(&[], &[]))[0], "");
    }
}
