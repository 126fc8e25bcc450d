//! Frozen networks: prompt encoders (a caption in, the states of a language model's late layer out) and autoencoders
//! ([`AutoencoderKl`]: pictures to latents and back).
//!
//! [`PromptEncoder`] joins the parts: a [`TemplateConfig`] puts the paper's instruction before the caption, a
//! [`Tokenizer`] turns the prompt into ids, an [`Llm`] computes the states. Weights and tokenizer come from one
//! GGUF file or from a folder in the Hugging Face layout. Nothing here is trained, and nothing here knows the network
//! that reads the states.

mod added_tokens;
mod architecture;
mod chat_template;
mod config_json;
pub mod cost;
pub mod efficientnet;
mod embedding;
mod encoder_spec;
mod error;
mod frequencies;
pub mod gguf;
mod gguf_header;
mod gguf_shape;
mod gguf_tokenizer;
mod hf_defaults;
mod hf_rotation;
mod hf_shape;
mod hf_tokenizer;
mod layer;
mod layer_choice;
mod llm;
mod model_files;
mod model_folder;
mod prompt_encoder;
mod prompt_text;
mod pth;
mod relative_bias;
mod rope;
mod safetensors_file;
mod shape;
mod stored;
mod subword;
mod template;
mod tensor_files;
mod tensor_names;
mod tokenizer;
mod tokenizer_class;
mod tokenizer_config;
pub mod vae;
mod vocabulary;
mod weights;
mod weights_digest;

pub use architecture::LlmArchitecture;
pub use chat_template::{ChatTemplate, Message};
pub use efficientnet::EfficientNetLite0;
pub use encoder_spec::{EncoderSpec, Precision};
pub use error::EncoderError;
pub use layer_choice::{LayerChoice, Layers, LlmConfig};
pub use llm::{Beginning, Llm, Shared};
pub use model_files::ModelFiles;
pub use prompt_encoder::{Prefix, PromptEncoder, PromptStates};
pub use safetensors_file::{HostTensor, read_tensor};
pub use shape::{Activation, Biases, LayerAttention, LlmShape, Position};
pub use template::{PrefixKind, Prompt, PromptFormat, PromptTemplate, TemplateConfig};
pub use tokenizer::{Ends, Segment, Token, Tokenizer};
pub use vae::AutoencoderKl;
