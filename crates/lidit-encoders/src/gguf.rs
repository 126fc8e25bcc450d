//! GGUF files: metadata and tensors, through candle's reader and dequantiser, whose types stay in this file.

use std::cell::RefCell;
use std::fs::File;
use std::io::{BufReader, Seek};
use std::path::{Path, PathBuf};

use candle_core::quantized::QTensor;
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{Device, Tensor};

use crate::{EncoderError, gguf_header};

/// An open GGUF file. Tensors are read, one at a time, when asked for.
pub struct GgufFile {
    path: PathBuf,
    reader: RefCell<BufReader<File>>,
    content: Content,
}

impl GgufFile {
    /// Reads the header and metadata and checks that every tensor lies inside the file.
    pub fn open(path: &Path) -> Result<Self, EncoderError> {
        let io = EncoderError::io(path);
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let malformed = EncoderError::malformed(path, "GGUF");
        gguf_header::check(&file, len).map_err(malformed)?;
        let mut reader = BufReader::with_capacity(1 << 18, file);
        reader.rewind().map_err(io)?;
        let content = Content::read(&mut reader).map_err(|e| malformed(first_line(&e)))?;
        let file = Self {
            path: path.to_owned(),
            reader: RefCell::new(reader),
            content,
        };
        file.check_extents(len)?;
        Ok(file)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a tensor of this name exists.
    pub fn has_tensor(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.content.tensor_infos.keys().cloned().collect();
        names.sort();
        names
    }

    /// A tensor as f32 in row-major order.
    pub fn tensor(&self, name: &str) -> Result<Vec<f32>, EncoderError> {
        let malformed = |e| self.malformed(name, &e);
        self.read(name)?
            .dequantize(&Device::Cpu)
            .and_then(|t| t.flatten_all()?.to_vec1())
            .map_err(malformed)
    }

    /// A two-dimensional tensor that stays quantised; its rows are dequantised when gathered.
    pub fn table(&self, name: &str) -> Result<QuantizedTable, EncoderError> {
        Ok(QuantizedTable {
            tensor: self.read(name)?,
        })
    }

    /// The shape of a tensor, outermost dimension first, if it is here.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let info = self.content.tensor_infos.get(name)?;
        Some(info.shape.dims().to_vec())
    }

    fn read(&self, name: &str) -> Result<QTensor, EncoderError> {
        if !self.has_tensor(name) {
            return Err(EncoderError::MissingTensor {
                path: self.path.clone(),
                tensor: name.to_owned(),
            });
        }
        let mut reader = self.reader.borrow_mut();
        let tensor = self.content.tensor(&mut *reader, name, &Device::Cpu);
        tensor.map_err(|e| self.malformed(name, &e))
    }

    fn check_extents(&self, len: u64) -> Result<(), EncoderError> {
        let mut names: Vec<_> = self.content.tensor_infos.keys().collect();
        names.sort();
        for name in names {
            let info = &self.content.tensor_infos[name];
            let dtype = info.ggml_dtype;
            let elements = info
                .shape
                .dims()
                .iter()
                .try_fold(1_u64, |n, &dim| n.checked_mul(dim as u64));
            let bytes = elements
                .map(|n| n / dtype.block_size() as u64)
                .and_then(|blocks| blocks.checked_mul(dtype.type_size() as u64));
            let end = bytes
                .and_then(|bytes| bytes.checked_add(info.offset))
                .and_then(|end| end.checked_add(self.content.tensor_data_offset))
                .unwrap_or(u64::MAX);
            if end > len {
                return Err(EncoderError::Truncated {
                    path: self.path.clone(),
                    tensor: name.clone(),
                    end,
                    len,
                });
            }
        }
        Ok(())
    }

    fn malformed(&self, tensor: &str, error: &candle_core::Error) -> EncoderError {
        EncoderError::Malformed {
            path: self.path.clone(),
            format: "GGUF",
            reason: format!("tensor `{tensor}`: {}", first_line(error)),
        }
    }
}

/// Metadata, by key.
impl GgufFile {
    /// A whole number that must be there.
    pub fn count(&self, key: &str) -> Result<usize, EncoderError> {
        self.required(key, self.find_count(key)?)
    }

