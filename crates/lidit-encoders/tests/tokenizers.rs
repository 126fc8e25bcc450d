//! Tokenizers of folders and of GGUF files against transformers and sentencepiece, chats against transformers.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;

use candle_core::quantized::gguf_file::{self, Value as Metadata};
use common::golden;
use lidit_encoders::gguf::GgufFile;
use lidit_encoders::{ChatTemplate, Message, Segment, Token, Tokenizer};
use serde_json::Value;
use sha2::{Digest, Sha256};

const FOLDERS: [&str; 6] = ["llama2", "llama3", "mistral", "qwen3", "gemma3-text", "t5-gated"];

fn folder(name: &str) -> PathBuf {
    golden("models").join(name)
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn texts(goldens: &Value) -> Vec<String> {
    let text = |text: &Value| match text["text"].as_str() {
        Some(text) => text.to_owned(),
        None => text["part"]
            .as_str()
            .unwrap()
            .repeat(text["times"].as_u64().unwrap() as usize),
    };
    goldens["texts"].as_array().unwrap().iter().map(text).collect()
}

fn ids(tokens: &[Token]) -> Vec<u32> {
    tokens.iter().map(|token| token.id).collect()
}

fn numbers(list: &Value) -> Vec<u32> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

/// Long lists are stored as their ends, length and digest.
fn assert_ids(found: &[u32], expected: &Value, what: &str) {
    if expected.is_array() {
        assert_eq!(found, numbers(expected), "{what}");
        return;
    }
    let (head, tail) = (numbers(&expected["head"]), numbers(&expected["tail"]));
    assert_eq!(found.len() as u64, expected["len"].as_u64().unwrap(), "{what}");
    assert_eq!(found[..head.len()], head, "{what}");
    assert_eq!(found[found.len() - tail.len()..], tail, "{what}");
    let bytes: Vec<u8> = found.iter().flat_map(|id| id.to_le_bytes()).collect();
    let digest = Sha256::digest(&bytes)
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    assert_eq!(digest, expected["sha256"].as_str().unwrap(), "{what}");
}

fn assert_encodings(tokenizer: &Tokenizer, goldens: &Value, name: &str) {
    let encodings = goldens["tokenizers"][name]["encodings"].as_array().unwrap();
    let texts = texts(goldens);
    assert_eq!(texts.len(), encodings.len());
    for (text, expected) in texts.iter().zip(encodings) {
        let what = format!("{name}: {:?}", text.chars().take(60).collect::<String>());
        let template = tokenizer.encode(&[Segment::Template(text)]).unwrap();
        assert_ids(&ids(&template), &expected["template"], &what);
        let plain = tokenizer.encode(&[Segment::Plain(text)]).unwrap();
        assert_ids(&ids(&plain), &expected["plain"], &what);
        let ends = tokenizer.ends();
        if let Some(offsets) = expected["offsets"].as_array() {
            let inner = ends.before.len()..plain.len() - ends.after.len();
            for (token, offsets) in plain[inner.clone()].iter().zip(&offsets[inner]) {
                assert_eq!(
                    [token.bytes.start as u32, token.bytes.end as u32],
                    numbers(offsets)[..],
                    "{what}"
                );
            }
        }
    }
}

#[test]
fn folders_give_the_ids_and_bytes_of_transformers() {
    let goldens = json(golden("tokenizers.json"));
    for name in FOLDERS {
        let tokenizer = Tokenizer::from_folder(&folder(name)).unwrap();
        assert_encodings(&tokenizer, &goldens, name);
        let expected = goldens["tokenizers"][name]["num_tokens"].as_u64().unwrap() as usize;
        assert!(
            tokenizer.num_tokens() <= expected && tokenizer.num_tokens() > expected - 16,
            "{name}"
        );
    }
}

fn messages(chat: &Value) -> Vec<(String, String)> {
    let message = |message: &Value| {
        let field = |name: &str| message[name].as_str().unwrap().to_owned();
        (field("role"), field("content"))
    };
    chat["messages"].as_array().unwrap().iter().map(message).collect()
}

/// Only chats that ask for an answer: no prompt of ours does otherwise.
fn assert_chats(template: &ChatTemplate, chats: &Value, name: &str, encode: impl Fn(&str) -> Vec<u32>) -> usize {
    let chats = chats
        .as_array()
        .unwrap()
        .iter()
        .filter(|chat| chat["add_generation_prompt"].as_bool().unwrap());
    let mut rendered = 0;
    for chat in chats {
        let owned = messages(chat);
        let messages: Vec<_> = owned.iter().map(|(role, content)| Message { role, content }).collect();
        match (template.render(&messages), chat["error"].as_str()) {
            (Ok(text), None) => {
                assert_eq!(text, chat["text"].as_str().unwrap(), "{name}");
                if chat["ids"].is_array() {
                    assert_eq!(encode(&text), numbers(&chat["ids"]), "{name}: {text}");
                }
                rendered += 1;
            }
            (Err(reason), Some(error)) => assert!(reason.contains(error), "{name}: {reason}, not {error}"),
            (Ok(text), Some(error)) => panic!("{name}: rendered {text:?} where transformers says {error}"),
            (Err(reason), None) => panic!("{name}: {reason}"),
        }
    }
    rendered
}

#[test]
fn chats_are_those_of_transformers() {
    let goldens = json(golden("tokenizers.json"));
    let mut rendered = 0;
    for name in FOLDERS {
        let tokenizer = Tokenizer::from_folder(&folder(name)).unwrap();
        let encode = |text: &str| ids(&tokenizer.encode_bare(&[Segment::Template(text)]).unwrap());
        match tokenizer.chat_template() {
            Some(template) => rendered += assert_chats(template, &goldens["tokenizers"][name]["chats"], name, encode),
            None => assert_eq!(name, "t5-gated"),
        }
    }
    let tokens = Tokenizer::from_folder(&folder("llama2"))
        .unwrap()
        .chat_template()
        .unwrap()
        .tokens
        .clone();
    for (name, more) in goldens["templates"].as_object().unwrap() {
        let template = ChatTemplate {
            source: more["template"].as_str().unwrap().to_owned(),
            tokens: tokens.clone(),
        };
        rendered += assert_chats(&template, &more["chats"], name, |_| unreachable!("these have no ids"));
    }
    assert!(rendered > 30, "only {rendered} chats were compared");
}

#[test]
fn a_caption_never_becomes_a_control_token() {
    for name in FOLDERS {
        let tokenizer = Tokenizer::from_folder(&folder(name)).unwrap();
        let listed = json(folder(name).join("tokenizer.json"))["added_tokens"].clone();
        let special = listed
            .as_array()
            .unwrap()
            .iter()
            .filter(|token| token["special"].as_bool().unwrap());
        let special: Vec<_> = special
            .map(|token| (token["content"].as_str().unwrap(), token["id"].as_u64()))
            .collect();
        let unknown = json(folder(name).join("tokenizer_config.json"))["unk_token"].clone();
        let all: String = special
            .iter()
            .fold(String::new(), |all, (text, _)| all + &format!("{text} a{text}{text}"));
        let control = |tokens: &[Token]| {
            let is_control = |token: &&Token| {
                let text = special.iter().find(|(_, id)| *id == Some(u64::from(token.id)));
                text.is_some_and(|(text, _)| unknown != *text && unknown["content"] != *text)
            };
            tokens.iter().filter(is_control).count()
        };
        let plain = tokenizer.encode_bare(&[Segment::Plain(&all)]).unwrap();
        assert_eq!(control(&plain), 0, "{name}");
        let template = tokenizer.encode_bare(&[Segment::Template(&all)]).unwrap();
        assert!(control(&template) >= 3 * special.len() - 3, "{name}");
        // Neither do its halves, one of which is a template's.
        for (text, id) in &special {
            let (left, right) = text.split_at(1);
            for halves in [
                [Segment::Template(left), Segment::Plain(right)],
                [Segment::Plain(left), Segment::Template(right)],
            ] {
                let tokens = tokenizer.encode_bare(&halves).unwrap();
                let made = tokens.iter().any(|token| Some(u64::from(token.id)) == *id);
                assert!(
                    !made || unknown == *text || unknown["content"] == *text,
                    "{name}: {text}"
                );
            }
        }
    }
}

#[test]
fn bytes_of_tokens_follow_each_other_in_any_text() {
    // Marks without a letter, marks that reorder, joiners, characters that vanish at the start, lone surrogates' kin.
    let texts = [
        "\u{301}a\u{301}\u{323}e",
        "\u{200b}\u{feff}\u{1}x\u{200b}",
        "\u{1100}\u{1161}\u{11a8}",
        "\u{fdfa}\u{fffd}\u{10ffff}",
        "a\u{0}b",
        "👩‍👩‍👧‍👦🏳️‍🌈",
        "\u{200b}",
        "ﬁ…½Ａ",
    ];
    for name in FOLDERS {
        let tokenizer = Tokenizer::from_folder(&folder(name)).unwrap();
        for text in texts {
            let tokens = tokenizer.encode_bare(&[Segment::Plain(text)]).unwrap();
            for pair in tokens.windows(2) {
                assert!(
                    pair[0].bytes.start <= pair[1].bytes.start,
                    "{name}: {text:?} {tokens:?}"
                );
            }
            for token in &tokens {
                assert!(
                    text.get(token.bytes.clone()).is_some_and(|part| !part.is_empty()),
                    "{name}: {text:?} {token:?}"
                );
            }
        }
        // What vanishes at the start leaves the rest where it is.
        let tokens = tokenizer.encode_bare(&[Segment::Plain("\u{200b}ab")]).unwrap();
        assert_eq!(tokens.last().unwrap().bytes.end, 5, "{name}");
    }
}

/// The tokenizer of a folder, as a GGUF file's metadata.
fn gguf_of(name: &str, model: &str, pre: &str) -> BTreeMap<String, Metadata> {
    let file = json(folder(name).join("tokenizer.json"));
    let mut tokens: BTreeMap<u64, (String, f32)> = BTreeMap::new();
    match &file["model"]["vocab"] {
        Value::Array(pieces) => {
            for (id, piece) in (0..).zip(pieces) {
                tokens.insert(
                    id,
                    (piece[0].as_str().unwrap().into(), piece[1].as_f64().unwrap() as f32),
                );
            }
        }
        vocab => {
            for (text, id) in vocab.as_object().unwrap() {
                tokens.insert(id.as_u64().unwrap(), (text.clone(), 0.0));
            }
        }
    }
    let mut kinds: BTreeMap<u64, i32> = BTreeMap::new();
    for added in file["added_tokens"].as_array().unwrap() {
        let id = added["id"].as_u64().unwrap();
        tokens.insert(id, (added["content"].as_str().unwrap().into(), 0.0));
        kinds.insert(id, if added["special"].as_bool().unwrap() { 3 } else { 4 });
    }
    let text = |text: &str| Metadata::String(text.into());
    let list = |values: Vec<Metadata>| Metadata::Array(values);
    let mut metadata: BTreeMap<String, Metadata> = BTreeMap::new();
    let mut put = |key: &str, value| metadata.insert(format!("tokenizer.ggml.{key}"), value);
    put("model", text(model));
    put("pre", text(pre));
    put("tokens", list(tokens.values().map(|(token, _)| text(token)).collect()));
    put(
        "scores",
        list(tokens.values().map(|(_, score)| Metadata::F32(*score)).collect()),
    );
    let kind = |id| Metadata::I32(kinds.get(id).copied().unwrap_or(1));
    put("token_type", list(tokens.keys().map(kind).collect()));
    if let Some(merges) = file["model"]["merges"].as_array() {
        let line = |pair: &Value| text(&format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()));
        put("merges", list(merges.iter().map(line).collect()));
    }
    metadata
}

