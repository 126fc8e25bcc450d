//! Flat space: all trainable parameters as one vector.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::ops::Range;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, FloatDType, Gradients, Shape, Tensor};
use lidit_kernels::round_to_bf16;
use lidit_model::{Role, is_f32_parameter};
use serde::{Deserialize, Serialize};

use crate::config::Precision;
use crate::packing::Packing;

/// One parameter's place in flat space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Path in the model, such as `blocks.2.self_attention.qkv.weight`.
    pub name: String,
    /// Shape in the model.
    pub shape: Vec<usize>,
    /// First element in flat space.
    pub offset: usize,
    /// Optimizer group. Groups are contiguous in flat space, in their order.
    pub group: Role,
}

impl Entry {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the parameter has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements in flat space.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.len()
    }
}

/// The order of all parameters in flat space: by group, then by natural path (block 2 before block 10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlatLayout {
    entries: Vec<Entry>,
    index: HashMap<String, usize>,
    len: usize,
}

impl FlatLayout {
    /// The layout of `model`'s parameters.
    pub fn of(model: &impl Module) -> Self {
        let mut lister = Lister::default();
        model.visit(&mut lister);
        Self::from_entries(lister.entries)
    }

    /// The layout of parameters in any order; their offsets are yet to be told.
    pub(crate) fn from_entries(mut entries: Vec<Entry>) -> Self {
        entries.sort_by(|a, b| a.group.cmp(&b.group).then_with(|| natural_order(&a.name, &b.name)));
        let mut len = 0;
        for entry in &mut entries {
            entry.offset = len;
            len += entry.len();
        }
        let index = entries
            .iter()
            .enumerate()
            .map(|(i, entry)| (entry.name.clone(), i))
            .collect();
        Self { entries, index, len }
    }

    /// All parameters in flat order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Number of trainable scalars.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to train.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Each group's contiguous range, in order.
    pub fn groups(&self) -> Vec<(Role, Range<usize>)> {
        let mut groups: Vec<(Role, Range<usize>)> = Vec::new();
        for entry in &self.entries {
            match groups.last_mut() {
                Some((group, range)) if *group == entry.group => range.end = entry.range().end,
                _ => groups.push((entry.group, entry.range())),
            }
        }
        groups
    }

    /// The types in which weights travel between ranks that compute in `precision`.
    pub(crate) fn packing(&self, precision: Precision) -> Packing {
        let rounded = |entry: &&Entry| precision == Precision::Bf16 && !is_f32_parameter(&entry.name);
        Packing::new(self.entries.iter().filter(rounded).map(Entry::range))
    }

    /// `model`'s weights as one f32 vector, `[len]`.
    pub fn values(&self, model: &impl Module) -> Tensor<1> {
        let mut parts = vec![None; self.entries.len()];
        self.collect(model, Source::Values, &mut parts);
        Tensor::cat(parts.into_iter().flatten().collect(), 0)
    }

    /// `model` with its weights replaced by the flat vector `masters`, `[len]`, in the compute type of `precision`:
    /// fresh leaves that require gradients where `model`'s did.
    pub fn load<M: Module>(&self, masters: &Tensor<1>, precision: Precision, model: M) -> M {
        let rounded = match precision {
            Precision::F32 => masters.clone(),
            Precision::Bf16 => round_to_bf16(masters.clone()),
        };
        model.map(&mut Loader {
            layout: self,
            masters,
            rounded,
            path: Vec::new(),
        })
    }

    /// `model` without its weights, until [`load`](Self::load) gives it others: a flat vector that they are views of may
    /// then be changed in place.
    pub fn release<M: Module>(model: M) -> M {
        model.map(&mut Releaser)
    }

    fn collect(&self, model: &impl Module, source: Source<'_>, parts: &mut [Option<Tensor<1>>]) {
        model.visit(&mut Collector {
            layout: self,
            source,
            path: Vec::new(),
            parts,
        });
    }

    fn entry(&self, name: &str) -> (usize, &Entry) {
        let i = self.index[name];
        (i, &self.entries[i])
    }
}

/// A model's gradients on their way into flat space, as the parts of a backward pass hand them over.
pub struct FlatGradients<'a, M> {
    layout: &'a FlatLayout,
    model: &'a M,
    parts: Vec<Option<Tensor<1>>>,
}

impl<'a, M: Module> FlatGradients<'a, M> {
    /// Nothing yet of `model`'s gradients.
    pub fn new(layout: &'a FlatLayout, model: &'a M) -> Self {
        Self {
            layout,
            model,
            parts: vec![None; layout.entries.len()],
        }
    }

