//! Gradients that keep little of the forward pass: block-wise recomputation (Chen et al., arXiv 1604.06174).

use std::num::NonZeroUsize;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Gradients, Tensor};
use lidit_kernels::VisibleKeys;

use crate::block::LiDitBlock;
use crate::lidit::{LiDit, Steering};
use crate::prompts::PromptBatch;

impl LiDit {
    /// Forward and backward in segments of `blocks` blocks, keeping of the forward pass only each segment's input.
    ///
    /// The first pass runs without a graph; the backward pass runs each segment again from its kept input, the last
    /// one first. Each LLM's refiner, the collaborative refiner and the embedding of the image are segments of their
    /// own. Costs at most one forward pass more than [`forward`](Self::forward) and `backward`, and gives the same
    /// gradients, up to the order in which conditioning and text sum theirs over the blocks.
    ///
    /// `x` `[B, C, H, W]`, `timesteps` `[B]` and `prompts` are those of [`forward`](Self::forward); the network is on an
    /// autodiff device. `loss` makes of the prediction `[B, C, H, W]` the number to differentiate, and what else the
    /// caller wants of it. `collect` is called after each segment and takes the gradients of the parameters out;
    /// each parameter's come once.
    pub fn backward_in_segments<T>(
        &self,
        x: Tensor<4>,
        timesteps: Tensor<1>,
        prompts: &[PromptBatch],
        blocks: NonZeroUsize,
        loss: impl FnOnce(Tensor<4>) -> (Tensor<1>, T),
        mut collect: impl FnMut(&mut Gradients),
    ) -> T {
        let untracked = self.clone().map(&mut Untrack);
        let n = blocks.get();
        let grid = self.grid(&x);
        let (earlier, last) = self.blocks.split_at((self.blocks.len() - 1) / n * n);

        let text = TextPass::forward(self, &untracked, timesteps, prompts);
        let mut tokens = cut(untracked.embed(x.clone(), grid)); // [B, N, D]
        let mut kept = Vec::with_capacity(earlier.len().div_ceil(n));
        for segment in untracked.blocks[..earlier.len()].chunks(n) {
            kept.push(tokens.clone());
            tokens = cut(text.inputs(tokens).through(segment));
        }

        // The last segment's second run would follow its first one: it has only one.
        let inputs = text.inputs(tokens).tracked();
        let y = inputs.through(last);
        let (sum, outcome) = loss(self.head(y, inputs.conditioning.clone(), grid));
        let mut gradients = sum.backward();
        let mut flow = inputs.gradients(&mut gradients);
        collect(&mut gradients);
        for (segment, tokens) in earlier.chunks(n).zip(kept).rev() {
            let inputs = text.inputs(tokens).tracked();
            let mut gradients = backward(inputs.through(segment), flow.tokens);
            let next = inputs.gradients(&mut gradients);
            flow = Flow {
                tokens: next.tokens,
                conditioning: flow.conditioning + next.conditioning,
                text: flow.text + next.text,
            };
            collect(&mut gradients);
        }
        collect(&mut backward(self.embed(x, grid), flow.tokens));
        text.backward(self, prompts, flow.conditioning, flow.text, collect);
        outcome
    }
}

/// What every block reads beside the image, and what its own backward pass needs.
struct TextPass {
    /// Tracked: a few vectors a sample are kept whole.
    steering: Steering,
    /// `[B, T, D]` of each LLM, after its token refiner.
    refined: Vec<Tensor<3>>,
    /// `[B, sum of T, D]`.
    text: Tensor<3>,
    /// Which of them are captions'.
    mask: VisibleKeys,
}

impl TextPass {
    fn forward(model: &LiDit, untracked: &LiDit, timesteps: Tensor<1>, prompts: &[PromptBatch]) -> Self {
        let states = model.normalised(prompts);
        let steering = model.steering(timesteps, prompts, &states);
        let steers: Vec<Tensor<2>> = steering.encoders.iter().cloned().map(cut).collect();
        let refined: Vec<Tensor<3>> = states
            .into_iter()
            .enumerate()
            .map(|(i, states)| cut(untracked.refine(i, &prompts[i], states, &steers[i])))
            .collect();
        let (text, caption) = untracked.join(prompts, refined.clone(), &steers);
        Self {
            steering,
            refined,
            text: cut(text),
            mask: VisibleKeys::keys(caption),
        }
    }

