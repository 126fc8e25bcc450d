//! The forward pass part by part, to see where it breaks.

use burn::tensor::{FloatDType, Tensor};
use lidit_kernels::VisibleKeys;

use crate::lidit::LiDit;
use crate::prompts::PromptBatch;

impl LiDit {
    /// [`forward`](Self::forward), with the same bits; `watch` is handed what leaves each part, flat, in the order in
    /// which parts are computed.
    ///
    /// Before the [`parts`](Self::parts) come what enters them: `input`, the noisy picture, and `encoders.I.states` of
    /// each LLM. Shapes as in [`forward`](Self::forward).
    pub fn forward_watched(
        &self,
        x: Tensor<4>,
        timesteps: Tensor<1>,
        prompts: &[PromptBatch],
        mut watch: impl FnMut(&str, Tensor<1>),
    ) -> Tensor<4> {
        watch("input", x.clone().flatten(0, 3));
        for (i, prompt) in prompts.iter().enumerate() {
            watch(&format!("encoders.{i}.states"), prompt.states.clone().flatten(0, 2));
        }
        let states = self.normalised(prompts);
        watch("timestep", self.timestep.forward(timesteps.clone()).flatten(0, 1));
        let steering = self.steering(timesteps, prompts, &states);
        let mut refined = Vec::with_capacity(prompts.len());
        for (i, (encoder, states)) in self.encoders.iter().zip(states).enumerate() {
            let pooled = encoder.pooled.forward(prompts[i].pool(states.clone(), self.pooling));
            watch(&format!("encoders.{i}.pooled"), pooled.flatten(0, 1));
            let mut x = encoder.projection.forward(states).cast(FloatDType::F32); // [B, T, D]
            watch(&format!("encoders.{i}.projection"), x.clone().flatten(0, 2));
            let mask = self.refiner_mask(&prompts[i]);
            for (j, block) in encoder.refiner.blocks.iter().enumerate() {
                x = block.forward(x, &steering.encoders[i], &mask);
                watch(&format!("encoders.{i}.refiner.blocks.{j}"), x.clone().flatten(0, 2));
            }
            refined.push(x);
        }
        let (text, caption) = self.join(prompts, refined, &steering.encoders);
        watch("collaborative", text.clone().flatten(0, 2));

        let grid = self.grid(&x);
        let mask = VisibleKeys::keys(caption);
        let x = self.patchify.forward(x); // [B, N, D]
        watch("patchify", x.clone().flatten(0, 2));
        let mut x = self.res_block.forward(x, grid);
        watch("res_block", x.clone().flatten(0, 2));
        for (k, block) in self.blocks.iter().enumerate() {
            x = block.forward(x, steering.backbone.clone(), text.clone(), Some(&mask));
            watch(&format!("blocks.{k}"), x.clone().flatten(0, 2));
        }
        let y = self.head(x, steering.backbone, grid); // [B, C, H, W]
        watch("final_layer", y.clone().flatten(0, 3));
        y
    }

    /// The parts of the network in the order of the forward pass. A parameter belongs to the part whose name begins its
    /// path; `collaborative` (the join of the LLMs' texts) has none where they are only concatenated.
    pub fn parts(&self) -> Vec<String> {
        let mut parts = vec!["timestep".to_owned()];
        for (i, encoder) in self.encoders.iter().enumerate() {
            parts.push(format!("encoders.{i}.pooled"));
            parts.push(format!("encoders.{i}.projection"));
            let blocks = 0..encoder.refiner.blocks.len();
            parts.extend(blocks.map(|j| format!("encoders.{i}.refiner.blocks.{j}")));
        }
        parts.extend(["collaborative", "patchify", "res_block"].map(str::to_owned));
        parts.extend((0..self.blocks.len()).map(|k| format!("blocks.{k}")));
        parts.push("final_layer".to_owned());
        parts
    }
}

#[cfg(test)]
mod tests {
    use burn::module::{Module, Param};
    use burn::module::{ModuleMapper, ModuleVisitor};
    use burn::tensor::Device;

    use super::*;
    use crate::config::tests::tiny;
    use crate::config::{Conditioning, InputNorm, Pooling};
    use crate::golden::Golden;
    use crate::objective::tests::flow;
    use crate::timestep_density::TimestepDensity;
    use crate::timestep_shift::TimestepShift;

