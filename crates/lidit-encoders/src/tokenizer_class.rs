//! The tokenizer classes of transformers 5 that build their own steps, whatever `tokenizer.json` says.

use std::collections::BTreeMap;

use tokenizers::normalizers::{NFC, NormalizerWrapper, Replace};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::tokenizer::SplitDelimiterBehavior;

use crate::hf_tokenizer::TokenizerFile;
use crate::tokenizer_config::TokenizerConfig;

/// Words of Qwen 2 and 3: one digit at a time.
pub const QWEN2_WORDS: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Which class transformers 5 loads a folder's tokenizer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenizerClass {
    /// `TokenizersBackend`: `tokenizer.json` as it is.
    AsListed,
    /// `LlamaTokenizer`: Llama 2.
    Llama,
    /// `GemmaTokenizer`: Gemma 1 to 3.
    Gemma,
    /// `Qwen2Tokenizer`: Qwen 2 and 3.
    Qwen2,
    /// `T5Tokenizer`.
    T5,
}

impl TokenizerClass {
    /// The rules of `AutoTokenizer.from_pretrained`, for the architectures of this crate. `hub` is the class that the
    /// folder names.
    pub fn of(hub: Option<&str>, model_type: Option<&str>, is_byte_level: bool) -> Self {
        let registered = model_type.and_then(Self::registered);
        let named = hub.map(|hub| match hub.trim_end_matches("Fast") {
            "LlamaTokenizer" => Self::Llama,
            "GemmaTokenizer" => Self::Gemma,
            "Qwen2Tokenizer" => Self::Qwen2,
            "T5Tokenizer" => Self::T5,
            _ => Self::AsListed,
        });
        match (named, registered) {
            // Many folders name a wrong class for this architecture, so transformers takes no other.
            (Some(_), Some(Self::Qwen2)) if model_type == Some("qwen2") => Self::Qwen2,
            // Llama 3 folders that name Llama 2's class.
            (Some(Self::Llama), _) if is_byte_level => Self::AsListed,
            // Mistral and the vision-language models on top of Llama.
            (Some(_), Some(Self::AsListed)) | (None, None) => Self::AsListed,
            (Some(named), _) => named,
            (None, Some(registered)) => registered,
        }
    }

    /// The class that transformers registers for an architecture.
    fn registered(model_type: &str) -> Option<Self> {
        match model_type {
            "mistral" | "mistral3" | "ministral" | "mixtral" | "pixtral" | "llava" | "llava_next" | "vipllava"
            | "phi3" | "umt5" => Some(Self::AsListed),
            "gemma" | "gemma2" | "gemma3" | "gemma3_text" | "gemma3n" | "gemma3n_text" => Some(Self::Gemma),
            "qwen2" | "qwen2_vl" | "qwen2_5_vl" | "qwen2_moe" | "qwen3" | "qwen3_moe" | "qwen3_vl" => Some(Self::Qwen2),
            "t5" | "mt5" => Some(Self::T5),
            _ => None,
        }
    }

