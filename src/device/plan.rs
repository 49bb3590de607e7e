//! The memory that a command will take, in phases, and whether it is there.

use super::memory::format_bytes;
use crate::error::{Error, Result};

/// What is in memory at once in one part of a run.
#[derive(Clone, Debug)]
pub struct Phase {
    pub name: &'static str,
    pub parts: Vec<(&'static str, u64)>,
}

impl Phase {
    fn bytes(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// The phases of a run, one after the other, in one memory.
#[derive(Clone, Debug)]
pub struct MemoryPlan {
    pub phases: Vec<Phase>,
    /// Besides them, throughout.
    pub program: u64,
}

impl MemoryPlan {
    /// The most that is taken at once.
    pub fn peak(&self) -> u64 {
        self.program + self.phases.iter().map(Phase::bytes).max().unwrap_or(0)
    }

    /// What is planned and free, and a line a phase.
    pub fn lines(&self, title: &str, available: Option<u64>) -> Vec<String> {
        let free = available.map_or(String::new(), |bytes| format!(", {} are free", format_bytes(bytes)));
        let title = format!("{title}: {}{free}", format_bytes(self.peak()));
        let line = |phase: &Phase| {
            let parts: Vec<String> =
                phase.parts.iter().map(|(name, bytes)| format!("{name} {}", format_bytes(*bytes))).collect();
            format!("  {:<18} {:>9}: {}", phase.name, format_bytes(self.program + phase.bytes()), parts.join(", "))
        };
        std::iter::once(title).chain(self.phases.iter().map(line)).collect()
    }

    /// Holds the plan of `work` against `available` bytes of the memory `place` (" on" a device, or nothing).
    ///
    /// # Errors
    /// [`Error::Failed`] where it does not fit, with the `ways` to make it smaller.
    pub fn check(&self, work: &str, place: &str, available: u64, ways: &[String]) -> Result<()> {
        if self.peak() <= available {
            return Ok(());
        }
        Err(Error::Failed(format!(
            "{work} needs {} of memory{place} and {} are free; what would help: {}",
            format_bytes(self.peak()),
            format_bytes(available),
            ways.join(", ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_phase_must_fit() {
        let phase = |name, mib: u64| Phase { name, parts: vec![("weights", mib << 20), ("activations", 1 << 20)] };
        let plan = MemoryPlan { phases: vec![phase("reading", 3), phase("drawing", 7)], program: 2 << 20 };
        assert_eq!(plan.peak(), 10 << 20);
        let lines = plan.lines("planned memory", Some(64 << 20));
        assert_eq!(lines[0], "planned memory: 10 MiB, 64 MiB are free");
        assert!(lines[2].contains("drawing") && lines[2].contains("weights 7 MiB, activations 1 MiB"), "{lines:?}");
        plan.check("drawing", "", 10 << 20, &[]).unwrap();
        let ways = ["less of it".to_owned()];
        let error = plan.check("drawing", " on a device", 9 << 20, &ways).unwrap_err().to_string();
        assert!(
            error
                .contains("drawing needs 10 MiB of memory on a device and 9 MiB are free; what would help: less of it"),
            "{error}"
        );
    }
}
