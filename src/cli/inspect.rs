//! `selma inspect`: what is in a LoRA file.

use std::path::PathBuf;

use crate::cli::Common;
use crate::error::{Error, Result};
use crate::lora::inspect::inspect;

/// Show what is in a LoRA: family, layout, ranks, alphas, modules, norms, metadata, unused keys.
#[derive(clap::Args)]
pub struct Inspect {
    file: PathBuf,
    /// Also the norm of every module.
    #[arg(long)]
    modules: bool,
}

impl Inspect {
    pub fn run(self, common: &Common) -> Result<()> {
        let summary = inspect(&self.file)?;
        if common.json {
            let text = serde_json::to_string(&summary).map_err(|e| Error::Failed(e.to_string()))?;
            println!("{text}");
            return Ok(());
        }
        println!("{}", summary.file);
        println!("  sha256   {}", summary.sha256);
        println!("  family   {}", summary.family.unwrap_or("unknown"));
        println!("  layout   {}", summary.layout);
        println!("  values   {}", summary.values);
        println!("  norm     {:.4}", summary.norm);
        for (name, component) in &summary.components {
            println!("  {name}: {} modules, norm {:.4}", component.modules, component.norm);
            println!("    ranks  {:?}", component.ranks);
            println!("    alphas {:?} (scale {:?})", component.alphas, component.scales);
            if self.modules {
                for (module, norm) in &component.norms {
                    println!("    {norm:>10.4}  {module}");
                }
            }
        }
        for (key, value) in &summary.metadata {
            let shown: String = value.chars().take(100).collect();
            println!(
                "  {key} = {shown}{}",
                if shown.len() < value.len() { " ..." } else { "" }
            );
        }
        for unused in &summary.unused {
            println!("  unused: {} ({})", unused.key, unused.reason);
        }
        Ok(())
    }
}