    /// The named tokens that the class has where the folder names none.
    pub fn default_tokens(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::AsListed => &[],
            Self::Llama => &[("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>")],
            Self::Gemma => &[
                ("unk_token", "<unk>"),
                ("bos_token", "<bos>"),
                ("eos_token", "<eos>"),
                ("pad_token", "<pad>"),
                ("mask_token", "<mask>"),
            ],
            Self::Qwen2 => &[
                ("unk_token", "<|endoftext|>"),
                ("eos_token", "<|endoftext|>"),
                ("pad_token", "<|endoftext|>"),
            ],
            Self::T5 => &[("unk_token", "<unk>"), ("eos_token", "</s>"), ("pad_token", "<pad>")],
        }
    }

    /// Replaces the steps of `file` by the class's own.
    pub fn rebuild(
        self,
        file: &mut TokenizerFile,
        config: &TokenizerConfig,
        named: &BTreeMap<String, String>,
    ) -> Result<(), String> {
        if self == Self::AsListed {
            return Ok(());
        }
        if file.model.is_bpe() == (self == Self::T5) {
            return Err(format!(
                "its model does not fit its class; name `TokenizersBackend` as tokenizer_class to load it as it is ({self:?})"
            ));
        }
        let model = &mut file.model;
        model.unk_token = None;
        model.ignore_merges = Some(false);
        model.fuse_unk = Some(matches!(self, Self::Llama | Self::Gemma));
        model.byte_fallback = Some(matches!(self, Self::Llama | Self::Gemma));
        let wrong = |e: tokenizers::Error| e.to_string();
        match self {
            Self::AsListed => {}
            Self::Llama => {
                let scheme = match (config.add_prefix_space, config.legacy) {
                    (Some(false), _) => PrependScheme::Never,
                    (_, Some(true)) => PrependScheme::Always,
                    _ => PrependScheme::First,
                };
                file.normalizer = None;
                file.pre_tokenizer = Some(Metaspace::new('\u{2581}', scheme, false).into());
            }
            Self::Gemma => {
                model.unk_token = named.get("unk_token").cloned();
                file.normalizer = Some(Replace::new(" ", "\u{2581}").map_err(wrong)?.into());
                let split = Split::new(" ", SplitDelimiterBehavior::MergedWithPrevious, false);
                file.pre_tokenizer = Some(split.map_err(wrong)?.into());
            }
            Self::Qwen2 => {
                file.normalizer = Some(NFC.into());
                let prefix = config.add_prefix_space.unwrap_or(false);
                file.pre_tokenizer = Some(byte_level_words(&[QWEN2_WORDS], prefix)?);
            }
            Self::T5 => {
                model.unk_id = Some(2);
                file.normalizer = file.normalizer.take().and_then(charsmap);
                file.pre_tokenizer = Some(t5_words());
            }
        }
        Ok(())
    }
}

/// Words by regular expressions, one after the other, then bytes as letters.
pub fn byte_level_words(words: &[&str], add_prefix_space: bool) -> Result<PreTokenizerWrapper, String> {
    let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
    for words in words {
        let pattern = SplitPattern::Regex((*words).to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        steps.push(split.map_err(|e| e.to_string())?.into());
    }
    steps.push(ByteLevel::new(add_prefix_space, true, false).into());
    Ok(Sequence::new(steps).into())
}

/// T5's words: white space is dropped, each word begins with `▁`.
pub fn t5_words() -> PreTokenizerWrapper {
    let metaspace = Metaspace::new('\u{2581}', PrependScheme::Always, true);
    Sequence::new(vec![WhitespaceSplit.into(), metaspace.into()]).into()
}

/// The table of characters of a `SentencePiece` normaliser, which is all that T5's class keeps.
fn charsmap(normalizer: NormalizerWrapper) -> Option<NormalizerWrapper> {
    match normalizer {
        NormalizerWrapper::Sequence(all) => all.into_iter().find_map(charsmap),
        NormalizerWrapper::Precompiled(_) => Some(normalizer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_chosen_as_transformers_does() {
        let cases = [
            (Some("LlamaTokenizerFast"), Some("llama"), false, TokenizerClass::Llama),
            (Some("LlamaTokenizer"), Some("llama"), true, TokenizerClass::AsListed),
            (
                Some("PreTrainedTokenizerFast"),
                Some("llama"),
                true,
                TokenizerClass::AsListed,
            ),
            (Some("LlamaTokenizer"), Some("mistral"), false, TokenizerClass::AsListed),
            (Some("LlamaTokenizer"), Some("llava"), false, TokenizerClass::AsListed),
            (Some("LlamaTokenizerFast"), Some("qwen2"), true, TokenizerClass::Qwen2),
            (Some("Qwen2Tokenizer"), Some("qwen3"), true, TokenizerClass::Qwen2),
            (
                Some("GemmaTokenizerFast"),
                Some("gemma3_text"),
                false,
                TokenizerClass::Gemma,
            ),
            (
                Some("TokenizersBackend"),
                Some("gemma3_text"),
                false,
                TokenizerClass::AsListed,
            ),
            (Some("T5TokenizerFast"), Some("t5"), false, TokenizerClass::T5),
            (None, Some("t5"), false, TokenizerClass::T5),
            (None, Some("llama"), false, TokenizerClass::AsListed),
            (None, None, false, TokenizerClass::AsListed),
        ];
        for (hub, model_type, is_byte_level, expected) in cases {
            let class = TokenizerClass::of(hub, model_type, is_byte_level);
            assert_eq!(class, expected, "{hub:?} {model_type:?} {is_byte_level}");
        }
    }
}
