//! The files that a run leaves.

use super::Adapted;
use crate::device::memory::format_bytes;
use crate::tensor::DType;
use crate::train::config::TrainConfig;

/// What a run keeps on disk at most: how many of which, and the bytes of one.
#[derive(Clone, Copy, Debug)]
pub struct DiskPlan {
    pub states: (u64, u64),
    /// The newest one included.
    pub loras: (u64, u64),
    /// Bytes of learned embeddings.
    pub embeddings: u64,
}

impl DiskPlan {
    pub(super) fn new(config: &TrainConfig, layers: &Adapted) -> Self {
        let trained = layers.trained + layers.rows;
        let saves = config.steps.div_ceil(config.save_every);
        let averages = config.ema > 0.0 || config.optimizer.averages();
        let average = if averages { DType::F32.size() } else { 0 };
        let a_value = DType::F32.size() + config.optimizer.state_bytes() + average;
        let loras = (config.steps / config.save_every).min(config.kept_loras() as u64);
        Self {
            states: (saves.min(config.keep as u64), (trained * a_value) as u64),
            // A run that learns tokens writes the newest LoRA alone.
            loras: match (layers.rows, layers.trained) {
                (0, trained) => (1 + loras, (trained * config.save_precision.dtype().size()) as u64),
                (_, trained) => (u64::from(trained > 0), (trained * config.save_precision.dtype().size()) as u64),
            },
            embeddings: (layers.rows * DType::F32.size()) as u64,
        }
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.embeddings + [self.states, self.loras].iter().map(|(count, bytes)| count * bytes).sum::<u64>()
    }

    pub(super) fn line(&self) -> String {
        let of = |(count, bytes): (u64, u64), one: &str| match count {
            1 => format!("1 {one} of {}", format_bytes(bytes)),
            _ => format!("{count} {one}s of {}", format_bytes(bytes)),
        };
        let (states, loras) = (of(self.states, "state"), of(self.loras, "LoRA"));
        let files = match (self.embeddings, self.loras.0) {
            (0, _) => format!("{states} and {loras}"),
            (bytes, 0) => format!("{states} and embeddings of {}", format_bytes(bytes)),
            (bytes, _) => format!("{states}, {loras} and embeddings of {}", format_bytes(bytes)),
        };
        format!("planned files: {} at most, {files}", format_bytes(self.bytes()))
    }
}
