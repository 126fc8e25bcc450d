//! Tensors from a state dictionary as `PyTorch` before 1.6 saved it: pickles, then the raw numbers.
//!
//! candle's pickle reader builds plain lists and tuples and never runs what a pickle names, so a file from a stranger
//! can be wrong but not dangerous.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::pickle::{Object, Stack};

use crate::EncoderError;

/// The pickles of the format's magic number and of its version, 1001.
const BEGINNING: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.";

/// The largest file that is read; it is held in memory whole.
const MAX_BYTES: u64 = 1 << 30;

/// The 32-bit float tensors of a file. Others, such as counters, are passed over.
pub struct PthFile {
    path: PathBuf,
    tensors: BTreeMap<String, View>,
    storages: BTreeMap<String, Vec<f32>>,
}

/// Where a tensor's numbers are in its storage.
struct View {
    storage: String,
    offset: usize,
    shape: Vec<usize>,
    stride: Vec<usize>,
}

/// What a storage holds, by `PyTorch`'s name for it.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Float,
    /// Numbers of this many bytes that nobody asks for.
    Other(usize),
}

impl PthFile {
    /// Reads the whole file.
    pub fn open(path: &Path) -> Result<Self, EncoderError> {
        let io = EncoderError::io(path);
        let malformed = EncoderError::malformed(path, "PyTorch");
        let len = fs::metadata(path).map_err(io)?.len();
        if len > MAX_BYTES {
            return Err(malformed(format!("it has {len} bytes, at most {MAX_BYTES} are read")));
        }
        let bytes = fs::read(path).map_err(io)?;
        let (tensors, storages) = parse(&bytes).map_err(malformed)?;
        Ok(Self {
            path: path.to_owned(),
            tensors,
            storages,
        })
    }

    /// A tensor's values in row-major order; it must have this shape.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EncoderError> {
        let Some(view) = self.tensors.get(name) else {
            return Err(EncoderError::MissingTensor {
                path: self.path.clone(),
                tensor: name.to_owned(),
            });
        };
        if view.shape != shape {
            return Err(EncoderError::TensorShape {
                path: self.path.clone(),
                tensor: name.to_owned(),
                expected: shape.to_vec(),
                found: view.shape.clone(),
            });
        }
        let outside = || format!("tensor `{name}` lies outside its storage");
        view.values(&self.storages)
            .ok_or_else(|| EncoderError::malformed(&self.path, "PyTorch")(outside()))
    }
}

impl View {
    fn values(&self, storages: &BTreeMap<String, Vec<f32>>) -> Option<Vec<f32>> {
        let storage = storages.get(&self.storage)?;
        let count = self.shape.iter().product();
        let mut values = Vec::with_capacity(usize::min(count, storage.len()));
        let mut index = vec![0; self.shape.len()];
        for _ in 0..count {
            let steps = index.iter().zip(&self.stride).map(|(i, stride)| i * stride);
            values.push(*storage.get(self.offset + steps.sum::<usize>())?);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Some(values)
    }
}

type Parsed = (BTreeMap<String, View>, BTreeMap<String, Vec<f32>>);

fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    let mut rest = bytes
        .strip_prefix(BEGINNING)
        .ok_or("it does not begin as torch.save before 1.6 did")?;
    next_pickle(&mut rest)?; // What machine wrote it.
    let Object::Dict(entries) = next_pickle(&mut rest)? else {
        return Err("it holds no dictionary of tensors".to_owned());
    };
    let mut tensors = BTreeMap::new();
    let mut kinds = BTreeMap::new();
    for (name, value) in entries {
        // Python adds `_metadata`, a dictionary, among the tensors.
        if let (Ok(name), Object::Reduce { args, .. }) = (name.unicode(), value) {
            let (view, kind) = view(*args).ok_or_else(|| format!("`{name}` is no tensor"))?;
            kinds.insert(view.storage.clone(), kind);
            if kind == Kind::Float {
                tensors.insert(name, view);
            }
        }
    }
    let Object::List(keys) = next_pickle(&mut rest)? else {
        return Err("it lists no storages".to_owned());
    };
    let mut storages = BTreeMap::new();
    for key in keys {
        let key = key.unicode().map_err(|_| "a storage has no name")?;
        let kind = *kinds
            .get(&key)
            .ok_or_else(|| format!("storage `{key}` belongs to no tensor"))?;
        let numbers = next_storage(&mut rest, kind).ok_or_else(|| format!("storage `{key}` is cut off"))?;
        if kind == Kind::Float {
            let numbers = numbers.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            storages.insert(key, numbers.collect());
        }
    }
    Ok((tensors, storages))
}

