//! What every kind of input gives: pictures with captions, or why there is none.

use serde::Deserialize;
use serde_json::Value;

use crate::image::Limits;
use crate::shard_file::CaptionColumn;

/// The longest picture that is taken, in bytes.
pub(super) const MAX_PICTURE_BYTES: u64 = Limits::new(1).max_bytes as u64;

/// One row of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Identifies the picture in the input.
    pub key: String,
    /// The encoded picture.
    pub image: Vec<u8>,
    /// Its captions; more than one only where the input has alternatives.
    pub captions: Vec<String>,
    /// Its synthetic caption, where one was asked for and is there.
    pub synthetic: Option<String>,
    /// The file and row, for messages.
    pub place: String,
}

/// What is said of a picture.
pub(super) struct Texts {
    pub captions: Vec<String>,
    pub synthetic: Option<String>,
}

/// A row of the input that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bad {
    pub place: String,
    pub reason: String,
}

pub(super) type Row = Result<Item, Bad>;

/// What an input says of itself before any picture is read.
pub(super) struct Survey {
    /// Rows, usable or not.
    pub rows: u64,
    /// Whether any row has a list of captions.
    pub captions: CaptionColumn,
    /// Changes when the input does.
    pub digest: String,
}

/// The text of a sidecar or member: UTF-8, its outer white space and byte order mark cut off.
pub(super) fn plain_text(bytes: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("its caption is not UTF-8: {error}"))?;
    Ok(text.trim_start_matches('\u{FEFF}').trim().to_owned())
}

/// An object of a sidecar, a member or a line.
pub(super) fn json(bytes: &[u8]) -> Result<Value, String> {
    let bytes = bytes.strip_prefix("\u{FEFF}".as_bytes()).unwrap_or(bytes);
    let value: Value = serde_json::from_slice(bytes).map_err(|error| format!("not JSON: {error}"))?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(format!("is {}, not a JSON object", kind(&value)))
    }
}

/// The captions in a field: a string, or a list of them.
pub(super) fn captions(object: &Value, field: &str) -> Result<Vec<String>, String> {
    match object.get(field) {
        None => Err(format!("it has no caption: no field `{field}`")),
        Some(Value::Null) => Err("its caption is null".to_owned()),
        Some(Value::String(caption)) => Ok(vec![caption.clone()]),
        Some(list @ Value::Array(_)) => match Vec::<String>::deserialize(list) {
            Ok(captions) if captions.is_empty() => Err(format!("`{field}` is an empty list")),
            Ok(captions) => Ok(captions),
            Err(_) => Err(format!("`{field}` is a list of other things than strings")),
        },
        Some(other) => Err(format!(
            "`{field}` is {}, must be a string or a list of strings",
            kind(other)
        )),
    }
}

/// The synthetic caption in a field: a string; none where it is absent or null.
pub(super) fn synthetic(object: &Value, field: Option<&str>) -> Result<Option<String>, String> {
    let Some(field) = field else {
        return Ok(None);
    };
    match object.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(caption)) => Ok(Some(caption.clone())),
        Some(other) => Err(format!("`{field}` is {}, must be a string", kind(other))),
    }
}

/// Whether a field holds a list of captions.
pub(super) fn captions_kind(object: &Value, field: &str) -> CaptionColumn {
    if object.get(field).is_some_and(Value::is_array) {
        CaptionColumn::Alternatives
    } else {
        CaptionColumn::One
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_caption_is_a_string_or_a_list_and_nothing_else() {
        let read = |value: Value| captions(&json!({ "caption": value }), "caption");
        assert_eq!(read(json!("a cat")).unwrap(), ["a cat"]);
        assert_eq!(read(json!(["a cat", ""])).unwrap(), ["a cat", ""]);
        for (value, reason) in [
            (json!(3), "is a number"),
            (json!(null), "is null"),
            (json!([]), "empty list"),
            (json!(["a", 3]), "other things than strings"),
            (json!({ "en": "a" }), "is an object"),
        ] {
            let message = read(value).unwrap_err();
            assert!(message.contains(reason), "{message}");
        }
        let message = captions(&json!({}), "text").unwrap_err();
        assert!(message.contains("no field `text`"), "{message}");
    }

    #[test]
    fn text_is_utf8_without_its_ends() {
        assert_eq!(plain_text("\u{FEFF}  two\nlines \n".as_bytes()).unwrap(), "two\nlines");
        assert!(plain_text(&[0xFF, 0x20]).unwrap_err().contains("not UTF-8"));
    }
}
