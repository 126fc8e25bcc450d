//! Rows of a tensor that several threads write.

use std::mem::MaybeUninit;

use super::Inputs;

/// A tensor `[B, tokens, H, d]` whose heads several threads write.
pub struct HeadRows {
    first: *mut f32,
    len: usize,
    num_tokens: usize,
    num_heads: usize,
    dim: usize,
}

// SAFETY: `write` demands that no two threads ask for one row at a time.
unsafe impl Sync for HeadRows {}

impl HeadRows {
    /// Of a tensor of `num_tokens` tokens a row.
    pub fn new(values: &mut [MaybeUninit<f32>], num_tokens: usize, inputs: &Inputs<'_>) -> Self {
        Self {
            first: values.as_mut_ptr().cast(),
            len: values.len(),
            num_tokens,
            num_heads: inputs.num_heads,
            dim: inputs.dim,
        }
    }

    /// Writes token `t` of one head: the numbers that `of` gives for each feature.
    ///
    /// # Safety
    /// The memory still stands, and no other thread is at this token's head.
    #[inline(always)]
    pub unsafe fn write(&self, [b, head]: [usize; 2], t: usize, of: impl Fn(usize) -> f32) {
        let start = ((b * self.num_tokens + t) * self.num_heads + head) * self.dim;
        assert!(start + self.dim <= self.len, "a row of the tensor");
        for i in 0..self.dim {
            // SAFETY: inside the tensor, by the assertion.
            unsafe { self.first.add(start + i).write(of(i)) };
        }
    }
}
