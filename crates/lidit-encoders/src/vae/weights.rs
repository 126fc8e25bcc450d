//! Weights from diffusers' files, by the paths of the parameters.

use std::collections::BTreeSet;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};

use super::network::Autoencoder;
use crate::tensor_files::TensorFiles;
use crate::{EncoderError, Precision};

/// What the attention's layers are called now, and what they were called up to diffusers 0.17.
const RENAMED: [(&str, &str); 4] = [
    (".to_q.", ".query."),
    (".to_k.", ".key."),
    (".to_v.", ".value."),
    (".to_out.0.", ".proj_attn."),
];

/// `network` with the weights of `files`: all of its parameters, and all of the files' tensors.
pub fn load(
    network: Autoencoder,
    files: &TensorFiles,
    precision: Precision,
    device: &Device,
) -> Result<Autoencoder, EncoderError> {
    let mut loader = Loader {
        files,
        precision,
        device,
        path: Vec::new(),
        read: BTreeSet::new(),
        error: None,
    };
    let network = network.map(&mut loader);
    if let Some(error) = loader.error {
        return Err(error);
    }
    match files.names().find(|name| !loader.read.contains(*name)) {
        None => Ok(network),
        Some(surplus) => Err(EncoderError::UnknownTensor {
            path: files.file_of(surplus).to_owned(),
            tensor: surplus.to_owned(),
            architecture: "AutoencoderKL".into(),
        }),
    }
}

struct Loader<'a> {
    files: &'a TensorFiles,
    precision: Precision,
    device: &'a Device,
    path: Vec<String>,
    /// The files' tensors that were read.
    read: BTreeSet<String>,
    /// The first error; nothing is read after it.
    error: Option<EncoderError>,
}

impl Loader<'_> {
    fn tensor<const D: usize>(&mut self, expected: &[usize]) -> Result<Tensor<D>, EncoderError> {
        let name = self.stored_name();
        let path = || self.files.file_of(&name).to_owned();
        let Some(found) = self.files.shape(&name) else {
            return Err(EncoderError::MissingTensor {
                path: path(),
                tensor: name,
            });
        };
        if found != expected {
            return Err(EncoderError::TensorShape {
                path: path(),
                expected: expected.to_vec(),
                found: found.to_vec(),
                tensor: name,
            });
        }
        let values = self.files.tensor(&name)?;
        self.read.insert(name);
        Ok(match self.dtype() {
            DType::BF16 => Tensor::from_data(
                TensorData::new(values.into_bf16(), expected),
                (self.device, DType::BF16),
            ),
            _ => Tensor::from_data(TensorData::new(values.into_f32(), expected), (self.device, DType::F32)),
        })
    }

    /// The parameter's path, or its older name where the files have that.
    fn stored_name(&self) -> String {
        let name = self.path.join(".");
        let older = RENAMED
            .iter()
            .find(|(new, _)| name.contains(new))
            .map(|(new, old)| name.replace(new, old));
        match older {
            Some(older) if self.files.shape(&name).is_none() && self.files.shape(&older).is_some() => older,
            _ => name,
        }
    }

    /// Norms stay f32.
    fn dtype(&self) -> DType {
        let layer = self.path.iter().rev().nth(1);
        if layer.is_some_and(|layer| layer.contains("norm")) {
            DType::F32
        } else {
            self.precision.dtype()
        }
    }
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        match self.tensor(&param.lazy_shape().to_vec()) {
            Ok(tensor) => Param::initialized(param.id, tensor),
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}
