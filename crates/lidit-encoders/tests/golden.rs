//! The two real LLMs against transformers and llama.cpp.
//!
//! Token ids must be equal; states within 1e-4 relative, token by token. The models are looked for in the cache
//! folder that `lidit fetch` fills.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;
use std::sync::LazyLock;

use burn::tensor::Device;
use common::{fetched, golden, relative_error};
use lidit_encoders::gguf::GgufFile;
use lidit_encoders::{LayerChoice, Precision, PrefixKind, PromptEncoder, Segment, TemplateConfig, Tokenizer};
use safetensors::SafeTensors;
use serde_json::Value;

const INSTRUCTION: &str = "Describe the image by detailing the color, shape, size, texture, quantity, text, and spatial relationships of the objects:";

static SMOLLM2: LazyLock<PromptEncoder> = LazyLock::new(|| load("SmolLM2-135M-Instruct.Q4_1.gguf", -3));
static GEMMA3: LazyLock<PromptEncoder> = LazyLock::new(|| load("gemma-3-270m-q4_k_m.gguf", -3));

fn load(file: &str, layer: i32) -> PromptEncoder {
    let template = TemplateConfig::bare();
    PromptEncoder::load(
        &fetched(file),
        LayerChoice::Layer(layer),
        template,
        Precision::F32,
        &Device::flex(),
    )
    .unwrap()
}

#[test]
fn smollm2_tokens_equal_the_reference() {
    check_tokens("smollm2.json");
}

#[test]
fn gemma3_tokens_equal_the_reference() {
    check_tokens("gemma3.json");
}

#[test]
fn smollm2_states_equal_the_reference() {
    check_states(&SMOLLM2, "smollm2.safetensors", "hidden_m3");
    check_states(
        &load("SmolLM2-135M-Instruct.Q4_1.gguf", -1),
        "smollm2.safetensors",
        "last_hidden",
    );
}

#[test]
fn gemma3_states_equal_the_reference() {
    check_states(&GEMMA3, "gemma3.safetensors", "hidden_m3");
    check_states(
        &load("gemma-3-270m-q4_k_m.gguf", -1),
        "gemma3.safetensors",
        "last_hidden",
    );
}

#[test]
fn smollm2_states_do_not_depend_on_batch_mates() {
    check_batch_mates(&SMOLLM2);
}

#[test]
fn gemma3_states_do_not_depend_on_batch_mates() {
    check_batch_mates(&GEMMA3);
}

#[test]
fn control_tokens_in_a_caption_are_plain_text() {
    let cases = [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "<|im_start|>user\nhi<|im_end|>", 1),
        ("gemma-3-270m-q4_k_m.gguf", "<start_of_turn>user\nhi<end_of_turn>", 105),
    ];
    for (file, text, control) in cases {
        let tokenizer = Tokenizer::from_gguf(&GgufFile::open(&fetched(file)).unwrap()).unwrap();
        let ids = |segment| -> Vec<u32> {
            tokenizer
                .encode(&[segment])
                .unwrap()
                .iter()
                .map(|token| token.id)
                .collect()
        };
        assert!(ids(Segment::Template(text)).contains(&control));
        let plain = ids(Segment::Plain(text));
        assert!(!plain.contains(&control), "{plain:?}");
        // The tokens of both halves of a control token's text stay plain beside a template, too.
        let (left, right) = text.split_at(5);
        let halves = tokenizer
            .encode(&[Segment::Template(left), Segment::Plain(right)])
            .unwrap();
        assert!(halves.iter().all(|token| token.id != control));
    }
}

#[test]
fn the_caption_span_covers_the_caption_and_nothing_else() {
    let template = TemplateConfig {
        prefix: PrefixKind::Instruction,
        system_prompt: "You are a helpful assistant.".into(),
        instruction: INSTRUCTION.into(),
        max_caption_tokens: 6,
        ..TemplateConfig::bare()
    };
    for file in ["SmolLM2-135M-Instruct.Q4_1.gguf", "gemma-3-270m-q4_k_m.gguf"] {
        let tokenizer = Tokenizer::from_gguf(&GgufFile::open(&fetched(file)).unwrap()).unwrap();
        let template = template.for_tokenizer(&tokenizer).unwrap();
        let prefix_len = template.prefix_ids(&tokenizer).unwrap().len();
        let empty = template.prompt(&tokenizer, "").unwrap();
        assert_eq!((empty.ids.len(), empty.caption.len()), (prefix_len, 0));

        let short = template.prompt(&tokenizer, "a red fox").unwrap();
        assert_eq!(short.caption, prefix_len..prefix_len + 3, "{file}");
        assert_eq!(short.num_cut, 0);

        // Emoji become several tokens that share one character; all of them are the caption's.
        let emoji = template.prompt(&tokenizer, "🦩é").unwrap();
        assert_eq!(emoji.caption.end, emoji.ids.len());
        assert!(emoji.caption.start >= prefix_len - 1);

        let long = template
            .prompt(&tokenizer, "one two three four five six seven eight")
            .unwrap();
        assert_eq!((long.caption.len(), long.num_cut), (6, 2), "{file}");
        assert_eq!(long.caption.end, long.ids.len());
    }
}

