//! What `tokenizer_config.json` says beside `tokenizer.json`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::tokenizer_class::TokenizerClass;

/// What is read of `tokenizer_config.json`.
#[derive(Default, Deserialize)]
pub struct TokenizerConfig {
    pub tokenizer_class: Option<String>,
    pub add_prefix_space: Option<bool>,
    pub legacy: Option<bool>,
    pub added_tokens_decoder: Option<BTreeMap<u32, TokenFlags>>,
    chat_template: Option<ChatTemplates>,
    extra_special_tokens: Option<serde_json::Value>,
    additional_special_tokens: Option<serde_json::Value>,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ChatTemplates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

/// An added token as Hugging Face's files list it.
#[derive(Clone, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the keys of Hugging Face's files")]
pub struct TokenFlags {
    pub content: String,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    #[serde(default)]
    pub normalized: bool,
    #[serde(default)]
    pub special: bool,
}

/// Tokens with a name of their own; transformers makes all of them control tokens.
const NAMED: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

impl TokenizerConfig {
    /// The named tokens' texts, by name.
    pub fn named_tokens(&self, class: TokenizerClass) -> BTreeMap<String, String> {
        let defaults = class
            .default_tokens()
            .iter()
            .map(|&(name, text)| (name.to_owned(), text.to_owned()));
        let mut named: BTreeMap<String, String> = defaults.collect();
        for name in NAMED {
            match self.rest.get(name) {
                Some(serde_json::Value::Null) => {
                    named.remove(name);
                }
                Some(token) => {
                    named.extend(content(token).map(|text| (name.to_owned(), text)));
                }
                None => {}
            }
        }
        named
    }

    /// Further control tokens.
    pub fn extra_tokens(&self) -> Vec<String> {
        match self
            .extra_special_tokens
            .as_ref()
            .or(self.additional_special_tokens.as_ref())
        {
            Some(serde_json::Value::Array(tokens)) => tokens.iter().filter_map(content).collect(),
            Some(serde_json::Value::Object(tokens)) => tokens.values().filter_map(content).collect(),
            _ => Vec::new(),
        }
    }

    /// The chat template, of several the one named `default`.
    pub fn default_template(&self) -> Option<String> {
        match self.chat_template.as_ref()? {
            ChatTemplates::One(template) => Some(template.clone()),
            ChatTemplates::Named(templates) => {
                let default = templates.iter().find(|template| template.name == "default")?;
                Some(default.template.clone())
            }
        }
    }
}

/// A token's text, which may stand alone or with flags.
fn content(token: &serde_json::Value) -> Option<String> {
    let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
    Some(text.to_owned())
}
