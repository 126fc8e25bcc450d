//! Who sees whom in a batch of right-padded rows that may share a prefix.

use std::ops::Range;
use std::sync::OnceLock;

use burn::tensor::{DType, Device, Tensor, TensorData};

/// Which positions a query sees, before padding is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Nothing after itself.
    pub causal: bool,
    /// Itself and `window - 1` positions before it.
    pub window: Option<usize>,
}

/// Which keys each query of a batch sees. Queries after a row's length are padding: their results mean nothing.
///
/// Token `t` of row `b` stands at position `shared[b] + t`; the prefix stands at `0..P`.
#[derive(Clone, Debug)]
pub struct AttentionMask {
    reach: Reach,
    lengths: Vec<usize>,
    shared: Vec<usize>,
    bias: OnceLock<Tensor<4>>, // [B, 1, T, P + T], only where the reference needs it
}

impl AttentionMask {
    /// Rows whose first `lengths[b]` tokens are not padding and which see the first `shared[b]` tokens of the prefix.
    pub fn new(reach: Reach, lengths: Vec<usize>, shared: Vec<usize>) -> Self {
        assert_eq!(lengths.len(), shared.len(), "one length and one share for each row");
        assert_ne!(reach.window, Some(0), "a query sees at least itself");
        Self {
            reach,
            lengths,
            shared,
            bias: OnceLock::new(),
        }
    }

    /// Tokens of row `b` that are not padding.
    pub fn length(&self, b: usize) -> usize {
        self.lengths[b]
    }

    /// Tokens of the prefix before row `b`.
    pub fn shared(&self, b: usize) -> usize {
        self.shared[b]
    }

    /// The positions that token `t` of row `b` sees.
    pub fn visible(&self, b: usize, t: usize) -> Range<usize> {
        let position = self.shared[b] + t;
        let end = self.shared[b] + self.lengths[b];
        let end = if self.reach.causal { end.min(position + 1) } else { end };
        let start = self
            .reach
            .window
            .map_or(0, |window| (position + 1).saturating_sub(window));
        start.min(end)..end
    }

    /// Panics if it was made for another batch, longer rows or a longer prefix.
    pub fn assert_fits(&self, [batch, len, prefix]: [usize; 3]) {
        assert_eq!(self.lengths.len(), batch, "a mask for another batch");
        let fits = self.lengths.iter().all(|&n| n <= len) && self.shared.iter().all(|&n| n <= prefix);
        assert!(fits, "a row longer than {len} tokens or a prefix longer than {prefix}");
    }

    /// 0 where a query may look, else so low that its weight is exactly 0.
    pub fn bias(&self, len: usize, prefix: usize, device: &Device) -> Tensor<4> {
        let batch = self.lengths.len();
        let bias = self.bias.get_or_init(|| {
            let mut values = vec![-1e30; batch * len * (prefix + len)];
            for (row, values) in values.chunks_exact_mut(prefix + len).enumerate() {
                let (b, t) = (row / len, row % len);
                for position in self.visible(b, t) {
                    let own = position.checked_sub(self.shared[b]);
                    values[own.map_or(position, |own| prefix + own)] = 0.0;
                }
            }
            let data = TensorData::new(values, [batch, 1, len, prefix + len]);
            Tensor::from_data(data, (device, DType::F32))
        });
        assert_eq!(bias.dims(), [batch, 1, len, prefix + len], "a mask serves one shape");
        bias.clone()
    }
}
