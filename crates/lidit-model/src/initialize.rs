//! The weights of a fresh network, all in one place.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::config::ModelConfig;
use crate::parameter::{Kind, Role};

/// Gives every parameter of `module` its first value, a pure function of `seed` and the parameter's path.
///
/// | parameters | values |
/// |---|---|
/// | gains of norms | 1 |
/// | biases | 0; patchify's normal, standard deviation 0.5 |
/// | gates, modulation, final layer | 0 (adaLN-zero: blocks start as the identity) |
/// | timestep embedder | normal, standard deviation 0.02 |
/// | all other matrices and convolutions | Xavier uniform |
///
/// The numbers come from `ChaCha8`, so they do not depend on device, thread or order; the device's own generator is
/// never touched. A parameter that was shared or frozen becomes a fresh trainable one.
pub fn initialize<M: Module>(module: M, seed: u64) -> M {
    initialize_at(module, seed, Width::STANDARD)
}

/// As [`initialize`], with the variances of the maximal update parametrization at `width`.
pub(crate) fn initialize_at<M: Module>(module: M, seed: u64, width: Width) -> M {
    module.map(&mut Initializer {
        seed,
        width,
        path: Vec::new(),
    })
}

/// The width of a network, and the one that its first weights are meant for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Width {
    own: f64,
    base: f64,
}

impl Width {
    const STANDARD: Self = Self { own: 1.0, base: 1.0 };

    pub(crate) fn of(config: &ModelConfig) -> Self {
        let own = config.hidden_size as f64;
        Self {
            own,
            base: own / config.width_ratio(),
        }
    }

    /// What muP multiplies a matrix' first values by, so that variance falls as 1 / inputs: not at all from a fixed
    /// number of inputs, inversely with the width else. Xavier does so by itself from width to width.
    fn factor(self, path: &str, shape: &[usize]) -> f64 {
        let normal = path.starts_with("timestep.");
        match (Role::of(path).kind, shape) {
            (Kind::Input, [inputs, _]) if !normal => {
                let inputs = *inputs as f64;
                ((inputs + self.own) / (inputs + self.base)).sqrt()
            }
            (Kind::Hidden, _) if normal => (self.base / self.own).sqrt(),
            _ => 1.0,
        }
    }
}

struct Initializer {
    seed: u64,
    width: Width,
    path: Vec<String>,
}

impl ModuleMapper for Initializer {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.join(".");
        let shape = param.lazy_shape().dims::<D>();
        let mut values = first_values(&path, &shape, &mut parameter_rng(self.seed, &path));
        let factor = self.width.factor(&path, &shape) as f32;
        for value in &mut values {
            *value *= factor;
        }
        Param::from_data(TensorData::new(values, shape), &param.lazy_device())
    }
}

fn first_values(path: &str, shape: &[usize], rng: &mut ChaCha8Rng) -> Vec<f32> {
    let num_elements = shape.iter().product();
    let constant = |value| vec![value; num_elements];
    if path.ends_with("gain") {
        return constant(1.0);
    }
    if path == "patchify.linear.bias" {
        // The zero padding of the ResBlock's convolutions shows where the border is only in features that are not zero
        // on average, and noise is: a token needs a constant part from the start.
        return (0..num_elements).map(|_| 0.5 * normal(rng)).collect();
    }
    if matches!(Role::of(path).kind, Kind::Vector | Kind::Modulation | Kind::Output) {
        return constant(0.0);
    }
    if path.starts_with("timestep.") {
        return (0..num_elements).map(|_| 0.02 * normal(rng)).collect();
    }
    let bound = (6.0 / fans(shape)).sqrt();
    (0..num_elements)
        .map(|_| ((2.0 * uniform(rng) - 1.0) * bound) as f32)
        .collect()
}

/// Inputs plus outputs of one weight: `[in, out]` of a matrix, `[out, in, rows, columns]` of a convolution.
fn fans(shape: &[usize]) -> f64 {
    match shape {
        [inputs, outputs] => (inputs + outputs) as f64,
        [outputs, inputs, kernel @ ..] => ((inputs + outputs) * kernel.iter().product::<usize>()) as f64,
        _ => shape.iter().sum::<usize>() as f64,
    }
}

