//! Models that cut words into tokens, without the control tokens that their vocabularies list.

use std::collections::HashSet;

use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::models::unigram::Unigram;

/// A byte-pair vocabulary and how it treats what it does not know.
#[derive(Default)]
pub struct BytePairs {
    /// Ids by text.
    pub vocab: Vocab,
    /// Pairs, the first to merge first.
    pub merges: Merges,
    /// The token of unknown characters.
    pub unk_token: Option<String>,
    /// Neighbouring unknown characters are one token.
    pub fuse_unk: bool,
    /// Unknown characters become tokens of their bytes, `<0xC3>`.
    pub byte_fallback: bool,
    /// A word that is a token needs no merges.
    pub ignore_merges: bool,
    /// Put before each piece of a word but the first.
    pub continuing_subword_prefix: Option<String>,
    /// Put after the last piece of a word.
    pub end_of_word_suffix: Option<String>,
}

impl BytePairs {
    /// The model. Tokens of `control` can't come out of it: neither they nor the merges that lead to them are in it.
    pub fn build(mut self, control: &HashSet<&str>) -> Result<BPE, String> {
        let unknown = self.unk_token.take();
        let hidden = |text: &str| control.contains(text) && unknown.as_deref() != Some(text);
        let prefix_len = self.continuing_subword_prefix.as_ref().map_or(0, String::len);
        let mut merges = Merges::with_capacity(self.merges.len());
        for (left, right) in std::mem::take(&mut self.merges) {
            let right_rest = right.get(prefix_len..).unwrap_or_default();
            let whole = format!("{left}{right_rest}");
            for text in [&left, &right, &whole] {
                if !self.vocab.contains_key(text.as_str()) {
                    return Err(format!("the merge of `{left}` and `{right}` has no token `{text}`"));
                }
            }
            if ![&left, &right, &whole].into_iter().any(|text| hidden(text)) {
                merges.push((left, right));
            }
        }
        self.vocab.retain(|text, _| !hidden(text));
        if let Some(unknown) = unknown
            .as_ref()
            .filter(|unknown| !self.vocab.contains_key(unknown.as_str()))
        {
            return Err(format!("the unknown token `{unknown}` is not in the vocabulary"));
        }
        let mut builder = BPE::builder()
            .vocab_and_merges(self.vocab, merges)
            .fuse_unk(self.fuse_unk)
            .byte_fallback(self.byte_fallback)
            .ignore_merges(self.ignore_merges);
        if let Some(unknown) = unknown {
            builder = builder.unk_token(unknown);
        }
        if let Some(prefix) = self.continuing_subword_prefix {
            builder = builder.continuing_subword_prefix(prefix);
        }
        if let Some(suffix) = self.end_of_word_suffix {
            builder = builder.end_of_word_suffix(suffix);
        }
        builder.build().map_err(|e| e.to_string())
    }
}

/// A unigram model of `pieces`, texts with their scores. The pieces of `hidden`, by id, can't come out of it.
pub fn unigram(
    mut pieces: Vec<(String, f64)>,
    unk_id: Option<usize>,
    byte_fallback: bool,
    hidden: &HashSet<u32>,
) -> Result<Unigram, String> {
    // Ids are places in the list, so a hidden piece must keep its own. It gets a text that no word has: SentencePiece's
    // words have no space in them, and where others do, none has these private characters and a noncharacter in a row.
    for (id, (text, _)) in (0_u32..).zip(&mut pieces) {
        if hidden.contains(&id) {
            *text = format!("\u{10fffd}\u{f0000}\u{fffff} {id} {text}");
        }
    }
    Unigram::from(pieces, unk_id, byte_fallback).map_err(|e| e.to_string())
}