    /// A whole number, if the key is there.
    pub fn find_count(&self, key: &str) -> Result<Option<usize>, EncoderError> {
        self.typed(key, "a whole number below 2^32", |value| match value {
            Value::I32(v) => usize::try_from(*v).ok(),
            value => value.to_u64().ok().filter(|v| *v < 1 << 32).map(|v| v as usize),
        })
    }

    /// A float that must be there.
    pub fn float(&self, key: &str) -> Result<f32, EncoderError> {
        self.required(key, self.find_float(key)?)
    }

    /// A float, if the key is there.
    pub fn find_float(&self, key: &str) -> Result<Option<f32>, EncoderError> {
        self.typed(key, "a float", |value| value.to_f32().ok())
    }

    /// A flag, if the key is there.
    pub fn find_flag(&self, key: &str) -> Result<Option<bool>, EncoderError> {
        self.typed(key, "true or false", |value| value.to_bool().ok())
    }

    /// A string that must be there.
    pub fn text(&self, key: &str) -> Result<String, EncoderError> {
        self.required(key, self.find_text(key)?)
    }

    /// A string, if the key is there.
    pub fn find_text(&self, key: &str) -> Result<Option<String>, EncoderError> {
        self.typed(key, "a string", |value| value.to_string().ok().cloned())
    }

    /// A list of strings that must be there.
    pub fn texts(&self, key: &str) -> Result<Vec<String>, EncoderError> {
        let list = self.typed(key, "a list of strings", |value| {
            list(value, |v| v.to_string().ok().cloned())
        })?;
        self.required(key, list)
    }

    /// A list of floats that must be there.
    pub fn floats(&self, key: &str) -> Result<Vec<f32>, EncoderError> {
        let list = self.typed(key, "a list of floats", |value| list(value, |v| v.to_f32().ok()))?;
        self.required(key, list)
    }

    /// A list of small whole numbers that must be there.
    pub fn counts(&self, key: &str) -> Result<Vec<i32>, EncoderError> {
        let list = self.typed(key, "a list of whole numbers", |value| {
            list(value, |v| match v {
                Value::U32(v) => i32::try_from(*v).ok(),
                v => v.to_i32().ok(),
            })
        })?;
        self.required(key, list)
    }

    /// A list of bytes, if the key is there.
    pub fn find_bytes(&self, key: &str) -> Result<Option<Vec<u8>>, EncoderError> {
        self.typed(key, "a list of bytes", |value| {
            list(value, |v| match v {
                Value::U8(v) => Some(*v),
                Value::I8(v) => Some(v.cast_unsigned()),
                _ => None,
            })
        })
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, EncoderError> {
        value.ok_or_else(|| EncoderError::MissingKey {
            path: self.path.clone(),
            key: key.to_owned(),
        })
    }

    fn typed<T>(
        &self,
        key: &str,
        expected: &str,
        convert: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, EncoderError> {
        let Some(value) = self.content.metadata.get(key) else {
            return Ok(None);
        };
        let value = convert(value).ok_or_else(|| EncoderError::BadKey {
            path: self.path.clone(),
            key: key.to_owned(),
            expected: expected.to_owned(),
        })?;
        Ok(Some(value))
    }
}

/// A quantised table that stays so in memory.
pub struct QuantizedTable {
    tensor: QTensor,
}

impl QuantizedTable {
    /// Number of rows.
    pub fn num_rows(&self) -> usize {
        self.tensor.shape().dims()[0]
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.tensor.storage_size_in_bytes()
    }

    /// The rows of `ids`, which are below `num_rows`, dequantised, row-major: `[ids, columns]`.
    pub fn gather(&self, ids: &[u32]) -> Result<Vec<f32>, EncoderError> {
        let rows = Tensor::new(ids, &Device::Cpu)
            .and_then(|ids| self.tensor.embedding(&ids))
            .and_then(|t| t.flatten_all()?.to_vec1());
        rows.map_err(|e| EncoderError::Device { reason: first_line(&e) })
    }
}

fn list<T>(value: &Value, convert: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    value.to_vec().ok()?.iter().map(convert).collect()
}

/// candle appends backtraces to its messages.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