fn load_gguf(metadata: &BTreeMap<String, Metadata>) -> Result<Tokenizer, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = File::create(file.path()).unwrap();
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    gguf_file::write(&mut writer, &metadata, &[]).unwrap();
    let file = GgufFile::open(file.path()).unwrap();
    Tokenizer::from_gguf(&file).map_err(|e| e.to_string())
}

#[test]
fn gguf_files_give_the_ids_of_the_folder_that_they_come_from() {
    let goldens = json(golden("tokenizers.json"));
    let mut llama3 = gguf_of("llama3", "gpt2", "llama-bpe");
    llama3.insert(
        "tokenizer.ggml.bos_token_id".into(),
        Metadata::U32(goldens_bos("llama3")),
    );
    assert_encodings(&load_gguf(&llama3).unwrap(), &goldens, "llama3");
    let mut qwen3 = gguf_of("qwen3", "gpt2", "qwen2");
    qwen3.insert("tokenizer.ggml.add_bos_token".into(), Metadata::Bool(false));
    assert_encodings(&load_gguf(&qwen3).unwrap(), &goldens, "qwen3");
    let mut t5 = gguf_of("t5-gated", "t5", "default");
    t5.insert("tokenizer.ggml.eos_token_id".into(), Metadata::U32(1));
    t5.insert("tokenizer.ggml.unknown_token_id".into(), Metadata::U32(2));
    let charsmap = charsmap("t5-gated");
    let list = |bytes: &[u8]| Metadata::Array(bytes.iter().map(|&byte| Metadata::U8(byte)).collect());
    t5.insert("tokenizer.ggml.precompiled_charsmap".into(), list(&charsmap));
    assert_encodings(&load_gguf(&t5).unwrap(), &goldens, "t5-gated");
    // A damaged table is refused, and one that is accepted never leads outside.
    let mut refused = 0;
    for seed in 0..400_usize {
        let mut damaged = charsmap.clone();
        let at = seed * 7919 % damaged.len();
        damaged[at] ^= 1 << (seed % 8);
        if seed % 5 == 0 {
            damaged.truncate(at);
        }
        t5.insert("tokenizer.ggml.precompiled_charsmap".into(), list(&damaged));
        match load_gguf(&t5) {
            Ok(tokenizer) => {
                for text in texts(&goldens).iter().filter(|text| text.len() < 1000) {
                    tokenizer.encode(&[Segment::Plain(text)]).unwrap();
                }
            }
            Err(reason) => {
                assert!(reason.contains("its precompiled_charsmap is damaged"), "{reason}");
                refused += 1;
            }
        }
    }
    assert!(refused > 80, "{refused}");
}