    /// Takes the gradients of the model's parameters out of `gradients`.
    pub fn take(&mut self, gradients: &mut Gradients) {
        self.layout
            .collect(self.model, Source::Gradients(gradients), &mut self.parts);
    }

    /// All of them as one f32 vector, `[len]`, on `device`; a parameter that took no part in the loss has gradient 0.
    pub fn into_flat(self, device: &Device) -> Tensor<1> {
        let zeros = |entry: &Entry| Tensor::zeros([entry.len()], device);
        let parts = self.parts.into_iter().zip(&self.layout.entries);
        Tensor::cat(
            parts
                .map(|(part, entry)| part.unwrap_or_else(|| zeros(entry)))
                .collect(),
            0,
        )
    }
}

/// Splits `0..len` into `parts` contiguous ranges whose lengths differ by at most one.
pub fn even_ranges(len: usize, parts: usize) -> Vec<Range<usize>> {
    (0..parts)
        .map(|part| part * len / parts..(part + 1) * len / parts)
        .collect()
}

/// Compares paths part by part, numbers by value.
fn natural_order(a: &str, b: &str) -> Ordering {
    let mut left = a.split('.');
    let mut right = b.split('.');
    loop {
        let order = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(a), Some(b)) => match (a.parse::<u64>(), b.parse::<u64>()) {
                (Ok(a), Ok(b)) => a.cmp(&b),
                _ => a.cmp(b),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

#[derive(Default)]
struct Lister {
    path: Vec<String>,
    entries: Vec<Entry>,
}

impl ModuleVisitor for Lister {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.join(".");
        self.entries.push(Entry {
            shape: param.lazy_shape().to_vec(),
            offset: 0,
            group: Role::of(&name),
            name,
        });
    }
}

/// What a [`Collector`] takes from each parameter.
enum Source<'a> {
    Values,
    Gradients(&'a mut Gradients),
}

struct Collector<'a> {
    layout: &'a FlatLayout,
    source: Source<'a>,
    path: Vec<String>,
    parts: &'a mut [Option<Tensor<1>>],
}

impl ModuleVisitor for Collector<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (i, entry) = self.layout.entry(&self.path.join("."));
        let taken = match &mut self.source {
            Source::Values => Some(param.val().inner()),
            Source::Gradients(gradients) => param.val().grad_remove(gradients),
        };
        if let Some(taken) = taken {
            self.parts[i] = Some(taken.reshape([entry.len()]).cast(FloatDType::F32));
        }
    }
}

struct Loader<'a> {
    layout: &'a FlatLayout,
    masters: &'a Tensor<1>,
    rounded: Tensor<1>,
    path: Vec<String>,
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.join(".");
        let (_, entry) = self.layout.entry(&name);
        let source = if is_f32_parameter(&name) {
            self.masters
        } else {
            &self.rounded
        };
        let (id, old, mapper) = param.consume();
        let shape = Shape::from(entry.shape.clone());
        let value = source.clone().slice([entry.range()]).reshape(shape);
        Param::from_mapped_value(id, tracked_as(&old, value), mapper)
    }
}

/// `value`, on autodiff and with gradients where `old` is and has.
fn tracked_as<const D: usize>(old: &Tensor<D>, mut value: Tensor<D>) -> Tensor<D> {
    if old.is_autodiff() {
        value = value.autodiff();
    }
    if old.is_require_grad() {
        value = value.require_grad();
    }
    value
}

struct Releaser;

impl ModuleMapper for Releaser {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, old, mapper) = param.consume();
        let empty = Tensor::empty([0; D], &old.device().inner());
        Param::from_mapped_value(id, tracked_as(&old, empty), mapper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_2_comes_before_block_10() {
        let mut names = ["blocks.10.a", "blocks.2.b", "a.weight", "blocks.2.a"];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(names, ["a.weight", "blocks.2.a", "blocks.2.b", "blocks.10.a"]);
    }

    #[test]
    fn ranges_cover_everything_once_and_differ_by_at_most_one() {
        for (len, parts) in [(10, 3), (2, 4), (1_000_003, 7), (5, 1)] {
            let ranges = even_ranges(len, parts);
            assert_eq!(ranges.len(), parts);
            assert_eq!(ranges[0].start, 0);
            assert_eq!(ranges[parts - 1].end, len);
            for pair in ranges.windows(2) {
                assert_eq!(pair[0].end, pair[1].start);
            }
            let lens: Vec<usize> = ranges.iter().map(Range::len).collect();
            assert!(lens.iter().max().unwrap() - lens.iter().min().unwrap() <= 1);
        }
    }
}
