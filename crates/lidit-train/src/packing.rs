//! Weights on their way between ranks, each in the type that the network computes in.

use std::ops::Range;

use half::bf16;

/// Which elements of flat space travel as bf16; the others travel as f32.
///
/// The unit is 16 bits: one for a bf16, two for an f32, in the order of flat space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packing {
    /// Ascending, disjoint, not adjacent.
    rounded: Vec<Range<usize>>,
}

impl Packing {
    /// Elements of `rounded`, ascending and disjoint, travel as bf16.
    pub fn new(rounded: impl Iterator<Item = Range<usize>>) -> Self {
        let mut merged: Vec<Range<usize>> = Vec::new();
        for range in rounded.filter(|range| !range.is_empty()) {
            match merged.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => merged.push(range),
            }
        }
        Self { rounded: merged }
    }

    /// Units that the elements `range` take.
    pub fn units(&self, range: &Range<usize>) -> usize {
        self.runs(range).map(|run| run.units()).sum()
    }

    /// Appends `values`, the elements `range` of flat space, to `packed`.
    pub fn pack(&self, range: &Range<usize>, values: &[f32], packed: &mut Vec<u16>) {
        for run in self.runs(range) {
            let values = &values[run.range.start - range.start..run.range.end - range.start];
            if run.is_rounded {
                packed.extend(values.iter().map(|value| bf16::from_f32(*value).to_bits()));
            } else {
                packed.extend_from_slice(bytemuck::cast_slice(values));
            }
        }
    }

    /// The elements `range` of flat space, into `values`; what travelled as bf16 has the values of bf16.
    pub fn unpack(&self, range: &Range<usize>, mut packed: &[u16], values: &mut [f32]) {
        for run in self.runs(range) {
            let values = &mut values[run.range.start - range.start..run.range.end - range.start];
            let (units, rest) = packed.split_at(run.units());
            packed = rest;
            if run.is_rounded {
                for (value, bits) in values.iter_mut().zip(units) {
                    *value = bf16::from_bits(*bits).to_f32();
                }
            } else {
                bytemuck::cast_slice_mut(values).copy_from_slice(units);
            }
        }
    }

    /// `range` cut where the type changes.
    fn runs(&self, range: &Range<usize>) -> impl Iterator<Item = Run> + '_ {
        let end = range.end;
        let mut at = range.start;
        let mut next = self.rounded.partition_point(|rounded| rounded.end <= at);
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let rounded = self.rounded.get(next);
            let (is_rounded, until) = match rounded {
                Some(rounded) if rounded.start <= at => {
                    next += 1;
                    (true, rounded.end)
                }
                Some(rounded) => (false, rounded.start),
                None => (false, end),
            };
            let start = std::mem::replace(&mut at, until.min(end));
            Some(Run {
                range: start..at,
                is_rounded,
            })
        })
    }
}

/// Elements of one type.
struct Run {
    range: Range<usize>,
    is_rounded: bool,
}

impl Run {
    fn units(&self) -> usize {
        self.range.len() * if self.is_rounded { 1 } else { 2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_of_flat_space_travels_whole() {
        let len = 40;
        let rounded = [3..5, 5..9, 12..12, 20..21, 30..40];
        let is_rounded = |i: usize| rounded.iter().any(|range| range.contains(&i));
        let packing = Packing::new(rounded.iter().cloned());
        assert_eq!(packing.rounded, [3..9, 20..21, 30..40]);
        let values: Vec<f32> = (0..len).map(|i| 1.0 + i as f32 * 1e-3).collect();
        for start in 0..len {
            for end in start..=len {
                let range = start..end;
                let mut packed = vec![7];
                packing.pack(&range, &values[range.clone()], &mut packed);
                let expected: usize = range.clone().map(|i| if is_rounded(i) { 1 } else { 2 }).sum();
                assert_eq!(
                    (packed.len() - 1, packing.units(&range)),
                    (expected, expected),
                    "{range:?}"
                );
                let mut back = vec![0.0; range.len()];
                packing.unpack(&range, &packed[1..], &mut back);
                for (i, back) in range.zip(back) {
                    let exact = values[i];
                    let value = if is_rounded(i) {
                        bf16::from_f32(exact).to_f32()
                    } else {
                        exact
                    };
                    assert_eq!(back.to_bits(), value.to_bits(), "element {i}");
                }
            }
        }
    }

    #[test]
    fn in_f32_everything_travels_as_it_is() {
        let (packing, values) = (Packing::default(), [1.5, f32::MIN_POSITIVE, -0.0]);
        let mut packed = Vec::new();
        packing.pack(&(7..10), &values, &mut packed);
        assert_eq!(packed.len(), 6);
        let mut back = [0.0; 3];
        packing.unpack(&(7..10), &packed, &mut back);
        assert_eq!(back.map(f32::to_bits), values.map(f32::to_bits));
    }
}
