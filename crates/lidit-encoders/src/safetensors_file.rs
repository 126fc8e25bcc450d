//! One safetensors file: its header, and tensors read one at a time into buffers of their own.
//!
//! Nothing is mapped, so pages of the file never count as memory of the process.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata};

use crate::EncoderError;
use crate::stored::Stored;

/// The longest header that is read, as in the format's own library.
const MAX_HEADER: u64 = 100_000_000;

/// A tensor on the host.
pub struct HostTensor {
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Row-major, widened to f32.
    pub values: Vec<f32>,
}

/// One tensor of a file; `None` if the file has no such tensor.
///
/// # Errors
/// When the file is unreadable, or the tensor is not of floats.
pub fn read_tensor(path: &Path, name: &str) -> Result<Option<HostTensor>, EncoderError> {
    let file = SafetensorsFile::open(path)?;
    let Some(shape) = file.shape(name).map(<[usize]>::to_vec) else {
        return Ok(None);
    };
    let values = file.tensor(name)?.into_f32();
    Ok(Some(HostTensor { shape, values }))
}

/// An open file. Its header is checked: every tensor lies inside the file, and none overlaps another.
pub struct SafetensorsFile {
    path: PathBuf,
    file: File,
    header: Metadata,
    /// First byte after the header.
    data: u64,
}

impl SafetensorsFile {
    /// Reads and checks the header.
    pub fn open(path: &Path) -> Result<Self, EncoderError> {
        let io = EncoderError::io(path);
        let malformed = EncoderError::malformed(path, "safetensors");
        let file = File::open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let mut size = [0; 8];
        if len < 8 {
            return Err(malformed(format!("it has {len} bytes")));
        }
        file.read_exact_at(&mut size, 0).map_err(io)?;
        let header_len = u64::from_le_bytes(size);
        let data = header_len
            .checked_add(8)
            .filter(|data| *data <= len && header_len <= MAX_HEADER);
        let data = data.ok_or_else(|| malformed(format!("its header claims {header_len} bytes of its {len}")))?;
        let mut bytes = vec![0; header_len as usize];
        file.read_exact_at(&mut bytes, 8).map_err(io)?;
        let header: Metadata = serde_json::from_slice(&bytes).map_err(|e| malformed(e.to_string()))?;
        let file = Self {
            path: path.to_owned(),
            file,
            header,
            data,
        };
        file.check_extents(len)?;
        Ok(file)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of its tensors.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// The shape of a tensor, if it is here.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.header.info(name).map(|info| info.shape.as_slice())
    }

    /// A tensor's values.
    pub fn tensor(&self, name: &str) -> Result<Stored, EncoderError> {
        let info = self.header.info(name).ok_or_else(|| EncoderError::MissingTensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
        })?;
        let at = self.data + info.data_offsets.0 as u64;
        let len = info.shape.iter().product();
        match info.dtype {
            Dtype::F32 => self.read(at, vec![0_f32; len]).map(Stored::F32),
            Dtype::F16 => self.read(at, vec![f16::ZERO; len]).map(Stored::F16),
            Dtype::BF16 => self.read(at, vec![bf16::ZERO; len]).map(Stored::Bf16),
            other => Err(EncoderError::TensorType {
                path: self.path.clone(),
                tensor: name.to_owned(),
                found: format!("{other:?}"),
            }),
        }
    }

    fn read<T: bytemuck::Pod>(&self, at: u64, mut values: Vec<T>) -> Result<Vec<T>, EncoderError> {
        let read = self.file.read_exact_at(bytemuck::cast_slice_mut(&mut values), at);
        read.map_err(EncoderError::io(&self.path))?;
        Ok(values)
    }

    fn check_extents(&self, len: u64) -> Result<(), EncoderError> {
        for name in self.names() {
            let end = self.header.info(&name).map_or(0, |info| info.data_offsets.1 as u64) + self.data;
            if end > len {
                return Err(EncoderError::Truncated {
                    path: self.path.clone(),
                    tensor: name,
                    end,
                    len,
                });
            }
        }
        Ok(())
    }
}
