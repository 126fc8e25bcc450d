//! Checks the header of a GGUF file before anything is allocated for what it claims.
//!
//! The reader behind [`crate::gguf`] believes lengths and counts; a file that was cut or altered must not make it
//! allocate more than the file could hold, or divide by nothing.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read};

/// Values in all arrays of the metadata: vocabularies have a few hundred thousand.
const MAX_VALUES: u64 = 1 << 24;
/// Arrays in arrays.
const MAX_DEPTH: u32 = 2;
/// Of a tensor.
const MAX_DIMENSIONS: u32 = 4;
/// Bytes between which tensors are aligned.
const MAX_ALIGNMENT: u32 = 1 << 16;

/// A wrong header: what is wrong with it, or why it could not be read.
pub type HeaderError = String;

/// Walks over the whole header of `file`, which has `len` bytes.
pub fn check(file: &File, len: u64) -> Result<(), HeaderError> {
    let mut header = Header {
        reader: BufReader::with_capacity(1 << 16, file),
        left: len,
        num_values: 0,
    };
    if header.bytes::<4>()? != *b"GGUF" {
        return Err("it does not begin with `GGUF`".into());
    }
    let version = header.u32()?;
    if !(2..=3).contains(&version) {
        return Err(format!("version {version}; 2 and 3 are read"));
    }
    let num_tensors = header.u64()?;
    let num_keys = header.u64()?;
    // The smallest entries take 13 and 24 bytes.
    if num_keys > header.left / 13 || num_tensors > header.left / 24 {
        return Err(format!("it claims {num_keys} metadata keys and {num_tensors} tensors"));
    }
    for _ in 0..num_keys {
        let key = header.string()?;
        let kind = header.u32()?;
        if key == "general.alignment" && kind == UINT32 {
            let alignment = header.u32()?;
            if !alignment.is_power_of_two() || alignment > MAX_ALIGNMENT {
                return Err(format!(
                    "general.alignment is {alignment}, not a power of two up to {MAX_ALIGNMENT}"
                ));
            }
        } else if key == "general.alignment" {
            return Err("general.alignment is not a 32-bit number".into());
        } else {
            header.skip_value(kind, 0)?;
        }
    }
    let mut names = HashSet::new();
    for _ in 0..num_tensors {
        let name = header.tensor()?;
        if let Some(name) = names.replace(name) {
            return Err(format!("tensor `{name}` is there twice"));
        }
    }
    Ok(())
}

const UINT32: u32 = 4;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

struct Header<'a> {
    reader: BufReader<&'a File>,
    /// Bytes of the file that were not read yet.
    left: u64,
    num_values: u64,
}

impl Header<'_> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], HeaderError> {
        self.take(N as u64)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(|e| e.to_string())?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, HeaderError> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, HeaderError> {
        self.bytes().map(u64::from_le_bytes)
    }

    /// Counts `len` bytes as read.
    fn take(&mut self, len: u64) -> Result<(), HeaderError> {
        let left = self.left.checked_sub(len);
        self.left = left.ok_or_else(|| format!("something of {len} bytes where {} are left", self.left))?;
        Ok(())
    }

    fn skip(&mut self, len: u64) -> Result<(), HeaderError> {
        self.take(len)?;
        let skipped = io::copy(&mut self.reader.by_ref().take(len), &mut io::sink()).map_err(|e| e.to_string())?;
        if skipped == len {
            Ok(())
        } else {
            Err("the file became shorter while it was read".into())
        }
    }

    fn string(&mut self) -> Result<String, HeaderError> {
        let len = self.u64()?;
        self.take(len)?;
        let mut bytes = vec![0; len as usize];
        self.reader.read_exact(&mut bytes).map_err(|e| e.to_string())?;
        String::from_utf8(bytes).map_err(|_| "a name is not UTF-8".into())
    }

    fn skip_value(&mut self, kind: u32, depth: u32) -> Result<(), HeaderError> {
        match kind {
            STRING => {
                let len = self.u64()?;
                self.skip(len)
            }
            ARRAY => self.skip_array(depth),
            _ => self.skip(size_of_kind(kind)?),
        }
    }

    fn skip_array(&mut self, depth: u32) -> Result<(), HeaderError> {
        if depth >= MAX_DEPTH {
            return Err(format!("arrays in arrays, deeper than {MAX_DEPTH}"));
        }
        let kind = self.u32()?;
        let count = self.u64()?;
        self.num_values = self.num_values.saturating_add(count);
        if self.num_values > MAX_VALUES {
            return Err(format!("its metadata claim more than {MAX_VALUES} values"));
        }
        if kind == STRING || kind == ARRAY {
            for _ in 0..count {
                self.skip_value(kind, depth + 1)?;
            }
            return Ok(());
        }
        self.skip(size_of_kind(kind)?.saturating_mul(count))
    }

    /// Name, dimensions, type, offset.
    fn tensor(&mut self) -> Result<String, HeaderError> {
        let name = self.string()?;
        let num_dimensions = self.u32()?;
        if num_dimensions > MAX_DIMENSIONS {
            return Err(format!("tensor `{name}` has {num_dimensions} dimensions"));
        }
        let mut elements = 1_u64;
        for _ in 0..num_dimensions {
            let product = elements.checked_mul(self.u64()?).filter(|elements| *elements < 1 << 48);
            elements = product.ok_or_else(|| format!("tensor `{name}` is impossibly large"))?;
        }
        self.skip(4 + 8)?;
        Ok(name)
    }
}

fn size_of_kind(kind: u32) -> Result<u64, HeaderError> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        _ => Err(format!("metadata of unknown type {kind}")),
    }
}
