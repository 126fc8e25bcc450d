//! Attention with grouped queries over right-padded rows that may share a prefix.
//!
//! For frozen networks: there is no fused backward, tensors with gradients take the reference.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;

use crate::attention_flex::fused;
use crate::attention_mask::AttentionMask;
use crate::flex::{from_flex, into_flex, is_flex, with_whole_rows};

/// How the score of a query and a key is made of their dot product.
#[derive(Clone, Debug)]
pub struct AttentionScores {
    /// Times the dot product.
    pub scale: f32,
    /// `cap tanh(score / cap)`, after the scale.
    pub softcap: Option<f32>,
    /// Added last: `[H, T, T]`, for attention without a prefix.
    pub bias: Option<Tensor<3>>,
}

/// Softmax attention of `query [B, T, H, d]` over `key` and `value` `[B, T, K, d]`, after a prefix `[P, K, d]` of keys
/// and values that all rows share; gives `[B, T, H, d]`. Query head `h` uses key head `h / (H / K)`.
///
/// On the CPU the scores of one head are never in memory at once. Source: Vaswani et al., arXiv 1706.03762, section
/// 3.2; grouped queries: Ainslie et al., arXiv 2305.13245. Within 1e-5 of [`attention_reference`].
pub fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    prefix: Option<[Tensor<3>; 2]>,
    scores: &AttentionScores,
    mask: &AttentionMask,
) -> Tensor<4> {
    let on_flex = [&query, &key, &value].into_iter().all(is_flex)
        && prefix.iter().flatten().all(is_flex)
        && scores.bias.iter().all(is_flex);
    if !on_flex {
        return attention_reference(query, key, value, prefix, scores, mask);
    }
    assert_shapes(&query, [&key, &value], prefix.as_ref(), scores, mask);
    let whole = |x| with_whole_rows(into_flex(x));
    from_flex(fused(
        &whole(query),
        [&whole(key), &whole(value)],
        prefix.map(|pair| pair.map(|x| with_whole_rows(into_flex(x)))).as_ref(),
        scores,
        mask,
    ))
}

/// The same in plain burn, with all scores in memory.
pub fn attention_reference(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    prefix: Option<[Tensor<3>; 2]>,
    scores: &AttentionScores,
    mask: &AttentionMask,
) -> Tensor<4> {
    assert_shapes(&query, [&key, &value], prefix.as_ref(), scores, mask);
    let ([batch, len, num_heads, dim], num_kv_heads) = (query.dims(), key.dims()[2]);
    let bias = mask.bias(len, prefix_len(prefix.as_ref()), &query.device().without_autodiff());
    let bias = if query.device().is_autodiff() {
        bias.autodiff()
    } else {
        bias
    };
    let [key, value] = match prefix {
        Some([prefix_key, prefix_value]) => [(prefix_key, key), (prefix_value, value)].map(|(prefix, own)| {
            let [prefix_len, heads, dim] = prefix.dims();
            let prefix = prefix.unsqueeze::<4>().expand([batch, prefix_len, heads, dim]);
            Tensor::cat(vec![prefix, own], 1)
        }),
        None => [key, value],
    };
    let num_keys = key.dims()[1];
    let rows = num_heads / num_kv_heads * len;
    let query = query.swap_dims(1, 2).reshape([batch, num_kv_heads, rows, dim]);
    let key = key.swap_dims(1, 2).swap_dims(2, 3); // [B, K, d, S]
    let score = (query.matmul(key) * scores.scale).reshape([batch, num_heads, len, num_keys]);
    let score = match scores.softcap {
        Some(cap) => (score / cap).tanh() * cap,
        None => score,
    };
    let score = match &scores.bias {
        Some(bias) => score + bias.clone().unsqueeze(),
        None => score,
    };
    let weights = softmax(score + bias, 3).reshape([batch, num_kv_heads, rows, num_keys]);
    let mixed = weights.matmul(value.swap_dims(1, 2));
    mixed.reshape([batch, num_heads, len, dim]).swap_dims(1, 2)
}

fn prefix_len(prefix: Option<&[Tensor<3>; 2]>) -> usize {
    prefix.map_or(0, |[key, _]| key.dims()[0])
}