#[test]
fn a_caption_that_merges_with_the_newline_owns_the_merged_token() {
    let template = TemplateConfig {
        prefix: PrefixKind::Instruction,
        system_prompt: "s".into(),
        instruction: "i".into(),
        max_caption_tokens: 100,
        ..TemplateConfig::bare()
    };
    let file = GgufFile::open(&fetched("gemma-3-270m-q4_k_m.gguf")).unwrap();
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    let template = template.for_tokenizer(&tokenizer).unwrap();
    // Gemma has one token for two newlines (108): the instruction's last and the caption's first.
    let prompt = template.prompt(&tokenizer, "\nfox").unwrap();
    assert_eq!(prompt.ids[prompt.caption.start], 108);
    assert_eq!(prompt.caption.end, prompt.ids.len());
}

#[test]
fn dequantised_tensors_equal_the_reference() {
    let checks: Value = serde_json::from_slice(&std::fs::read(golden("dequantised.json")).unwrap()).unwrap();
    for (name, tensors) in checks.as_object().unwrap() {
        let file = GgufFile::open(&fetched(name)).unwrap();
        for check in tensors.as_array().unwrap() {
            check_tensor(&file, check);
        }
    }
}

fn check_tensor(file: &GgufFile, check: &Value) {
    let name = check["name"].as_str().unwrap();
    let numbers = |key: &str| -> Vec<f32> {
        check[key]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_f64().unwrap() as f32)
            .collect()
    };
    let shape: Vec<usize> = numbers("shape_out_in").iter().map(|&n| n as usize).collect();
    assert_eq!(file.shape(name), Some(shape));
    let values = file.tensor(name).unwrap();
    let (first, last) = (numbers("first8"), numbers("last4"));
    assert_eq!(values[..first.len()], first, "{name}");
    assert_eq!(values[values.len() - last.len()..], last, "{name}");
    let values: Vec<f64> = values.into_iter().map(f64::from).collect();
    let abs_mean = values.iter().map(|v| v.abs()).sum::<f64>() / values.len() as f64;
    let expected = check["abs_mean"].as_f64().unwrap();
    assert!(
        (abs_mean / expected - 1.0).abs() < 1e-6,
        "{name}: {abs_mean} against {expected}"
    );
    let difference = values.iter().sum::<f64>() - check["sum"].as_f64().unwrap();
    assert!(
        difference.abs() < 1e-6 * expected * values.len() as f64,
        "{name}: sum differs by {difference}"
    );
}

fn check_tokens(golden_file: &str) {
    let reference: Value = serde_json::from_slice(&std::fs::read(golden(golden_file)).unwrap()).unwrap();
    let path = fetched(reference["gguf"].as_str().unwrap());
    let tokenizer = Tokenizer::from_gguf(&GgufFile::open(&path).unwrap()).unwrap();
    for case in reference["tokens"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let segment = if case["parse_special"].as_bool().unwrap() {
            Segment::Template(text)
        } else {
            Segment::Plain(text)
        };
        let tokens = tokenizer.encode(&[segment]).unwrap();
        let ids: Vec<u64> = tokens.iter().map(|token| u64::from(token.id)).collect();
        let expected: Vec<u64> = case["ids"]
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_u64().unwrap())
            .collect();
        assert_eq!(ids, expected, "{text:?}");
        assert_eq!(tokens.last().unwrap().bytes.end, text.len());
    }
}

fn check_states(encoder: &PromptEncoder, golden_file: &str, name: &str) {
    let path = golden(golden_file);
    let bytes = std::fs::read(&path).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let texts = std::fs::read(path.with_extension("json")).unwrap();
    let texts: Value = serde_json::from_slice(&texts).unwrap();
    for (i, text) in texts["prompts"].as_array().unwrap().iter().enumerate() {
        let result = &encoder.encode(&[text.as_str().unwrap()]).unwrap()[0];
        assert_eq!(result.ids, common::u32s(&reference, &format!("p{i}.ids")));
        let expected = common::f32s(&reference, &format!("p{i}.{name}"));
        let error = relative_error(&result.states, &expected, result.dim);
        assert!(error < 1e-4, "prompt {i}, {name}: relative error {error:e}");
    }
}

fn check_batch_mates(encoder: &PromptEncoder) {
    let captions = [
        "fox",
        "A red apple on a white table.",
        "a photo of two cats sleeping on a blue sofa, soft morning light",
        "a very long caption, with many words that only serve to make the batch much wider than the others need",
    ];
    let together = encoder.encode(&captions).unwrap();
    for (caption, batched) in captions.iter().zip(&together) {
        let alone = &encoder.encode(&[caption]).unwrap()[0];
        assert_eq!(alone.ids, batched.ids);
        let error = relative_error(&batched.states, &alone.states, alone.dim);
        assert!(error < 1e-5, "{caption:?}: relative error {error:e}");
    }
}

#[test]
fn a_prompt_of_ids_has_the_states_of_its_text() {
    let text = "A red apple on a white table.";
    let from_text = &SMOLLM2.encode(&[text]).unwrap()[0];
    let from_ids = &SMOLLM2.encode_ids(&[&from_text.ids]).unwrap()[0];
    assert_eq!(from_text.states, from_ids.states);
    assert!(Path::new(&fetched("SmolLM2-135M-Instruct.Q4_1.gguf")).exists());
}
