//! The tiny random LLMs: every layer against transformers, both tokenizers, and files that are wrong.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use common::{f32s, fixture, golden, relative_error, u32s, worst};
use lidit_encoders::gguf::GgufFile;
use lidit_encoders::{
    EncoderError, EncoderSpec, LayerChoice, Precision, PrefixKind, PromptEncoder, Segment, TemplateConfig, Tokenizer,
};
use safetensors::SafeTensors;

const TINY: [&str; 2] = ["tiny-llama", "tiny-gemma3"];

fn load(path: &Path, layer: i32, precision: Precision) -> Result<PromptEncoder, EncoderError> {
    with_template(path, layer, TemplateConfig::bare(), precision)
}

fn with_template(
    path: &Path,
    layer: i32,
    template: TemplateConfig,
    precision: Precision,
) -> Result<PromptEncoder, EncoderError> {
    PromptEncoder::load(path, LayerChoice::Layer(layer), template, precision, &Device::flex())
}

fn gguf(name: &str) -> std::path::PathBuf {
    fixture(&format!("{name}.gguf"))
}

fn instructed() -> TemplateConfig {
    TemplateConfig {
        prefix: PrefixKind::Instruction,
        system_prompt: "You are a helpful assistant.".into(),
        instruction: "Describe the image:".into(),
        max_caption_tokens: 32,
        ..TemplateConfig::bare()
    }
}

/// Largest relative error over three prompts, the last longer than Gemma's window.
fn worst_error(name: &str, layer: i32, state: usize, precision: Precision) -> f64 {
    let bytes = fs::read(golden(&format!("{name}.safetensors"))).unwrap();
    let reference = SafeTensors::deserialize(&bytes).unwrap();
    let encoder = load(&gguf(name), layer, precision).unwrap();
    let prompts: Vec<_> = (0..3).map(|i| u32s(&reference, &format!("p{i}.ids"))).collect();
    let prompts: Vec<_> = prompts.iter().map(Vec::as_slice).collect();
    let results = encoder.encode_ids(&prompts).unwrap();
    worst(results.iter().enumerate().map(|(i, result)| {
        let expected = f32s(&reference, &format!("p{i}.hidden.{state}"));
        relative_error(&result.states, &expected, result.dim)
    }))
}

#[test]
fn every_layer_equals_transformers() {
    for name in TINY {
        for (layer, state) in [(0, 0), (1, 1), (2, 2), (-3, 2), (-2, 3), (-1, 4), (4, 4)] {
            let error = worst_error(name, layer, state, Precision::F32);
            assert!(error < 1e-4, "{name}, layer {layer}: relative error {error:e}");
        }
    }
}

#[test]
fn bf16_states_are_near_those_in_f32() {
    for name in TINY {
        let error = worst_error(name, -1, 4, Precision::Bf16);
        assert!(error > 1e-5 && error < 0.05, "{name}: relative error {error:e}");
    }
}

#[test]
fn states_do_not_depend_on_batch_mates() {
    let captions = [
        "",
        "a red apple",
        "a small brown dog beside a large orange cat under a purple octopus",
    ];
    for name in TINY {
        let encoder = with_template(&gguf(name), -3, instructed(), Precision::F32).unwrap();
        let together = encoder.encode(&captions).unwrap();
        for (caption, batched) in captions.iter().zip(&together) {
            let alone = &encoder.encode(&[caption]).unwrap()[0];
            assert_eq!((&alone.ids, &alone.caption), (&batched.ids, &batched.caption));
            let error = relative_error(&batched.states, &alone.states, alone.dim);
            assert!(error < 1e-5, "{name}, {caption:?}: relative error {error:e}");
        }
    }
}

#[test]
fn many_captions_come_back_in_the_order_given() {
    let encoder = with_template(&gguf("tiny-llama"), -3, instructed(), Precision::F32).unwrap();
    let captions: Vec<_> = (0..300).map(|i| "red apple ".repeat(i * 7 % 11)).collect();
    let captions: Vec<_> = captions.iter().map(String::as_str).collect();
    let results = encoder.encode(&captions).unwrap();
    assert_eq!(results.len(), captions.len());
    for (caption, result) in captions.iter().zip(results).step_by(37) {
        let prompt = encoder.prompt(caption).unwrap();
        assert_eq!(
            (result.ids, result.caption, result.num_cut),
            (prompt.ids, prompt.caption, prompt.num_cut)
        );
        let alone = &encoder.encode(&[caption]).unwrap()[0];
        let error = relative_error(&result.states, &alone.states, alone.dim);
        assert!(error < 1e-5, "{caption:?}: relative error {error:e}");
    }
}

