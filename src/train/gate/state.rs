//! The state that a stopped training of a gate goes on from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{GateTrainer, State};
use crate::error::{Error, Result};
use crate::formats::safetensors::{self, Safetensors};

/// Its file, in the run's folder.
const STATE: &str = "gate.safetensors";
/// The gates; what the optimizer keeps stands beside them.
const VALUES: &str = "values";

impl GateTrainer {
    pub(super) fn state_path(&self) -> PathBuf {
        self.prepared.folder.states().join(STATE)
    }

    /// What a state belongs to.
    fn identity(&self) -> BTreeMap<String, String> {
        let run = &self.prepared.run;
        BTreeMap::from([
            ("selma.settings".into(), format!("{}\n{:?}", run.settings, self.settings)),
            ("selma.model".into(), run.model.clone()),
            ("selma.data".into(), run.data.clone()),
            ("selma.experts".into(), serde_json::json!(self.experts).to_string()),
        ])
    }

    pub(super) fn save(&self) -> Result<()> {
        let State { step, parameters, .. } = &self.state;
        let mut tensors = vec![(VALUES.to_owned(), parameters.values.clone())];
        tensors.extend(parameters.state.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())));
        let mut metadata = self.identity();
        metadata.insert("selma.step".into(), step.to_string());
        safetensors::write(&self.state_path(), &tensors, &metadata)
    }

    pub(super) fn restore(&mut self, path: &Path) -> Result<()> {
        let file = Safetensors::open(path)?;
        let names = [
            ("selma.settings", "settings"),
            ("selma.model", "model"),
            ("selma.data", "data"),
            ("selma.experts", "experts"),
        ];
        let own = self.identity();
        for (key, what) in names {
            if file.metadata().get(key) != own.get(key) {
                let message =
                    format!("this training began with other {what}; bring them back, or choose another --out");
                return Err(Error::file(path, message));
            }
        }
        let step = file.metadata().get("selma.step").and_then(|step| step.parse().ok());
        let damaged = |what: &str| Error::file(path, format!("{what}; the state is damaged: remove it to start anew"));
        self.state.step = step.ok_or_else(|| damaged("no step in its header"))?;
        let parameters = &mut self.state.parameters;
        let kept = parameters.state.iter_mut().map(|(name, tensor)| (*name, tensor));
        for (name, into) in std::iter::once((VALUES, &mut parameters.values)).chain(kept) {
            let tensor = file.tensor(name)?;
            if tensor.dtype() != into.dtype() || tensor.shape() != into.shape() {
                return Err(damaged(&format!("`{name}` does not fit the gate")));
            }
            *into = tensor;
        }
        Ok(())
    }
}
