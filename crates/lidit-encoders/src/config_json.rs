//! `config.json` of a Hugging Face folder: typed access, and the language model's part of it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{EncoderError, LlmArchitecture};

/// The largest `config.json` that is read; real ones have a few kilobytes.
const MAX_BYTES: u64 = 16 << 20;

/// Tables that hold the language part's keys, and how messages name what is in them.
const LANGUAGE_PARTS: [(&str, &str); 3] = [
    ("text_config", "text_config."),
    ("llm_config", "llm_config."),
    ("language_config", "language_config."),
];

/// The keys of a language model's config. Of a model that can also see, those of its language part.
pub struct ConfigJson {
    path: PathBuf,
    keys: Map<String, Value>,
    /// Where `keys` lie in the file, for messages: empty, or `text_config.`.
    place: &'static str,
}

impl ConfigJson {
    /// Reads `FOLDER/config.json` and descends into the language part.
    pub fn open(folder: &Path) -> Result<Self, EncoderError> {
        let path = folder.join("config.json");
        let io = EncoderError::io(&path);
        let malformed = EncoderError::malformed(&path, "JSON");
        let bytes = fs::metadata(&path).map_err(io)?.len();
        if bytes > MAX_BYTES {
            return Err(malformed(format!("it has {bytes} bytes, at most {MAX_BYTES} are read")));
        }
        let text = fs::read(&path).map_err(io)?;
        let mut keys: Map<String, Value> = serde_json::from_slice(&text).map_err(|e| malformed(e.to_string()))?;
        for (key, place) in LANGUAGE_PARTS {
            if let Some(Value::Object(mut inner)) = keys.remove(key) {
                // Said once for the whole model, but it changes how the language part is stored.
                inner.extend(keys.remove_entry("quantization_config"));
                return Ok(Self {
                    path,
                    keys: inner,
                    place,
                });
            }
        }
        Ok(Self { path, keys, place: "" })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The family, by `model_type`.
    pub fn architecture(&self) -> Result<LlmArchitecture, EncoderError> {
        let name = self.text("model_type")?.ok_or_else(|| EncoderError::MissingKey {
            path: self.path.clone(),
            key: format!("{}model_type", self.place),
        })?;
        LlmArchitecture::from_model_type(name).ok_or_else(|| EncoderError::Architecture {
            path: self.path.clone(),
            architecture: name.to_owned(),
            known: LlmArchitecture::ALL.map(LlmArchitecture::name).join(", "),
        })
    }

    /// A positive whole number, if the key is there and not null.
    pub fn count(&self, key: &str) -> Result<Option<usize>, EncoderError> {
        let convert = |value: &Value| value.as_u64().filter(|count| (1..1 << 32).contains(count));
        Ok(self
            .typed(key, "a whole number from 1", convert)?
            .map(|count| count as usize))
    }

    /// A whole number, which may be 0, if the key is there and not null.
    pub fn any_count(&self, key: &str) -> Result<Option<usize>, EncoderError> {
        let convert = |value: &Value| value.as_u64().filter(|count| *count < 1 << 32);
        Ok(self.typed(key, "a whole number", convert)?.map(|count| count as usize))
    }

    /// Whether the key is there and null.
    pub fn is_null(&self, key: &str) -> bool {
        self.keys.get(key).is_some_and(Value::is_null)
    }

    /// The names of all keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// A finite number, if the key is there and not null.
    pub fn number(&self, key: &str) -> Result<Option<f64>, EncoderError> {
        let finite = |value: &Value| value.as_f64().filter(|number| number.is_finite());
        self.typed(key, "a finite number", finite)
    }

    /// Positive whole numbers, if the key is there and not null.
    pub fn counts(&self, key: &str) -> Result<Option<Vec<usize>>, EncoderError> {
        let count = |value: &Value| value.as_u64().filter(|count| (1..1 << 32).contains(count));
        self.typed(key, "a list of whole numbers from 1", |value| {
            let counts = value.as_array()?.iter().map(|value| Some(count(value)? as usize));
            counts.collect()
        })
    }

    /// A finite number above 0, if the key is there and not null.
    pub fn float(&self, key: &str) -> Result<Option<f32>, EncoderError> {
        self.typed(key, "a number above 0", positive)
    }

    /// A flag, if the key is there and not null.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, EncoderError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A string, if the key is there and not null.
    pub fn text(&self, key: &str) -> Result<Option<&str>, EncoderError> {
        self.typed(key, "a string", Value::as_str)
    }

    /// A list of strings, if the key is there and not null.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, EncoderError> {
        self.typed(key, "a list of strings", |value| {
            value.as_array()?.iter().map(Value::as_str).collect()
        })
    }

    /// A nested table, if the key is there and not null.
    pub fn table(&self, key: &str) -> Result<Option<&Map<String, Value>>, EncoderError> {
        self.typed(key, "a table", Value::as_object)
    }

    /// The error of a key whose value can't be used.
    pub fn bad(&self, key: &str, expected: impl Into<String>) -> EncoderError {
        EncoderError::BadKey {
            path: self.path.clone(),
            key: format!("{}{key}", self.place),
            expected: expected.into(),
        }
    }

    /// The error of a key that `class` does not have.
    pub fn unknown(&self, key: &str, class: &'static str) -> EncoderError {
        EncoderError::UnknownKey {
            path: self.path.clone(),
            key: format!("{}{key}", self.place),
            class,
        }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, EncoderError> {
        match self.keys.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => convert(value).map(Some).ok_or_else(|| self.bad(key, expected)),
        }
    }
}

/// A finite number above 0.
pub fn positive(value: &Value) -> Option<f32> {
    let number = value.as_f64()? as f32;
    (number.is_finite() && number > 0.0).then_some(number)
}