    /// What a segment reads when `tokens` enter it.
    fn inputs(&self, tokens: Tensor<3>) -> Inputs<'_> {
        Inputs {
            tokens,
            conditioning: cut(self.steering.backbone.clone()),
            text: self.text.clone(),
            mask: &self.mask,
        }
    }

    /// The backward pass of everything before the backbone, from the gradients of its two results.
    fn backward(
        self,
        model: &LiDit,
        prompts: &[PromptBatch],
        conditioning: Tensor<2>,
        text: Tensor<3>,
        mut collect: impl FnMut(&mut Gradients),
    ) {
        let steering = self.steering.encoders;
        let leaves = || steering.iter().cloned().map(cut).map(Tensor::require_grad);
        let refined: Vec<Tensor<3>> = self.refined.into_iter().map(Tensor::require_grad).collect();
        let steers: Vec<Tensor<2>> = leaves().collect();
        let (joined, _) = model.join(prompts, refined.clone(), &steers);
        let mut gradients = backward(joined, text);
        let of_refined: Vec<Tensor<3>> = refined.iter().map(|x| gradient(x, &mut gradients)).collect();
        let of_steers: Vec<Tensor<2>> = steers.iter().map(|x| gradient(x, &mut gradients)).collect();
        collect(&mut gradients);

        let mut sum = (self.steering.backbone * conditioning).sum();
        let parts = leaves().zip(&steering).zip(of_refined).zip(of_steers);
        for (i, (((leaf, steer), of_refined), of_steer)) in parts.enumerate() {
            let states = model.normalise(&prompts[i]);
            let mut gradients = backward(model.refine(i, &prompts[i], states, &leaf), of_refined);
            let of_steer = of_steer + gradient(&leaf, &mut gradients);
            sum = sum + (steer.clone() * of_steer).sum();
            collect(&mut gradients);
        }
        collect(&mut sum.backward());
    }
}

/// What a segment of the backbone reads.
struct Inputs<'a> {
    /// `[B, N, D]`.
    tokens: Tensor<3>,
    /// `[B, D]`.
    conditioning: Tensor<2>,
    /// `[B, sum of T, D]`.
    text: Tensor<3>,
    mask: &'a VisibleKeys,
}

impl Inputs<'_> {
    /// The same as leaves that a backward pass ends in.
    fn tracked(self) -> Self {
        Self {
            tokens: self.tokens.require_grad(),
            conditioning: self.conditioning.require_grad(),
            text: self.text.require_grad(),
            mask: self.mask,
        }
    }

    /// `[B, N, D]` after `segment`.
    fn through(&self, segment: &[LiDitBlock]) -> Tensor<3> {
        segment.iter().fold(self.tokens.clone(), |x, block| {
            block.forward(x, self.conditioning.clone(), self.text.clone(), Some(self.mask))
        })
    }

    fn gradients(&self, gradients: &mut Gradients) -> Flow {
        Flow {
            tokens: gradient(&self.tokens, gradients),
            conditioning: gradient(&self.conditioning, gradients),
            text: gradient(&self.text, gradients),
        }
    }
}

/// The gradients that leave a segment through its inputs; those of conditioning and text summed over segments.
struct Flow {
    tokens: Tensor<3>,
    conditioning: Tensor<2>,
    text: Tensor<3>,
}

/// The backward pass of what made `y`, when the gradient of `y` is `gradient`.
fn backward<const D: usize>(y: Tensor<D>, gradient: Tensor<D>) -> Gradients {
    (y * gradient).sum().backward()
}

/// The gradient of a leaf; zero if it took no part.
fn gradient<const D: usize>(leaf: &Tensor<D>, gradients: &mut Gradients) -> Tensor<D> {
    leaf.grad_remove(gradients)
        .unwrap_or_else(|| leaf.clone().inner().zeros_like())
}

/// The values alone, still on the autodiff device: there some operations round differently than without it, and a
/// second run must repeat the first one's bits.
fn cut<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.inner().autodiff()
}

/// The same weights, which nothing tracks.
struct Untrack;

impl ModuleMapper for Untrack {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, weight, mapper) = param.consume();
        Param::from_mapped_value(id, cut(weight), mapper)
    }
}

#[cfg(test)]
mod tests;
