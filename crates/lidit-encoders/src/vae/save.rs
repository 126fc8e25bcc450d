//! A network as diffusers' files, which [`AutoencoderKl`](super::AutoencoderKl) and diffusers read.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::config::AutoencoderConfig;
use super::network::Autoencoder;
use crate::EncoderError;

/// The name of the weights' file in a folder.
pub const WEIGHTS_FILE: &str = "diffusion_pytorch_model.safetensors";

impl Autoencoder {
    /// All weights as the bytes of a safetensors file, in f32.
    pub fn to_safetensors(&self) -> Result<Vec<u8>, EncoderError> {
        let mut collector = Collector::default();
        self.visit(&mut collector);
        let device_error = |reason: String| EncoderError::Device { reason };
        if let Some(reason) = collector.error {
            return Err(device_error(reason));
        }
        let mut views = BTreeMap::new();
        for (name, (shape, bytes)) in &collector.tensors {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
            views.insert(name.as_str(), view.map_err(|error| device_error(error.to_string()))?);
        }
        // Python's readers ask for the format.
        let metadata = [("format".to_owned(), "pt".to_owned())].into();
        safetensors::serialize(views, Some(metadata)).map_err(|error| device_error(error.to_string()))
    }
}

impl AutoencoderConfig {
    /// The text of `config.json`; pictures were `sample_size` pixels large.
    pub fn to_json(&self, sample_size: usize) -> String {
        let blocks = |name: &'static str| vec![name; self.network.block_out_channels.len()];
        let keys: Value = json!({
            "_class_name": "AutoencoderKL",
            "act_fn": "silu",
            "block_out_channels": self.network.block_out_channels,
            "down_block_types": blocks("DownEncoderBlock2D"),
            "force_upcast": true,
            "in_channels": 3,
            "latent_channels": self.network.latent_channels,
            "latents_mean": null,
            "latents_std": null,
            "layers_per_block": self.network.layers_per_block,
            "mid_block_add_attention": self.network.mid_block_add_attention,
            "norm_num_groups": self.network.norm_num_groups,
            "out_channels": 3,
            "sample_size": sample_size,
            "scaling_factor": self.scaling_factor,
            "shift_factor": self.shift_factor,
            "up_block_types": blocks("UpDecoderBlock2D"),
            "use_post_quant_conv": self.network.use_post_quant_conv,
            "use_quant_conv": self.network.use_quant_conv,
        });
        format!("{keys:#}\n")
    }
}

#[derive(Default)]
struct Collector {
    path: Vec<String>,
    tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)>,
    error: Option<String>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        match param.val().try_into_data() {
            Ok(data) => {
                let bytes = data.iter::<f32>().flat_map(f32::to_le_bytes).collect();
                let shape = param.lazy_shape().to_vec();
                self.tensors.insert(self.path.join("."), (shape, bytes));
            }
            Err(error) => self.error = Some(error.to_string()),
        }
    }
}
