//! `selma inspect`: what is in a LoRA file, a checkpoint or a model folder.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::cli::Common;
use crate::error::{Error, Result};
use crate::formats::checkpoint::summary::ComponentSummary;
use crate::formats::checkpoint::{self, is_checkpoint};
use crate::formats::model_summary;
use crate::lora::inspect::{self, inspect};
use crate::prompting::reply::plain_line;

/// Show what is in a LoRA (family, layout, ranks, alphas, modules, norms, metadata, unused keys), a checkpoint or a model
/// folder (family, components with sizes and types, scheduler, prediction).
#[derive(clap::Args)]
pub struct Inspect {
    /// A LoRA in any layout, a checkpoint or a model folder.
    #[arg(conflicts_with = "model")]
    file: Option<PathBuf>,
    /// A model as other commands take it: also shapes, or an id of the Hugging Face hub.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Also the norm of every module of a LoRA.
    #[arg(long)]
    modules: bool,
}

impl Inspect {
    /// Prints what is in the file.
    ///
    /// # Errors
    /// For a file that cannot be read.
    pub fn run(self, common: &Common) -> Result<()> {
        let path = match (&self.file, &self.model) {
            (Some(file), _) => file.clone(),
            (None, Some(model)) => common.model(model)?,
            (None, None) => {
                return Err(Error::Usage(
                    "inspect: expected a FILE (a LoRA, a checkpoint or a model folder), or --model".into(),
                ));
            }
        };
        if path.is_file() && is_checkpoint(&path)? {
            let summary = checkpoint::summary::inspect(&path)?;
            return match common.json {
                true => print_json(&summary),
                false => print_checkpoint(&summary),
            };
        }
        if self.model.is_some() || path.join("model_index.json").is_file() {
            let summary = model_summary::inspect(&path)?;
            return match common.json {
                true => print_json(&summary),
                false => print_model(&summary),
            };
        }
        let summary = inspect(&path)?;
        match common.json {
            true => print_json(&summary),
            false => self.print_lora(&summary),
        }
    }

    fn print_lora(&self, summary: &inspect::Summary) -> Result<()> {
        outln!("{}", summary.file);
        outln!("  sha256   {}", summary.sha256);
        outln!("  family   {}", summary.family.unwrap_or("unknown"));
        outln!("  layout   {}", summary.layout);
        outln!("  values   {}", summary.values);
        outln!("  norm     {:.4}", summary.norm);
        for (name, component) in &summary.components {
            outln!("  {name}: {} modules, norm {:.4}", component.modules, component.norm);
            if component.dora > 0 {
                outln!("    DoRA   {} modules", component.dora);
            }
            outln!("    ranks  {:?}", component.ranks);
            outln!("    alphas {:?} (scale {:?})", component.alphas, component.scales);
            if self.modules {
                for (module, norm) in &component.norms {
                    outln!("    {norm:>10.4}  {module}");
                }
            }
        }
        if summary.norms + summary.biases > 0 {
            outln!("  norms and biases that change: {} and {}", summary.norms, summary.biases);
        }
        print_metadata(&summary.metadata);
        for unused in &summary.unused {
            outln!("  unused: {} ({})", plain_line(&unused.key), plain_line(&unused.reason));
        }
        Ok(())
    }
}

fn print_checkpoint(summary: &checkpoint::summary::Summary) -> Result<()> {
    outln!("{}", summary.file);
    outln!("  sha256     {}", summary.sha256);
    outln!("  family     {}, a single-file checkpoint", summary.family);
    outln!("  prediction {}", summary.prediction);
    print_components(&summary.components);
    print_metadata(&summary.metadata);
    for key in &summary.unused {
        outln!("  unused: {}", plain_line(key));
    }
    Ok(())
}

fn print_model(summary: &model_summary::Summary) -> Result<()> {
    outln!("{}", summary.model);
    outln!("  family     {}, text states of {} numbers", summary.family, summary.context);
    outln!("  prediction {}", summary.prediction);
    outln!("  scheduler  {}", summary.scheduler);
    outln!("  images   {0} x {0}", summary.side);
    print_components(&summary.components);
    Ok(())
}

fn print_components(components: &BTreeMap<String, ComponentSummary>) {
    for (name, component) in components {
        let types: Vec<&str> = component.types.keys().map(String::as_str).collect();
        outln!("  {name}: {} tensors, {} values in {}", component.tensors, component.values, types.join(", "));
    }
}

fn print_json(summary: &impl Serialize) -> Result<()> {
    outjson!(summary);
    Ok(())
}

fn print_metadata(metadata: &BTreeMap<String, String>) {
    for (key, value) in metadata {
        // On one line: a value with line ends could pass for lines of this report.
        let shown: String = value.chars().take(100).collect();
        let more = if shown.len() < value.len() { " ..." } else { "" };
        outln!("  {} = {}{more}", plain_line(key), plain_line(&shown));
    }
}