fn goldens_bos(name: &str) -> u32 {
    Tokenizer::from_folder(&folder(name)).unwrap().ends().before[0]
}

/// The bytes of a folder's table of characters, which `tokenizer.json` has in base 64.
fn charsmap(name: &str) -> Vec<u8> {
    let file = json(folder(name).join("tokenizer.json"));
    let text = file["normalizer"]["precompiled_charsmap"].as_str().unwrap();
    let digit = |c: u8| match c {
        b'A'..=b'Z' => u32::from(c - b'A'),
        b'a'..=b'z' => u32::from(c - b'a') + 26,
        b'0'..=b'9' => u32::from(c - b'0') + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u32> = text.trim_end_matches('=').bytes().map(digit).collect();
    let mut bytes = Vec::new();
    for four in digits.chunks(4) {
        let joined = four
            .iter()
            .enumerate()
            .fold(0, |sum, (i, digit)| sum | digit << (18 - 6 * i));
        bytes.extend(&joined.to_be_bytes()[1..four.len()]);
    }
    bytes
}

#[test]
fn sentencepiece_vocabularies_give_the_ids_of_sentencepiece() {
    for (prefix, name) in [(true, "with_prefix"), (false, "without_prefix")] {
        let reference = &json(golden("sentencepiece.json"))[name];
        let list = |key: &str| reference[key].as_array().unwrap().clone();
        let mut metadata: BTreeMap<String, Metadata> = BTreeMap::new();
        let mut put = |key: &str, value| metadata.insert(format!("tokenizer.ggml.{key}"), value);
        let text = |text: &Value| Metadata::String(text.as_str().unwrap().into());
        let score = |score: &Value| Metadata::F32(score.as_f64().unwrap() as f32);
        let kind = |kind: &Value| Metadata::I32(kind.as_i64().unwrap() as i32);
        put("model", Metadata::String("llama".into()));
        put("tokens", Metadata::Array(list("tokens").iter().map(text).collect()));
        put("scores", Metadata::Array(list("scores").iter().map(score).collect()));
        put("token_type", Metadata::Array(list("kinds").iter().map(kind).collect()));
        put("bos_token_id", Metadata::U32(1));
        if !prefix {
            put("add_space_prefix", Metadata::Bool(false));
        }
        let tokenizer = load_gguf(&metadata).unwrap();
        for case in list("cases") {
            let text = case["text"].as_str().unwrap();
            let found = ids(&tokenizer.encode(&[Segment::Plain(text)]).unwrap());
            assert_eq!(found[0], 1);
            assert_eq!(found[1..], numbers(&case["ids"]), "{name}: {text:?}");
        }
        // llama.cpp begins anew after each control token.
        let again = ids(&tokenizer.encode_bare(&[Segment::Template("a</s>a")]).unwrap());
        let once = ids(&tokenizer.encode_bare(&[Segment::Template("a")]).unwrap());
        assert_eq!(again, [once.as_slice(), &[2], &once].concat());
    }
}

#[test]
fn words_are_those_of_the_regular_expressions_in_oniguruma() {
    let goldens = json(golden("tokenizers.json"));
    for (pre, expected) in json(golden("words.json")).as_object().unwrap() {
        let mut metadata = gguf_of("qwen3", "gpt2", pre);
        metadata.insert("tokenizer.ggml.add_bos_token".into(), Metadata::Bool(false));
        let tokenizer = load_gguf(&metadata).unwrap();
        for (text, expected) in texts(&goldens).iter().zip(expected.as_array().unwrap()) {
            let found = ids(&tokenizer.encode(&[Segment::Plain(text)]).unwrap());
            assert_ids(
                &found,
                expected,
                &format!("{pre}: {:?}", text.chars().take(60).collect::<String>()),
            );
        }
    }
}

#[test]
fn wrong_gguf_vocabularies_are_refused() {
    let good = gguf_of("qwen3", "gpt2", "qwen2");
    let text = |text: &str| Metadata::String(text.into());
    let cases = [
        ("model", text("rwkv"), "unknown kind `rwkv`"),
        ("pre", text("falcon"), "unknown pre-tokenizer `falcon`"),
        ("merges", Metadata::Array(vec![text("no-space")]), "is not two tokens"),
        ("merges", Metadata::Array(vec![text("a \u{1f98a}")]), "has no token"),
        // Both are tokens, what they make is none.
        ("merges", Metadata::Array(vec![text("z \u{122}")]), "has no token"),
        ("token_type", Metadata::Array(vec![Metadata::I32(1)]), "token types"),
        ("add_bos_token", Metadata::Bool(true), "bos_token_id"),
    ];
    for (key, value, expected) in cases {
        let mut metadata = good.clone();
        metadata.insert(format!("tokenizer.ggml.{key}"), value);
        let reason = load_gguf(&metadata).err().unwrap();
        assert!(reason.contains(expected), "{reason}");
    }
}

#[test]
fn wrong_folders_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let refused = || Tokenizer::from_folder(dir.path()).err().unwrap().to_string();
    assert!(
        refused().contains("tokenizer.json`: tokenizer: the file is missing"),
        "{}",
        refused()
    );
    let write = |text: &str| fs::write(dir.path().join("tokenizer.json"), text).unwrap();
    write("{\"added_tokens\": 3}");
    assert!(refused().contains("not readable"), "{}", refused());
    write(r#"{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}"#);
    assert!(refused().contains("unknown model `WordLevel`"), "{}", refused());
    write(r#"{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}}"#);
    assert!(refused().contains("has no token `ab`"), "{}", refused());
    write(r#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#);
    fs::write(
        dir.path().join("tokenizer_config.json"),
        r#"{"tokenizer_class": "T5Tokenizer"}"#,
    )
    .unwrap();
    assert!(refused().contains("does not fit its class"), "{}", refused());
}

#[test]
fn digests_tell_tokenizers_and_templates_apart() {
    let mut digests: Vec<String> = FOLDERS
        .map(|name| Tokenizer::from_folder(&folder(name)).unwrap().digest().to_owned())
        .into();
    let dir = tempfile::tempdir().unwrap();
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "config.json",
        "chat_template.jinja",
    ] {
        fs::copy(folder("qwen3").join(name), dir.path().join(name)).unwrap();
    }
    let copy = Tokenizer::from_folder(dir.path()).unwrap();
    assert_eq!(copy.digest(), digests[3], "the folder's name does not count");
    fs::write(dir.path().join("chat_template.jinja"), "{{ messages }}").unwrap();
    digests.push(Tokenizer::from_folder(dir.path()).unwrap().digest().to_owned());
    let count = digests.len();
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), count);
}