fn assert_shapes(
    query: &Tensor<4>,
    [key, value]: [&Tensor<4>; 2],
    prefix: Option<&[Tensor<3>; 2]>,
    scores: &AttentionScores,
    mask: &AttentionMask,
) {
    let [batch, len, num_heads, dim] = query.dims();
    let num_kv_heads = key.dims()[2];
    assert_eq!(key.dims(), [batch, len, num_kv_heads, dim], "keys beside queries");
    assert_eq!(key.dims(), value.dims(), "one value for each key");
    assert_eq!(num_heads % num_kv_heads, 0, "each key head serves as many query heads");
    if let Some([key, value]) = prefix {
        assert_eq!(key.dims()[1..], [num_kv_heads, dim], "prefix keys like the others");
        assert_eq!(key.dims(), value.dims(), "one value for each key");
        assert!(scores.bias.is_none(), "a bias has no columns for a prefix");
    }
    if let Some(bias) = &scores.bias {
        assert_eq!(
            bias.dims(),
            [num_heads, len, len],
            "a bias for each head, query and key"
        );
    }
    mask.assert_fits([batch, len, prefix_len(prefix)]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention_mask::Reach;
    use crate::flex::testing::{assert_close, tensor};

    struct Case {
        heads: [usize; 2],
        dim: usize,
        len: usize,
        prefix: usize,
        reach: Reach,
        lengths: Vec<usize>,
        shared: Vec<usize>,
        softcap: Option<f32>,
        with_bias: bool,
    }

    const CAUSAL: Reach = Reach {
        causal: true,
        window: None,
    };
    const BOTH_WAYS: Reach = Reach {
        causal: false,
        window: None,
    };

    fn windowed(window: usize) -> Reach {
        Reach {
            causal: true,
            window: Some(window),
        }
    }

    impl Case {
        fn plain(heads: [usize; 2], dim: usize, len: usize, lengths: &[usize]) -> Self {
            Self {
                heads,
                dim,
                len,
                prefix: 0,
                reach: CAUSAL,
                lengths: lengths.to_vec(),
                shared: vec![0; lengths.len()],
                softcap: None,
                with_bias: false,
            }
        }

        fn with_prefix(self, prefix: usize, shared: &[usize]) -> Self {
            let shared = shared.to_vec();
            Self { prefix, shared, ..self }
        }

        fn check(&self) {
            let (batch, [num_heads, num_kv_heads]) = (self.lengths.len(), self.heads);
            let query = tensor([batch, self.len, num_heads, self.dim], 1);
            let key = tensor([batch, self.len, num_kv_heads, self.dim], 2);
            let value = tensor([batch, self.len, num_kv_heads, self.dim], 3);
            let of_prefix = |seed| tensor([self.prefix, num_kv_heads, self.dim], seed);
            let prefix = (self.prefix > 0).then(|| [of_prefix(4), of_prefix(5)]);
            let scores = AttentionScores {
                scale: (self.dim as f32).sqrt().recip(),
                softcap: self.softcap,
                bias: self.with_bias.then(|| tensor([num_heads, self.len, self.len], 6)),
            };
            let mask = AttentionMask::new(self.reach, self.lengths.clone(), self.shared.clone());
            let got = attention(
                query.clone(),
                key.clone(),
                value.clone(),
                prefix.clone(),
                &scores,
                &mask,
            );
            let right = attention_reference(query, key, value, prefix, &scores, &mask);
            for (b, &length) in self.lengths.iter().enumerate().filter(|(_, length)| **length > 0) {
                let real = |x: &Tensor<4>| x.clone().narrow(0, b, 1).narrow(1, 0, length);
                assert_close(real(&got), real(&right), 1e-5);
            }
            assert!(got.abs().max().into_scalar::<f32>() < 3.0, "padding is finite");
        }
    }

    #[test]
    fn every_shape_equals_the_reference() {
        Case::plain([1, 1], 1, 1, &[1]).check();
        Case::plain([9, 3], 64, 33, &[33, 7, 1, 0]).check();
        Case::plain([4, 2], 20, 17, &[16, 17]).check();
        Case::plain([5, 1], 8, 130, &[130, 65]).check();
        let case = Case::plain([8, 4], 33, 70, &[70, 3, 64]);
        Case {
            reach: BOTH_WAYS,
            ..case
        }
        .check();
    }

    #[test]
    fn windows_caps_and_biases_equal_the_reference() {
        for window in [1, 5, 64, 1000] {
            let case = Case::plain([4, 2], 16, 150, &[150, 40]);
            let reach = windowed(window);
            Case {
                reach,
                softcap: Some(2.0),
                ..case
            }
            .check();
        }
        let case = Case::plain([6, 6], 16, 41, &[41, 12]);
        Case {
            reach: BOTH_WAYS,
            with_bias: true,
            ..case
        }
        .check();
    }

    #[test]
    fn a_prefix_of_which_each_row_sees_its_own_share_equals_the_reference() {
        let case = || Case::plain([9, 3], 64, 7, &[7, 5, 0, 1]).with_prefix(26, &[26, 20, 3, 0]);
        case().check();
        Case {
            reach: windowed(9),
            ..case()
        }
        .check();
        Case {
            reach: BOTH_WAYS,
            ..case()
        }
        .check();
        Case::plain([2, 1], 48, 70, &[70, 66])
            .with_prefix(40, &[40, 33])
            .check();
    }

    #[test]
    fn a_prefix_gives_what_the_whole_rows_give() {
        let (query, key, value) = (
            tensor([2, 12, 4, 8], 1),
            tensor([2, 12, 2, 8], 2),
            tensor([2, 12, 2, 8], 3),
        );
        let same = |x: &Tensor<4>| {
            let prefix = x.clone().narrow(0, 0, 1).narrow(1, 0, 5);
            let second = Tensor::cat(vec![prefix, x.clone().narrow(0, 1, 1).narrow(1, 5, 7)], 1);
            Tensor::cat(vec![x.clone().narrow(0, 0, 1), second], 0)
        };
        let (key, value) = (same(&key), same(&value));
        let scores = AttentionScores {
            scale: 1.0,
            softcap: None,
            bias: None,
        };
        let whole_mask = AttentionMask::new(windowed(6), vec![12; 2], vec![0; 2]);
        let whole = attention(query.clone(), key.clone(), value.clone(), None, &scores, &whole_mask);
        let rest = |x: &Tensor<4>| x.clone().narrow(1, 5, 7);
        let of_prefix = |x: &Tensor<4>| x.clone().narrow(0, 0, 1).narrow(1, 0, 5).squeeze_dim::<3>(0);
        let prefix = Some([of_prefix(&key), of_prefix(&value)]);
        let mask = AttentionMask::new(windowed(6), vec![7; 2], vec![5; 2]);
        let got = attention(rest(&query), rest(&key), rest(&value), prefix, &scores, &mask);
        assert_close(got, rest(&whole), 1e-6);
    }

    #[test]
    fn views_of_joined_projections_equal_their_copies() {
        let joined = tensor([3, 11, 8, 10], 1); // 4 query, 2 key, 2 value heads
        let part = |start, len| joined.clone().narrow(2, start, len);
        let scores = AttentionScores {
            scale: 0.5,
            softcap: None,
            bias: None,
        };
        let mask = AttentionMask::new(CAUSAL, vec![11, 4, 9], vec![0; 3]);
        let views = attention(part(0, 4), part(4, 2), part(6, 2), None, &scores, &mask);
        let copies = attention(
            part(0, 4) + 0.0,
            part(4, 2) + 0.0,
            part(6, 2) + 0.0,
            None,
            &scores,
            &mask,
        );
        assert_close(views, copies, 0.0);
        let turned = |start, len| part(start, len).swap_dims(1, 3).swap_dims(1, 3).flip([3]);
        let backwards = attention(turned(0, 4), turned(4, 2), turned(6, 2), None, &scores, &mask);
        let right = attention_reference(turned(0, 4), turned(4, 2), turned(6, 2), None, &scores, &mask);
        assert_close(backwards.narrow(0, 0, 1), right.narrow(0, 0, 1), 1e-5);
    }

    #[test]
    fn gradients_flow_through_the_reference() {
        let query = tensor([2, 5, 2, 4], 1).autodiff().require_grad();
        let [key, value] = [2, 3].map(|seed| tensor([2, 5, 1, 4], seed).autodiff());
        let scores = AttentionScores {
            scale: 0.5,
            softcap: None,
            bias: None,
        };
        let mask = AttentionMask::new(CAUSAL, vec![5, 3], vec![0; 2]);
        let mixed = attention(query.clone(), key.clone(), value.clone(), None, &scores, &mask);
        let plain = attention(query.clone().inner(), key.inner(), value.inner(), None, &scores, &mask);
        let row = |x: Tensor<4>| x.narrow(0, 0, 1);
        assert_close(row(mixed.clone().inner()), row(plain), 1e-6);
        let gradients = mixed.sum().backward();
        assert!(query.grad(&gradients).is_some());
    }
}