fn next_pickle(rest: &mut &[u8]) -> Result<Object, String> {
    let mut stack = Stack::empty();
    let read = stack.read_loop(rest).and_then(|()| stack.finalize());
    read.map_err(|error| error.to_string())
}

/// A count, then as many numbers.
fn next_storage<'a>(rest: &mut &'a [u8], kind: Kind) -> Option<&'a [u8]> {
    let (count, after) = rest.split_first_chunk::<8>()?;
    let size = match kind {
        Kind::Float => 4,
        Kind::Other(size) => size,
    };
    let bytes = usize::try_from(u64::from_le_bytes(*count)).ok()?.checked_mul(size)?;
    let (numbers, after) = after.split_at_checked(bytes)?;
    *rest = after;
    Some(numbers)
}

/// The arguments of `_rebuild_tensor_v2`: storage, offset, shape, strides, ...
fn view(args: Object) -> Option<(View, Kind)> {
    let mut args = args.tuple().ok()?.into_iter();
    let storage = args.next()?.persistent_load().ok()?.tuple().ok()?;
    // ("storage", class, key, device, count, ..)
    let mut storage = storage.into_iter().skip(1);
    let (_, class) = storage.next()?.class().ok()?;
    let kind = match class.as_str() {
        "FloatStorage" => Kind::Float,
        "LongStorage" | "DoubleStorage" => Kind::Other(8),
        "IntStorage" => Kind::Other(4),
        "HalfStorage" | "BFloat16Storage" | "ShortStorage" => Kind::Other(2),
        "ByteStorage" | "CharStorage" | "BoolStorage" => Kind::Other(1),
        _ => return None,
    };
    let key = storage.next()?.unicode().ok()?;
    let count = |object: Object| usize::try_from(object.int_or_long().ok()?).ok();
    let counts = |object: Object| object.tuple().ok()?.into_iter().map(count).collect::<Option<Vec<_>>>();
    let view = View {
        storage: key,
        offset: count(args.next()?)?,
        shape: counts(args.next()?)?,
        stride: counts(args.next()?)?,
    };
    (view.shape.len() == view.stride.len()).then_some((view, kind))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{HostTensor, read_tensor};

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/golden/vae")
            .join(name)
    }

    #[test]
    fn tensors_that_share_a_storage_are_read_as_pytorch_wrote_them() {
        let file = PthFile::open(&golden("legacy.pth")).unwrap();
        for name in ["matrix", "transposed", "row"] {
            let HostTensor { shape, values } = read_tensor(&golden("legacy.safetensors"), name).unwrap().unwrap();
            assert_eq!(file.tensor(name, &shape).unwrap(), values, "{name}");
        }
        for (name, shape) in [("matrix", &[4, 3][..]), ("counter", &[]), ("absent", &[1])] {
            let message = file.tensor(name, shape).unwrap_err().to_string();
            assert!(
                message.contains(&format!("`{name}`")) && message.contains("legacy.pth"),
                "{message}"
            );
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let bytes = fs::read(golden("legacy.pth")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cut.pth");
        for len in 0..bytes.len() {
            fs::write(&path, &bytes[..len]).unwrap();
            assert!(PthFile::open(&path).is_err(), "{len} bytes");
        }
    }
}