#[test]
fn an_empty_prompt_without_a_bos_has_no_states() {
    let result = &load(&gguf("tiny-llama"), -3, Precision::F32)
        .unwrap()
        .encode(&[""])
        .unwrap()[0];
    assert!(result.ids.is_empty() && result.states.is_empty() && result.caption.is_empty());
    let result = &load(&gguf("tiny-gemma3"), -3, Precision::F32)
        .unwrap()
        .encode(&[""])
        .unwrap()[0];
    assert_eq!((result.ids.as_slice(), result.states.len()), (&[2][..], 48));
}

#[test]
fn every_byte_of_any_text_belongs_to_a_token() {
    let texts = [
        "a red apple",
        "2024: 15  apples",
        "über 🦩 北京\t\u{2581}\n\n\nx",
        "<start_of_turn><|im_start|>",
        " ",
        "",
    ];
    for name in TINY {
        let tokenizer = Tokenizer::from_gguf(&GgufFile::open(&gguf(name)).unwrap()).unwrap();
        for text in texts {
            let tokens = tokenizer.encode(&[Segment::Plain(text)]).unwrap();
            let covered = |byte| tokens.iter().any(|token| token.bytes.contains(&byte));
            assert!((0..text.len()).all(covered), "{name}, {text:?}: {tokens:?}");
        }
    }
}

