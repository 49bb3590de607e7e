//! `selma inspect`: what is in a LoRA file or a checkpoint.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::cli::Common;
use crate::error::{Error, Result};
use crate::formats::checkpoint::{self, is_checkpoint};
use crate::lora::inspect::{self, inspect};

/// Show what is in a LoRA (family, layout, ranks, alphas, modules, norms) or a checkpoint (family, components), its
/// metadata and unused keys.
#[derive(clap::Args)]
pub struct Inspect {
    /// A LoRA in any layout.
    file: PathBuf,
    /// Also the norm of every module of a LoRA.
    #[arg(long)]
    modules: bool,
}

impl Inspect {
    pub fn run(self, common: &Common) -> Result<()> {
        if self.file.is_file() && is_checkpoint(&self.file)? {
            let summary = checkpoint::summary::inspect(&self.file)?;
            return match common.json {
                true => print_json(&summary),
                false => print_checkpoint(&summary),
            };
        }
        let summary = inspect(&self.file)?;
        match common.json {
            true => print_json(&summary),
            false => self.print_lora(&summary),
        }
    }

    fn print_lora(&self, summary: &inspect::Summary) -> Result<()> {
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
        print_metadata(&summary.metadata);
        for unused in &summary.unused {
            println!("  unused: {} ({})", unused.key, unused.reason);
        }
        Ok(())
    }
}

fn print_checkpoint(summary: &checkpoint::summary::Summary) -> Result<()> {
    println!("{}", summary.file);
    println!("  sha256     {}", summary.sha256);
    println!("  family     {}, a single-file checkpoint", summary.family);
    println!("  prediction {}", summary.prediction);
    for (name, component) in &summary.components {
        let types: Vec<&str> = component.types.keys().map(String::as_str).collect();
        println!(
            "  {name}: {} tensors, {} values in {}",
            component.tensors,
            component.values,
            types.join(", ")
        );
    }
    print_metadata(&summary.metadata);
    for key in &summary.unused {
        println!("  unused: {key}");
    }
    Ok(())
}

fn print_json(summary: &impl Serialize) -> Result<()> {
    println!(
        "{}",
        serde_json::to_string(summary).map_err(|e| Error::Failed(e.to_string()))?
    );
    Ok(())
}

fn print_metadata(metadata: &BTreeMap<String, String>) {
    for (key, value) in metadata {
        let shown: String = value.chars().take(100).collect();
        println!(
            "  {key} = {shown}{}",
            if shown.len() < value.len() { " ..." } else { "" }
        );
    }
}
