//! What frozen encoders said about one caption, as plain bytes.

use std::ops::Range;

/// One caption of one sample with every encoder's features.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureRow {
    /// The sample's row number in the whole dataset.
    pub id: u64,
    /// One of the sample's captions.
    pub caption: String,
    /// One an encoder.
    pub prompts: Vec<PromptFeatures>,
    /// The sample's picture, on the first of its rows; none where pictures are not encoded or this one can't be used.
    pub latents: Option<StoredLatents>,
}

/// A picture as a VAE's encoder left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLatents {
    /// Height of the latent grid.
    pub height: u32,
    /// Width of the latent grid.
    pub width: u32,
    /// `[C, height, width]`, row-major, little-endian.
    pub values: Vec<u8>,
}

/// One encoder's features of one prompt: all of it beyond the prefix that prompts share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptFeatures {
    /// The tokens beyond the shared ones.
    pub ids: Vec<u32>,
    /// How many tokens before them are the constant prefix's first.
    pub shared: u32,
    /// The caption's tokens, counted from the whole prompt's first.
    pub caption: Range<u32>,
    /// Caption tokens that were cut off.
    pub num_cut: u32,
    /// `[ids.len(), dim]`, row-major, little-endian.
    pub states: Vec<u8>,
}

impl FeatureRow {
    /// CRC-32C over everything the row holds, lengths included: a damaged row never passes for a whole one.
    pub(crate) fn checksum(&self) -> u32 {
        let mut crc = crc32c::crc32c(&self.id.to_le_bytes());
        let mut take = |bytes: &[u8]| crc = crc32c::crc32c_append(crc, bytes);
        take(&(self.caption.len() as u64).to_le_bytes());
        take(self.caption.as_bytes());
        for prompt in &self.prompts {
            let counts = [prompt.shared, prompt.caption.start, prompt.caption.end, prompt.num_cut];
            take(&(prompt.ids.len() as u64).to_le_bytes());
            for number in prompt.ids.iter().chain(&counts) {
                take(&number.to_le_bytes());
            }
            take(&(prompt.states.len() as u64).to_le_bytes());
            take(&prompt.states);
        }
        if let Some(latents) = &self.latents {
            take(&latents.height.to_le_bytes());
            take(&latents.width.to_le_bytes());
            take(&(latents.values.len() as u64).to_le_bytes());
            take(&latents.values);
        }
        crc
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A row that differs from id to id and from caption to caption.
    pub(crate) fn example(id: u64, caption: &str, num_encoders: usize) -> FeatureRow {
        let prompt = |encoder: usize| PromptFeatures {
            ids: caption.bytes().map(u32::from).collect(),
            shared: encoder as u32,
            caption: encoder as u32..(encoder + caption.len()) as u32,
            num_cut: id as u32,
            states: caption
                .bytes()
                .flat_map(|byte| [byte, id as u8, encoder as u8, 0])
                .collect(),
        };
        FeatureRow {
            id,
            caption: caption.to_owned(),
            prompts: (0..num_encoders).map(prompt).collect(),
            latents: (!id.is_multiple_of(2)).then(|| StoredLatents {
                height: 1,
                width: id as u32,
                values: vec![7; 4 * id as usize],
            }),
        }
    }

    #[test]
    fn any_change_changes_the_checksum() {
        let row = example(3, "ab", 2);
        let changes: [fn(&mut FeatureRow); 10] = [
            |row| row.latents = None,
            |row| row.latents.as_mut().unwrap().height += 1,
            |row| row.latents.as_mut().unwrap().values[11] ^= 1,
            |row| row.id += 1,
            |row| row.caption.push(' '),
            |row| row.prompts[1].ids[0] ^= 1,
            |row| row.prompts[0].shared += 1,
            |row| row.prompts[0].caption.end += 1,
            |row| row.prompts[1].num_cut += 1,
            |row| row.prompts[1].states[5] ^= 0x80,
        ];
        for change in changes {
            let mut other = row.clone();
            change(&mut other);
            assert_ne!(other.checksum(), row.checksum(), "{other:?}");
        }
    }
}
