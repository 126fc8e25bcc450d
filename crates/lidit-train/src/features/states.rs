//! States of prompts to stored bytes and back.

use anyhow::{Result, ensure};
use half::bf16;
use lidit_data::{PromptFeatures, StoredLatents};
use lidit_encoders::{Precision, Prefix, PromptStates};

/// Little-endian bytes of `states`, rounded to `precision`.
fn to_bytes(states: &[f32], precision: Precision) -> Vec<u8> {
    match precision {
        Precision::F32 => states.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Precision::Bf16 => states
            .iter()
            .flat_map(|value| bf16::from_f32(*value).to_le_bytes())
            .collect(),
    }
}

fn from_bytes(bytes: &[u8], precision: Precision) -> Vec<f32> {
    match precision {
        Precision::F32 => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        Precision::Bf16 => {
            let values = bytes.as_chunks::<2>().0.iter();
            values.map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
        }
    }
}

/// Bytes of one stored number.
pub(super) fn width(precision: Precision) -> usize {
    match precision {
        Precision::F32 => 4,
        Precision::Bf16 => 2,
    }
}

/// What is stored of a prompt: all beyond the prefix.
///
/// # Errors
/// The shared tokens are not the prefix's: the encoder contradicts itself.
pub(super) fn pack(states: &PromptStates, prefix: &Prefix, precision: Precision) -> Result<PromptFeatures> {
    let shared = states.shared;
    ensure!(
        states
            .ids
            .get(..shared)
            .is_some_and(|ids| prefix.ids.get(..shared) == Some(ids)),
        "a prompt's first {shared} tokens are not those of its encoder's prefix: this is a bug"
    );
    Ok(PromptFeatures {
        ids: states.ids[shared..].to_vec(),
        shared: shared as u32,
        caption: states.caption.start as u32..states.caption.end as u32,
        num_cut: states.num_cut as u32,
        states: to_bytes(&states.states[shared * states.dim..], precision),
    })
}

/// The prefix as a prompt of its own.
pub(super) fn pack_prefix(prefix: &Prefix, precision: Precision) -> PromptFeatures {
    PromptFeatures {
        ids: prefix.ids.clone(),
        states: to_bytes(&prefix.states, precision),
        ..PromptFeatures::default()
    }
}

/// The prefix that [`pack_prefix`] stored.
pub(super) fn unpack_prefix(stored: &PromptFeatures, dim: usize, precision: Precision) -> Result<Prefix> {
    let states = from_bytes(&stored.states, precision);
    ensure!(
        states.len() == stored.ids.len() * dim,
        "the stored prefix has {} tokens but {} numbers of states of width {dim}",
        stored.ids.len(),
        states.len()
    );
    Ok(Prefix {
        ids: stored.ids.clone(),
        states,
    })
}

/// The whole prompt: the prefix's part and the stored rest.
pub(super) fn unpack(
    stored: &PromptFeatures,
    prefix: &Prefix,
    dim: usize,
    precision: Precision,
) -> Result<PromptStates> {
    let shared = stored.shared as usize;
    let tokens = shared + stored.ids.len();
    let caption = stored.caption.start as usize..stored.caption.end as usize;
    ensure!(
        shared <= prefix.ids.len()
            && stored.states.len() == stored.ids.len() * dim * width(precision)
            && caption.start <= caption.end
            && caption.end <= tokens,
        "stored features contradict themselves: {shared} of {} prefix tokens, {} own tokens, {} bytes of states of \
         width {dim}, caption {caption:?}",
        prefix.ids.len(),
        stored.ids.len(),
        stored.states.len()
    );
    let mut states = Vec::with_capacity(tokens * dim);
    states.extend_from_slice(&prefix.states[..shared * dim]);
    states.extend(from_bytes(&stored.states, precision));
    Ok(PromptStates {
        ids: [&prefix.ids[..shared], &stored.ids].concat(),
        states,
        dim,
        shared,
        caption,
        num_cut: stored.num_cut as usize,
    })
}

/// What is stored of a picture's latents `[C, height, width]`.
pub(super) fn pack_latents(values: &[f32], [height, width]: [usize; 2], precision: Precision) -> StoredLatents {
    StoredLatents {
        height: height as u32,
        width: width as u32,
        values: to_bytes(values, precision),
    }
}

/// The latents that [`pack_latents`] stored, which must have `shape` `[C, height, width]`.
pub(super) fn unpack_latents(stored: &StoredLatents, shape: [usize; 3], precision: Precision) -> Result<Vec<f32>> {
    let [channels, height, width] = shape;
    ensure!(
        (stored.height as usize, stored.width as usize) == (height, width)
            && stored.values.len() == channels * height * width * self::width(precision),
        "{} x {} latents in {} bytes are stored where {channels} x {height} x {width} are needed",
        stored.height,
        stored.width,
        stored.values.len()
    );
    Ok(from_bytes(&stored.values, precision))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn prefix() -> Prefix {
        Prefix {
            ids: vec![7, 8, 9],
            states: vec![1.0, -2.5, 3.0, 0.1, 1e-20, 24_820.0],
        }
    }

    fn prompt() -> PromptStates {
        PromptStates {
            ids: vec![7, 8, 4, 5],
            states: vec![1.0, -2.5, 3.0, 0.1, 0.3, -0.7, 1e30, 5.0],
            dim: 2,
            shared: 2,
            caption: 1..4,
            num_cut: 6,
        }
    }

    #[test]
    fn a_prompt_comes_back_whole_from_its_prefix_and_its_own_part() {
        let stored = pack(&prompt(), &prefix(), Precision::F32).unwrap();
        assert_eq!((stored.ids.as_slice(), stored.states.len()), (&[4, 5][..], 16));
        assert_eq!(unpack(&stored, &prefix(), 2, Precision::F32).unwrap(), prompt());
        let stored = pack_prefix(&prefix(), Precision::F32);
        assert_eq!(unpack_prefix(&stored, 2, Precision::F32).unwrap(), prefix());
    }

    #[test]
    fn bf16_rounds_to_the_nearest_by_at_most_a_256th() {
        let stored = pack(&prompt(), &prefix(), Precision::Bf16).unwrap();
        assert_eq!(stored.states.len(), 8);
        let read = unpack(&stored, &prefix(), 2, Precision::Bf16).unwrap();
        for (read, written) in read.states.iter().zip(&prompt().states) {
            assert!((read - written).abs() <= written.abs() / 256.0, "{read} {written}");
        }
        assert!(read.states[4..] != prompt().states[4..]);
    }

    #[test]
    fn latents_come_back_and_other_shapes_are_refused() {
        let values = [0.5, -1.25, 3.0, 0.0, 8.0, -2.0];
        for precision in [Precision::F32, Precision::Bf16] {
            let stored = pack_latents(&values, [1, 3], precision);
            assert_eq!(unpack_latents(&stored, [2, 1, 3], precision).unwrap(), values);
            for shape in [[2, 3, 1], [1, 1, 3]] {
                assert!(unpack_latents(&stored, shape, precision).is_err(), "{shape:?}");
            }
        }
    }

    #[test]
    fn a_foreign_prefix_and_ragged_states_are_refused() {
        let mut foreign = prefix();
        foreign.ids[0] = 1;
        assert!(pack(&prompt(), &foreign, Precision::F32).is_err());
        let mut stored = pack(&prompt(), &prefix(), Precision::F32).unwrap();
        stored.states.pop();
        let message = unpack(&stored, &prefix(), 2, Precision::F32).unwrap_err().to_string();
        assert!(message.contains("15 bytes"), "{message}");
    }
}
