//! `selma kernels`: the kernels in the binary.

use crate::cli::Common;
use crate::device::gpu::dry_run::ListedLaunch;
use crate::device::gpu::table::{Kernel, Resources, kernels};
use crate::device::gpu::trace;
use crate::error::{Error, Result};

/// List the GPU kernels in this binary.
#[derive(clap::Args)]
pub struct Kernels {
    /// What nvcc's assembler said of each on each target: registers, spills, shared memory.
    #[arg(long)]
    resources: bool,
    /// Run single blocks on the simulator, and say which bytes they load and store: a line of standard input is
    /// `[launch, [x, y, z]]`, a launch as `selma bench --launches` lists it. For the analysis of machine code.
    #[arg(long, hide = true)]
    trace: bool,
}

impl Kernels {
    /// Prints the kernels.
    ///
    /// # Errors
    /// [`Error::Usage`] for resources of a binary without compiled kernels.
    pub fn run(self, common: &Common) -> Result<()> {
        if self.trace {
            return trace_lines();
        }
        if self.resources {
            let resources = kernels::RESOURCES.map_err(|why| Error::Usage(why.into()))?;
            return if common.json { json(resources) } else { table(resources) };
        }
        if common.json {
            return json(&kernels::ALL.iter().map(|k| listed(k)).collect::<Vec<_>>());
        }
        for kernel in kernels::ALL {
            outln!("{}.cu  {}", kernel.file, kernel.name);
        }
        let built = |name: &str, missing: Option<&str>| match missing {
            None => common.note(format!("{name}: compiled")),
            Some(why) => common.note(format!("{name}: {why}")),
        };
        built("CUDA, machine code", kernels::FATBINS.err());
        built("CUDA, PTX", kernels::PTX.err());
        built("simulator", kernels::SIMULATOR.err());
        Ok(())
    }
}

fn trace_lines() -> Result<()> {
    for line in std::io::stdin().lines() {
        let line = line.map_err(|e| Error::Failed(format!("standard input: {e}")))?;
        let asked: (ListedLaunch, [u32; 3]) = serde_json::from_str(&line)
            .map_err(|e| Error::Usage(format!("standard input: expected `[launch, [x, y, z]]` a line: {e}")))?;
        json(&trace(&asked.0, asked.1)?)?;
    }
    Ok(())
}

#[derive(serde::Serialize)]
struct Listed {
    kernel: &'static str,
    file: String,
    parameters: Vec<&'static str>,
}

fn listed(kernel: &Kernel) -> Listed {
    Listed {
        kernel: kernel.name,
        file: format!("{}.cu", kernel.file),
        parameters: kernel.parameters.iter().map(|p| p.name).collect(),
    }
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<()> {
    let text = serde_json::to_string(value).map_err(|e| Error::Failed(e.to_string()))?;
    outln!("{text}");
    Ok(())
}

fn table(resources: &[Resources]) -> Result<()> {
    let width = resources.iter().map(|r| r.kernel.len()).max().unwrap_or(0);
    outln!("{:width$}  dtype  target   registers  spill_stores  spill_loads  static_shared  stack", "kernel");
    for r in resources {
        outln!(
            "{:width$}  {:5}  {:7}  {:9}  {:12}  {:11}  {:13}  {:5}",
            r.kernel,
            r.dtype,
            r.target,
            r.registers,
            r.spill_stores,
            r.spill_loads,
            r.static_shared,
            r.stack
        );
    }
    Ok(())
}