/// A generator of its own for each parameter: its key is the seed and the FNV-1a hash of the path.
fn parameter_rng(seed: u64, path: &str) -> ChaCha8Rng {
    let hash = path.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&hash.to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// Uniform in [0, 1), 53 bits.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Standard normal (Box and Muller).
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let radius = (-2.0 * (1.0 - uniform(rng)).ln()).sqrt();
    (radius * (std::f64::consts::TAU * uniform(rng)).cos()) as f32
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::attention::SelfAttention;
    use crate::config::tests::tiny;
    use crate::config::{Conditioning, InputNorm, Parametrization, Pooling};
    use crate::lidit::LiDit;

    fn model(seed: u64) -> LiDit {
        model_of(&tiny(), seed)
    }

    fn model_of(config: &ModelConfig, seed: u64) -> LiDit {
        let conditioning = Conditioning {
            context_dims: vec![5, 7],
            input_norm: InputNorm::Rms,
            pooling: Pooling::Caption,
        };
        LiDit::init(config, &conditioning, seed, &Device::flex())
    }

    fn values<const D: usize>(param: &Param<Tensor<D>>) -> Vec<f32> {
        param.val().into_data().try_into_vec().unwrap_or_default()
    }

    #[test]
    fn weights_depend_on_seed_and_path_alone() {
        let (a, b, other) = (model(1), model(1), model(2));
        let query = |model: &LiDit, block: usize| values(&model.blocks[block].self_attention.query.weight);
        assert_eq!(query(&a, 0), query(&b, 0));
        assert_ne!(query(&a, 0), query(&a, 1));
        assert_ne!(query(&a, 0), query(&other, 0));
        // A part of its own has the paths of its own, but the same path gives the same values.
        let alone = initialize(SelfAttention::zeros(8, 2, &Device::flex()), 1);
        assert_ne!(values(&alone.query.weight), query(&a, 0));
    }

    #[test]
    fn the_first_weights_are_pinned() {
        let first = values(&model(1).blocks[0].self_attention.query.weight);
        let pinned = vec![0.178_273_45, 0.001_225_199_4, -0.110_768_1];
        assert_eq!(first[..3].to_vec(), pinned);
    }

    #[test]
    fn each_kind_of_parameter_has_its_rule() {
        let model = model(1);
        let block = &model.blocks[0];
        let is = |values: Vec<f32>, expected: f32| values.iter().all(|x| x.to_bits() == expected.to_bits());
        assert!(is(values(&block.self_attention.norm.query.gain), 1.0));
        assert!(is(values(&block.self_attention.query.bias), 0.0));
        assert!(values(&model.patchify.linear.bias).iter().any(|x| x.abs() > 0.1));
        assert!(is(values(&block.mlp_modulation.linear.weight), 0.0));
        assert!(is(values(&model.final_layer.linear.weight), 0.0));
        assert!(is(values(&model.final_layer.modulation.weight), 0.0));
        let gates: Vec<f32> = model.encoders[0].refiner.blocks[0]
            .mlp_gate
            .iter()
            .flat_map(|gate| values(&gate.linear.weight))
            .collect();
        assert!(gates.len() == 64 && is(gates, 0.0));

        let timestep = spread(&values(&model.timestep.linear_in.weight));
        assert!((timestep / 0.02 - 1.0).abs() < 0.1, "{timestep}");
        let convolution = values(&model.res_block.conv_in.weight);
        let bound = (6.0_f32 / (16.0 * 9.0)).sqrt();
        assert!(convolution.iter().all(|x| x.abs() <= bound));
        assert!((spread(&convolution) / (bound / 3.0_f32.sqrt()) - 1.0).abs() < 0.1);
    }
    fn spread(values: &[f32]) -> f32 {
        (values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32).sqrt()
    }

    #[test]
    fn at_its_base_width_mup_starts_with_the_standard_bits() {
        let mup = model_of(
            &ModelConfig {
                parametrization: Parametrization::Mup { base_width: 8 },
                ..tiny()
            },
            1,
        );
        let all = |model: &LiDit| {
            let mut all = Flat::default();
            model.visit(&mut all);
            all.0
        };
        assert_eq!(all(&mup), all(&model(1)));
    }

    #[test]
    fn under_mup_variance_is_one_over_inputs_at_every_width() {
        let at = |hidden_size: usize| {
            let parametrization = Parametrization::Mup { base_width: 32 };
            model_of(
                &ModelConfig {
                    hidden_size,
                    parametrization,
                    ..tiny()
                },
                1,
            )
        };
        let (narrow, wide) = (at(32), at(128));
        let growth = |read: &dyn Fn(&LiDit) -> Vec<f32>| spread(&read(&wide)) / spread(&read(&narrow));
        let near = |ratio: f32, expected: f32| (ratio / expected - 1.0).abs() < 0.15;
        // From patch and LLM states the number of inputs stays, from the width it is four times as large.
        assert!(near(growth(&|model| values(&model.patchify.linear.weight)), 1.0));
        assert!(near(growth(&|model| values(&model.encoders[1].projection.weight)), 1.0));
        assert!(near(
            growth(&|model| values(&model.encoders[0].pooled.linear_in.weight)),
            1.0
        ));
        assert!(near(growth(&|model| values(&model.timestep.linear_in.weight)), 1.0));
        assert!(near(growth(&|model| values(&model.patchify.linear.bias)), 1.0));
        assert!(near(growth(&|model| values(&model.timestep.linear_out.weight)), 0.5));
        assert!(near(
            growth(&|model| values(&model.blocks[0].mlp.linear_out.weight)),
            0.5
        ));
        assert!(near(growth(&|model| values(&model.res_block.conv_in.weight)), 0.5));
    }

    #[derive(Default)]
    struct Flat(Vec<u32>);

    impl burn::module::ModuleVisitor for Flat {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(values(param).into_iter().map(f32::to_bits));
        }
    }
}
