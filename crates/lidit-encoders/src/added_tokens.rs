//! Tokens that stand beside the model's vocabulary and are found whole in a text.

use std::collections::HashMap;
use std::ops::Range;

/// A token that is found whole, before the model sees the text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the five switches of Hugging Face's added tokens, by their names"
)]
pub struct AddedToken {
    /// Row of the embedding.
    pub id: u32,
    /// What is found.
    pub text: String,
    /// A control token: found in templates only.
    pub special: bool,
    /// Found in the normalised text, not in the text as it is.
    pub normalized: bool,
    /// Found only where no letter or digit touches it.
    pub single_word: bool,
    /// Takes the white space to its left.
    pub lstrip: bool,
    /// Takes the white space to its right.
    pub rstrip: bool,
}

/// Whose text a match lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Within one template segment.
    Template,
    /// Within one plain segment.
    Plain,
    /// In more than one segment.
    Across,
}

/// A token that was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Row of the embedding.
    pub id: u32,
    /// The bytes of its text.
    pub bytes: Range<usize>,
    /// These and the white space that it takes.
    pub taken: Range<usize>,
}

/// Finds added tokens as Hugging Face does: the leftmost, and of these the longest.
#[derive(Default)]
pub struct AddedTokens {
    by_text: HashMap<String, AddedToken>,
    /// Lengths in bytes of the tokens that start with a byte, longest first.
    lengths: HashMap<u8, Vec<usize>>,
}

impl AddedToken {
    /// A token found in the text as it is.
    pub fn new(id: u32, text: impl Into<String>, special: bool) -> Self {
        Self {
            id,
            text: text.into(),
            special,
            normalized: false,
            single_word: false,
            lstrip: false,
            rstrip: false,
        }
    }
}

impl AddedTokens {
    /// A finder of `tokens`, each under the text that it is found by.
    pub fn new(tokens: impl IntoIterator<Item = (String, AddedToken)>) -> Self {
        let mut finder = Self::default();
        for (text, token) in tokens {
            if let Some(&first) = text.as_bytes().first() {
                finder.lengths.entry(first).or_default().push(text.len());
                finder.by_text.insert(text, token);
            }
        }
        for lengths in finder.lengths.values_mut() {
            lengths.sort_unstable_by(|a, b| b.cmp(a));
            lengths.dedup();
        }
        finder
    }

    /// The tokens in `text`, in order and apart; `place` says whose text a range of its bytes is.
    pub fn find(&self, text: &str, place: impl Fn(Range<usize>) -> Place) -> Vec<Found> {
        let mut found: Vec<Found> = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let mut next = at + 1;
            for token in self.starting_at(text, at) {
                let bytes = at..at + token.text_len;
                let place = if token.added.special {
                    place(bytes.clone())
                } else {
                    Place::Template
                };
                if place == Place::Across {
                    continue;
                }
                // What is no token here hides what begins inside it, as in Hugging Face's finder.
                next = bytes.end;
                if place == Place::Template && token.added.fits(text, &bytes) {
                    let taken = token.added.taken(text, &bytes);
                    let free_from = found.last().map_or(0, |last| last.taken.end);
                    next = taken.end;
                    found.push(Found {
                        id: token.added.id,
                        bytes,
                        taken: taken.start.max(free_from)..taken.end,
                    });
                }
                break;
            }
            at = next;
        }
        found
    }

    /// The tokens whose text begins at byte `at`, longest first.
    fn starting_at<'a>(&'a self, text: &'a str, at: usize) -> impl Iterator<Item = Candidate<'a>> {
        let lengths = self.lengths.get(&text.as_bytes()[at]).into_iter().flatten();
        lengths.filter_map(move |&text_len| {
            let added = self.by_text.get(text.get(at..at + text_len)?)?;
            Some(Candidate { added, text_len })
        })
    }
}

/// A token whose text is found; a normalised text may be longer than the token's own.
struct Candidate<'a> {
    added: &'a AddedToken,
    text_len: usize,
}

impl AddedToken {
    fn fits(&self, text: &str, bytes: &Range<usize>) -> bool {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let before = text[..bytes.start].chars().next_back().is_some_and(is_word);
        let after = text[bytes.end..].chars().next().is_some_and(is_word);
        !self.single_word || !(before || after)
    }

    fn taken(&self, text: &str, bytes: &Range<usize>) -> Range<usize> {
        let before = &text[..bytes.start];
        let after = &text[bytes.end..];
        let start = if self.lstrip {
            before.trim_end().len()
        } else {
            bytes.start
        };
        let end = if self.rstrip {
            text.len() - after.trim_start().len()
        } else {
            bytes.end
        };
        start..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finder(tokens: &[AddedToken]) -> AddedTokens {
        AddedTokens::new(tokens.iter().map(|token| (token.text.clone(), token.clone())))
    }

    fn ids(found: &[Found]) -> Vec<u32> {
        found.iter().map(|token| token.id).collect()
    }

    #[test]
    fn the_leftmost_and_longest_token_is_found() {
        let finder = finder(&[
            AddedToken::new(1, "<a>", true),
            AddedToken::new(2, "<a><b>", true),
            AddedToken::new(3, "b", false),
        ]);
        assert_eq!(ids(&finder.find("<a><b>b<a>é", |_| Place::Template)), [2, 3, 1]);
        // As plain text, a control token is none, and nothing inside it is looked for.
        assert_eq!(ids(&finder.find("<a><b>b", |_| Place::Plain)), [3]);
    }

    #[test]
    fn a_control_token_lies_within_one_template_segment() {
        let finder = finder(&[AddedToken::new(1, "<a>", true), AddedToken::new(2, "<a>b", true)]);
        // The template ends after byte 3.
        let place = |bytes: Range<usize>| if bytes.end <= 3 { Place::Template } else { Place::Across };
        assert_eq!(ids(&finder.find("<a>b", place)), [1]);
        assert_eq!(ids(&finder.find("x<a>", place)), [0; 0]);
    }

    #[test]
    fn white_space_is_taken_once_and_words_stay_whole() {
        let stripping = AddedToken {
            lstrip: true,
            rstrip: true,
            ..AddedToken::new(1, "<x>", false)
        };
        let word = AddedToken {
            single_word: true,
            ..AddedToken::new(2, "ab", false)
        };
        let finder = finder(&[stripping, word]);
        let found = finder.find("a  <x> \n<x> ab abc", |_| Place::Plain);
        assert_eq!(ids(&found), [1, 1, 2]);
        assert_eq!((found[0].bytes.clone(), found[0].taken.clone()), (3..6, 1..8));
        assert_eq!((found[1].bytes.clone(), found[1].taken.clone()), (8..11, 8..12));
        assert_eq!(found[2].bytes, 12..14);
    }
}
