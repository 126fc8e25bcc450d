//! What the backward passes of all operations do alike.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend};
use burn_autodiff::NodeId;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::Ops;

/// Tensors without their place in the graph.
#[expect(
    clippy::redundant_closure_for_method_calls,
    reason = "the tensors' type has no public path"
)]
pub fn values_of<B: Backend, C: CheckpointStrategy, const N: usize>(
    tensors: [FloatTensor<Autodiff<B, C>>; N],
) -> [FloatTensor<B>; N] {
    tensors.map(|x| x.into_primitive())
}

/// The values that a forward pass kept.
pub fn kept<B: Backend, const N: usize>(nodes: [NodeId; N], checkpointer: &mut Checkpointer) -> [FloatTensor<B>; N] {
    nodes.map(|node| checkpointer.retrieve_node_output::<FloatTensor<B>>(node))
}

/// Hands each parent that is tracked its gradient.
pub fn register<B: Backend, S, const N: usize>(
    gradients: &mut Gradients,
    ops: Ops<S, N>,
    of_parents: [FloatTensor<B>; N],
) {
    for (parent, gradient) in ops.parents.into_iter().zip(of_parents) {
        if let Some(parent) = parent {
            gradients.register::<B>(parent.id, gradient);
        }
    }
}
