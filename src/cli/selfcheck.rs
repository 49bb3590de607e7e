//! `selma selfcheck`: every GPU kernel against the CPU path.

use crate::cli::Common;
use crate::cli::tune::Tune;
use crate::device::Device;
use crate::device::gpu::Gpu;
use crate::error::{Error, Result};
use crate::selfcheck::{self, Size};

/// Run every kernel of a GPU (or of the simulator, by --device sim) against the CPU path; or, with --tune, have the kernels that
/// do the same prove that on this GPU, and find the fastest of them.
#[derive(clap::Args)]
pub struct Selfcheck {
    /// Real sizes: as many pixels and tokens as Stable Diffusion 1.5 has at 512 pixels.
    #[arg(long)]
    full: bool,
    /// Small sizes: every kernel in seconds.
    #[arg(long, conflicts_with = "full")]
    small: bool,
    #[command(flatten)]
    tune: Tune,
}

impl Selfcheck {
    /// Checks every kernel, and prints a row for each.
    ///
    /// # Errors
    /// [`Error::Failed`] where one is wrong.
    pub fn run(self, common: &Common) -> Result<()> {
        let device = match common.device.as_str() {
            "auto" => Device::Gpu(Gpu::cuda(0)?),
            _ => common.device()?,
        };
        let Device::Gpu(gpu) = device else {
            let message = "selfcheck compares a GPU with the CPU: name it by --device cuda or --device sim";
            return Err(Error::Usage(message.into()));
        };
        if self.tune.is_asked() {
            return self.tune.run(&gpu, common);
        }
        common.note(format!("{} against the CPU", gpu.name()));
        let (mut rows, mut failed) = (0, 0);
        let size = match (self.full, self.small) {
            (true, _) => Size::Full,
            (_, true) => Size::Small,
            _ => Size::Usual,
        };
        selfcheck::run(&gpu, size, |row| {
            rows += 1;
            failed += usize::from(!row.ok());
            if common.json {
                let row = serde_json::json!({
                    "check": row.check, "dtype": row.dtype.name(), "quantity": row.quantity, "error": row.error,
                    "bound": row.bound, "ok": row.ok(), "kernels": row.kernels,
                });
                outjson!(row);
                return Ok(());
            }
            let verdict = if row.ok() { "ok" } else { "FAIL" };
            outln!(
                "{:<48} {:<4} {:>9.2e} {:>9.2e}  {verdict:<4} {}",
                row.check,
                row.dtype.name(),
                row.error,
                row.bound,
                row.quantity
            );
            if common.verbose {
                let kernels: Vec<&str> = row.kernels.iter().copied().collect();
                errln!("  {}", kernels.join(" "));
            }
            Ok(())
        })?;
        match failed {
            0 => Ok(()),
            n => Err(Error::Failed(format!("{n} of {rows} checks failed"))),
        }
    }
}
