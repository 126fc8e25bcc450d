//! The collaborative refiner: each LLM's states look at the others'.

use burn::module::Module;
use burn::tensor::{Bool, Device, Tensor};
use lidit_kernels::VisibleKeys;

use crate::attention::CrossAttention;
use crate::config::ModelConfig;
use crate::mlp::Mlp;
use crate::modulation::Modulation;
use crate::norm::layer_norm;

/// One block of parallel branches, one per LLM (section 2). The identity at the start.
///
/// All branches read what entered the block, so their order does not matter. For more than two LLMs a branch attends
/// to all others, concatenated along the tokens (open).
#[derive(Module, Debug)]
pub struct CollaborativeRefiner {
    /// One per LLM; two or more.
    pub branches: Vec<CollaborativeBranch>,
}

/// Cross-attention to the other branches and feed-forward, each with shift, scale and gate.
#[derive(Module, Debug)]
pub struct CollaborativeBranch {
    /// Query: own tokens; keys and values: the others'.
    pub cross_attention: CrossAttention,
    /// Feed-forward.
    pub mlp: Mlp,
    /// Of the attention.
    pub cross_attention_modulation: Modulation,
    /// Of the feed-forward.
    pub mlp_modulation: Modulation,
}

impl CollaborativeRefiner {
    /// An empty refiner of `num_branches` LLMs; [`initialize`](crate::initialize()) fills it.
    pub fn zeros(config: &ModelConfig, num_branches: usize, device: &Device) -> Self {
        Self {
            branches: (0..num_branches)
                .map(|_| CollaborativeBranch::zeros(config, device))
                .collect(),
        }
    }

    /// One `[B, T_i, D]` with its real tokens `[B, T_i]` and its conditioning `[B, D]` per branch; the same shapes back.
    pub fn forward(
        &self,
        states: &[Tensor<3>],
        valid: &[Tensor<2, Bool>],
        conditioning: &[Tensor<2>],
    ) -> Vec<Tensor<3>> {
        let normalised: Vec<Tensor<3>> = states.iter().map(|x| layer_norm(x.clone())).collect();
        self.branches
            .iter()
            .enumerate()
            .map(|(i, branch)| {
                let others = Tensor::cat(all_but(i, &normalised), 1); // [B, sum of the other T, D]
                let mask = VisibleKeys::keys(Tensor::cat(all_but(i, valid), 1));
                branch.forward(states[i].clone(), &conditioning[i], others, &mask)
            })
            .collect()
    }
}

impl CollaborativeBranch {
    fn zeros(config: &ModelConfig, device: &Device) -> Self {
        let d = config.hidden_size;
        Self {
            cross_attention: CrossAttention::zeros(d, config.num_heads, device),
            mlp: Mlp::zeros(d, config.mlp_ratio, device),
            cross_attention_modulation: Modulation::zeros(d, device),
            mlp_modulation: Modulation::zeros(d, device),
        }
    }

    fn forward(&self, x: Tensor<3>, conditioning: &Tensor<2>, others: Tensor<3>, mask: &VisibleKeys) -> Tensor<3> {
        let m = self.cross_attention_modulation.forward(conditioning.clone());
        let y = self.cross_attention.forward(m.before(x.clone()), others, Some(mask));
        let x = m.after(x, y);

        let m = self.mlp_modulation.forward(conditioning.clone());
        let y = self.mlp.forward(m.before(x.clone()));
        m.after(x, y)
    }
}

fn all_but<T: Clone>(i: usize, items: &[T]) -> Vec<T> {
    items
        .iter()
        .enumerate()
        .filter(|(j, _)| *j != i)
        .map(|(_, item)| item.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::tiny;
    use crate::golden::Golden;

    #[test]
    fn collaborative_refiners_of_two_and_three_branches_match_pytorch() {
        for n in [2, 3] {
            let golden = Golden::open(&format!("collaborative_{n}"));
            let refiner = golden.load(CollaborativeRefiner::zeros(&tiny(), n, &Device::flex()));
            let states: Vec<_> = (0..n).map(|i| golden.tensor(&format!("in.x.{i}"))).collect();
            let valid: Vec<_> = (0..n).map(|i| golden.mask(&format!("in.valid.{i}"))).collect();
            let conditioning: Vec<_> = (0..n).map(|i| golden.tensor(&format!("in.c.{i}"))).collect();
            let refined = refiner.forward(&states, &valid, &conditioning);
            for (i, y) in refined.into_iter().enumerate() {
                golden.check(&format!("out.y.{i}"), y, 1e-5);
            }
        }
    }
}
