//! Weights of one network in another one, and whether they mean the same there.

use anyhow::{Context, Result, bail};

use crate::layout::Entry;
use crate::network_spec::NetworkSpec;
use crate::saved_weights::SavedWeights;

/// Saved weights and the network that is to take them.
pub struct CarryOver<'a> {
    /// Where the weights come from.
    pub saved: &'a SavedWeights,
    /// The network that takes them.
    pub network: &'a NetworkSpec,
    /// Its parameters.
    pub layout: &'a [Entry],
    /// What is not carried over, as paths of parameters or of modules (`final_layer`, `blocks.12`): there, the saved
    /// weights are left behind and the network keeps its own.
    pub fresh: &'a [String],
}

/// What became of each parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Carried {
    /// All weights of the network, in flat space.
    pub weights: Vec<f32>,
    /// Parameters whose values are the saved ones.
    pub carried: usize,
    /// Paths of the parameters that kept their own values.
    pub fresh: Vec<String>,
}

impl CarryOver<'_> {
    /// `initial`, the network's own weights in flat space, with the saved ones in their places.
    ///
    /// # Errors
    /// The first thing in which the saved weights are of another network, with both values and the file: encoders,
    /// their normalisation and pooling, the network's shape and switches, what it predicts, its VAE, and each
    /// parameter's presence and shape. A path of `fresh` that names nothing.
    pub fn carry(&self, mut initial: Vec<f32>) -> Result<Carried> {
        self.check_paths()?;
        self.check_meaning()?;
        self.check_surplus()?;
        let mut fresh = Vec::new();
        for entry in self.layout {
            if self.is_fresh(&entry.name) {
                fresh.push(entry.name.clone());
                continue;
            }
            let values = self.saved.parameter(entry).with_context(
                || "the saved weights are of another network (name the path in `fresh` to initialise it anew)",
            )?;
            initial[entry.range()].copy_from_slice(values);
        }
        Ok(Carried {
            weights: initial,
            carried: self.layout.len() - fresh.len(),
            fresh,
        })
    }

    /// Each path of `fresh` must name something.
    fn check_paths(&self) -> Result<()> {
        for path in self.fresh {
            if !self.paths().any(|name| is_below(name, path)) {
                bail!(
                    "fresh: `{path}` names no parameter, neither of this network nor of {}; write paths such as \
                     `final_layer` or `blocks.2.mlp`",
                    self.saved.file.display()
                );
            }
        }
        Ok(())
    }

    /// Nothing that is carried over may mean something else here.
    fn check_meaning(&self) -> Result<()> {
        for mismatch in self.saved.network.differences(self.network)? {
            let concerned = self
                .paths()
                .find(|name| !self.is_fresh(name) && mismatch.concerns(name));
            if let Some(path) = concerned {
                bail!(
                    "{} describes another network: {}; use the config that made it, or name `{path}` and all else \
                     that depends on it in `fresh` to initialise them anew",
                    self.saved.config.display(),
                    mismatch.text
                );
            }
        }
        Ok(())
    }

    /// Nothing that was saved may be left behind unsaid.
    fn check_surplus(&self) -> Result<()> {
        for name in self.saved.names() {
            if !self.is_fresh(name) && !self.layout.iter().any(|entry| entry.name == name) {
                bail!(
                    "{} holds `{name}`, which this network has not: name it in `fresh` to leave it behind",
                    self.saved.file.display()
                );
            }
        }
        Ok(())
    }

    /// All parameters of either side.
    fn paths(&self) -> impl Iterator<Item = &str> {
        let own = self.layout.iter().map(|entry| entry.name.as_str());
        own.chain(self.saved.names())
    }

    fn is_fresh(&self, name: &str) -> bool {
        self.fresh.iter().any(|path| is_below(name, path))
    }
}

/// Whether `name` is `path` or lies below it: `blocks.1` is above `blocks.1.mlp` and not above `blocks.12`.
fn is_below(name: &str, path: &str) -> bool {
    name.strip_prefix(path)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests;
