//! JSON values as YAML that people read: block style, quotes only where they are needed.

use serde_json::{Map, Value};

/// Keys that stand first in every object; the others follow by name.
const FIRST: [&str; 4] = ["apiVersion", "kind", "metadata", "name"];
/// Words that YAML would take for something else than text.
const SPECIAL: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];

/// One YAML document. Empty lists and objects inside objects are left out.
pub fn document(value: &Value) -> String {
    let mut text = String::new();
    write(&mut text, value, 0);
    text
}

fn write(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (key, value) in ordered(map) {
                text.extend([&indent, &scalar(&Value::from(key)), ":"]);
                match value {
                    Value::Object(_) | Value::Array(_) => {
                        text.push('\n');
                        write(text, value, depth + 1);
                    }
                    value => text.extend([" ", &scalar(value), "\n"]),
                }
            }
        }
        Value::Array(list) => {
            for value in list {
                let mut item = String::new();
                write(&mut item, value, depth + 1);
                // The item's first line begins with its dash.
                text.extend([&indent, "- ", &item[2 * (depth + 1)..]]);
            }
        }
        value => text.extend([&indent, &scalar(value), "\n"]),
    }
}

fn ordered(map: &Map<String, Value>) -> Vec<(&str, &Value)> {
    let is_empty =
        |value: &Value| value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
    let mut entries: Vec<(&str, &Value)> = map.iter().map(|(key, value)| (key.as_str(), value)).collect();
    entries.retain(|(_, value)| !is_empty(value));
    let place = |key: &str| FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len());
    entries.sort_by_key(|(key, _)| (place(key), *key));
    entries
}

/// Text that could be read as anything else is quoted as in JSON, which YAML reads alike.
fn scalar(value: &Value) -> String {
    let Value::String(text) = value else {
        return value.to_string();
    };
    let begins = text.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '/');
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "_/.=-".contains(letter);
    if begins && text.chars().all(plain) && !SPECIAL.contains(&text.to_ascii_lowercase().as_str()) {
        text.clone()
    } else {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_lists_and_doubtful_words() {
        let value = json!({
            "z": [["a", 1], { "b": "yes", "name": "x" }, "29400"],
            "kind": "Job",
            "empty": {},
            "text": "a: b # c",
            "nvidia.com/gpu": "8",
        });
        let expected = "kind: Job\nnvidia.com/gpu: \"8\"\ntext: \"a: b # c\"\nz:\n  - - a\n    - 1\n  - name: x\n    b: \"yes\"\n  - \"29400\"\n";
        assert_eq!(document(&value), expected);
    }
}