#[test]
fn fingerprints_tell_everything_that_changes_states_apart() {
    let fingerprint = |name: &str, layer, template: &TemplateConfig, precision| {
        let choice = LayerChoice::Layer(layer);
        let spec = EncoderSpec::open(&gguf(name), choice, template.clone(), precision).unwrap();
        spec.fingerprint(None).unwrap()
    };
    let plain = TemplateConfig::bare();
    let mut all = vec![
        fingerprint("tiny-llama", -3, &plain, Precision::F32),
        fingerprint("tiny-gemma3", -3, &plain, Precision::F32),
        fingerprint("tiny-llama", -2, &plain, Precision::F32),
        fingerprint("tiny-llama", -3, &plain, Precision::Bf16),
        fingerprint("tiny-llama", -3, &instructed(), Precision::F32),
        fingerprint(
            "tiny-llama",
            -3,
            &TemplateConfig {
                max_caption_tokens: 31,
                ..instructed()
            },
            Precision::F32,
        ),
    ];
    assert_eq!(
        fingerprint("tiny-llama", 2, &plain, Precision::F32),
        all[0],
        "2 and -3 are one layer of four"
    );
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn wrong_files_are_refused_with_file_and_tensor_named() {
    let good = fs::read(gguf("tiny-llama")).unwrap();
    let at = |text| common::after(&good, text);
    let patched = |at, bytes: &[u8]| common::patched(&good, at, bytes);
    let embedding_rows = at("token_embd.weight") + 4 + 8;
    let rows = u64::from_le_bytes(good[embedding_rows..embedding_rows + 8].try_into().unwrap());
    let cases: [(Vec<u8>, &str); 8] = [
        (
            good[..good.len() - 100].to_vec(),
            "is truncated: tensor `output_norm.weight`",
        ),
        (good[..900].to_vec(), "is not a readable GGUF file"),
        (
            b"safetensors are something else".to_vec(),
            "is not a readable GGUF file",
        ),
        (
            patched(at("general.architecture") + 12, b"lluma"),
            "unknown architecture `lluma`",
        ),
        (patched(at("blk.1.attn_q") - 1, b"Q"), "no tensor `blk.1.attn_q.weight`"),
        (
            patched(at("llama.feed_forward_length") + 4, &[63]),
            "tensor `blk.0.ffn_gate.weight` has shape [64, 32]",
        ),
        (
            patched(embedding_rows, &(rows - 1).to_le_bytes()),
            "`token_embd.weight` has only",
        ),
        (
            patched(at("output_norm") - 1, b"M"),
            "`output_norM.weight` is unknown to architecture `llama`",
        ),
    ];
    for (bytes, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broken.gguf");
        fs::write(&path, bytes).unwrap();
        let message = load(&path, -3, Precision::F32).err().expect(expected).to_string();
        assert!(message.contains(expected), "{message}");
        assert!(message.contains("broken.gguf"), "{message}");
    }
}

#[test]
fn impossible_layers_ids_and_paths_are_refused() {
    let message = |result: Result<PromptEncoder, EncoderError>| result.err().unwrap().to_string();
    for layer in [5, -6] {
        let refused = message(load(&gguf("tiny-llama"), layer, Precision::F32));
        assert_eq!(
            refused,
            format!("layer {layer} is out of range: the model has 4 layers, so -5 ..= 4 are possible")
        );
    }
    let refused = message(load(Path::new("/nowhere/x.gguf"), -3, Precision::F32));
    assert_eq!(refused, "cannot read `/nowhere/x.gguf`");
    let encoder = load(&gguf("tiny-llama"), -3, Precision::F32).unwrap();
    let refused = encoder.encode_ids(&[&[0, 99_999]]).unwrap_err().to_string();
    assert!(refused.starts_with("token id 99999 is out of range"), "{refused}");
}

/// Captions that end the instruction's tokens early, that are empty, and that are cut.
#[test]
fn what_prompts_share_is_computed_once_and_changes_nothing() {
    let captions = ["a red apple", "", "\n\n  two", "brown dog ".repeat(20).leak()];
    for name in TINY {
        let reused = with_template(&gguf(name), -3, instructed(), Precision::F32).unwrap();
        let whole = with_template(&gguf(name), -3, instructed(), Precision::F32).unwrap();
        let whole = whole.without_reuse().unwrap();
        let prefix = reused.prefix();
        assert!(prefix.ids.len() > 10, "{name}: {} shared tokens", prefix.ids.len());
        let pairs = reused
            .encode(&captions)
            .unwrap()
            .into_iter()
            .zip(whole.encode(&captions).unwrap());
        for (caption, (reused, whole)) in captions.iter().zip(pairs) {
            assert_eq!(
                (&reused.ids, &reused.caption, whole.shared),
                (&whole.ids, &whole.caption, 0)
            );
            assert!(
                reused.shared + 2 >= prefix.ids.len(),
                "{name}, {caption:?}: {} shared",
                reused.shared
            );
            let shared = reused.shared * reused.dim;
            assert_eq!(reused.states[..shared], prefix.states[..shared], "{name}, {caption:?}");
            let error = relative_error(&reused.states, &whole.states, whole.dim);
            assert!(error < 1e-5, "{name}, {caption:?}: relative error {error:e}");
        }
    }
}

#[test]
fn a_model_that_sees_both_ways_shares_nothing() {
    let folder = golden("models").join("t5-gated");
    let encoder = with_template(&folder, -3, instructed(), Precision::F32).unwrap();
    assert!(encoder.prefix().ids.is_empty());
    let [short, long] = [
        &encoder.encode(&["fox"]).unwrap()[0],
        &encoder.encode(&["fox fox"]).unwrap()[0],
    ]
    .map(Clone::clone);
    let first = |prompt: &lidit_encoders::PromptStates| prompt.states[..prompt.dim].to_vec();
    assert!(
        relative_error(&first(&short), &first(&long), short.dim) > 1e-4,
        "the first token sees the caption"
    );
}

#[test]
fn the_first_token_can_be_left_out_of_the_states() {
    let captions = ["a red apple", ""];
    for name in TINY {
        for prefix in [PrefixKind::Instruction, PrefixKind::Neutral, PrefixKind::None] {
            let template = |drop_first_token| TemplateConfig {
                prefix,
                drop_first_token,
                ..instructed()
            };
            let encode = |drop| {
                let encoder = with_template(&gguf(name), -3, template(drop), Precision::F32).unwrap();
                encoder.encode(&captions).unwrap()
            };
            for (all, rest) in encode(false).iter().zip(encode(true)) {
                let first = all.ids.len().min(1);
                assert_eq!(
                    (&all.ids[first..], &all.states[first * all.dim..]),
                    (&rest.ids[..], &rest.states[..])
                );
                let shifted = all.caption.start.saturating_sub(1)..all.caption.end.saturating_sub(1);
                assert_eq!((shifted, all.shared.saturating_sub(1)), (rest.caption, rest.shared));
            }
        }
    }
}
