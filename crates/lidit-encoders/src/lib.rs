//! Frozen prompt encoders: a caption in, the states of a language model's late layer out.
//!
//! [`PromptEncoder`] joins the parts: a [`TemplateConfig`] puts the paper's instruction before the caption, a
//! [`Tokenizer`] turns the prompt into ids, an [`Llm`] computes the states. Weights and tokenizer come from one
//! GGUF file or one Hugging Face folder. Nothing here is trained, and nothing here knows the network that reads the states.

mod added_tokens;
mod chat_template;
pub mod cost;
mod decoder_config;
mod decoder_layer;
mod error;
pub mod gguf;
mod gguf_tokenizer;
mod hf_tokenizer;
mod llm;
mod prompt_encoder;
mod prompt_text;
mod rope;
mod subword;
mod template;
mod tokenizer;
mod tokenizer_class;
mod tokenizer_config;
mod vocabulary;

pub use chat_template::{ChatTemplate, Message};
pub use decoder_config::{Activation, DecoderConfig, LayerAttention, LlmArchitecture};
pub use error::EncoderError;
pub use llm::Llm;
pub use prompt_encoder::{LlmConfig, Precision, Prefix, PromptEncoder, PromptStates};
pub use template::{PrefixKind, Prompt, PromptFormat, PromptTemplate, TemplateConfig};
pub use tokenizer::{Ends, Segment, Token, Tokenizer};