    /// A network in which every gate is open.
    fn network() -> LiDit {
        let conditioning = Conditioning {
            context_dims: vec![5, 7],
            input_norm: InputNorm::Rms,
            pooling: Pooling::Caption,
        };
        Golden::open("lidit").load(LiDit::zeros(&tiny(), &conditioning, &Device::flex()))
    }

    /// The names of the parts, the first whose output is not finite, and the prediction.
    fn watched(model: &LiDit, prompts: &[PromptBatch]) -> (Vec<String>, Option<String>, Vec<f32>) {
        let batch = Golden::open("lidit").loss_batch(4);
        let noised = flow(TimestepDensity::Uniform, TimestepShift::None).noise(&batch);
        let (mut names, mut broken) = (Vec::new(), None);
        let y = model.forward_watched(
            noised.input.clone(),
            noised.timesteps.clone(),
            prompts,
            |name, values| {
                names.push(name.to_owned());
                if broken.is_none() && values.into_data().iter::<f32>().any(|value| !value.is_finite()) {
                    broken = Some(name.to_owned());
                }
            },
        );
        let plain = model.forward(noised.input, noised.timesteps, prompts);
        let bits = |y: Tensor<4>| y.into_data().iter::<f32>().map(f32::to_bits).collect::<Vec<_>>();
        let values = y.clone().into_data().iter::<f32>().collect();
        assert_eq!(bits(y), bits(plain), "watching changes the prediction");
        (names, broken, values)
    }

    /// Multiplies the parameter at a path.
    struct Scale {
        path: Vec<String>,
        of: &'static str,
        by: f32,
    }

    impl ModuleMapper for Scale {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.path.push(name.to_owned());
        }

        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.pop();
        }

        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let by = if self.path.join(".") == self.of { self.by } else { 1.0 };
            param.map(|weight| weight.mul_scalar(by))
        }
    }

    /// Collects the paths of parameters.
    #[derive(Default)]
    struct Paths {
        path: Vec<String>,
        all: Vec<String>,
    }

    impl ModuleVisitor for Paths {
        fn enter_module(&mut self, name: &str, _container_type: &str) {
            self.path.push(name.to_owned());
        }

        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.pop();
        }

        fn visit_float<const D: usize>(&mut self, _param: &Param<Tensor<D>>) {
            self.all.push(self.path.join("."));
        }
    }

    #[test]
    fn parts_come_in_forward_order_and_every_parameter_belongs_to_one() {
        let model = network();
        let (names, broken, values) = watched(&model, &Golden::open("lidit").prompts());
        assert_eq!(names[..3], ["input", "encoders.0.states", "encoders.1.states"]);
        assert_eq!(names[3..], model.parts());
        assert_eq!(broken, None);
        assert!(values.iter().any(|value| *value != 0.0));
        let mut paths = Paths::default();
        model.visit(&mut paths);
        for path in paths.all {
            let owners = model
                .parts()
                .iter()
                .filter(|part| path.starts_with(&format!("{part}.")))
                .count();
            assert_eq!(owners, 1, "{path}");
        }
    }

    #[test]
    fn the_part_that_breaks_is_the_first_that_is_named() {
        for (of, by, part) in [
            ("timestep.linear_out.bias", f32::NAN, "timestep"),
            ("encoders.1.pooled.linear_out.bias", f32::NAN, "encoders.1.pooled"),
            ("encoders.0.projection.weight", f32::INFINITY, "encoders.0.projection"),
            (
                "encoders.1.refiner.blocks.0.mlp.linear_out.weight",
                f32::INFINITY,
                "encoders.1.refiner.blocks.0",
            ),
            (
                "collaborative.branches.0.mlp.linear_out.bias",
                f32::NAN,
                "collaborative",
            ),
            ("blocks.1.mlp.linear_out.weight", f32::INFINITY, "blocks.1"),
            ("final_layer.linear.bias", f32::NAN, "final_layer"),
        ] {
            let scale = &mut Scale {
                path: Vec::new(),
                of,
                by,
            };
            let (_, broken, _) = watched(&network().map(scale), &Golden::open("lidit").prompts());
            assert_eq!(broken.as_deref(), Some(part), "{of}");
        }
    }

    #[test]
    fn what_enters_is_named_before_what_it_breaks() {
        let mut prompts = Golden::open("lidit").prompts();
        prompts[1].states = prompts[1].states.clone().slice_fill([0..1, 0..1, 0..1], f32::NAN);
        let (_, broken, _) = watched(&network(), &prompts);
        assert_eq!(broken.as_deref(), Some("encoders.1.states"));
    }
}
