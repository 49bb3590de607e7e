//! `selma merge`: several LoRAs become one, or are baked into a model.

use std::path::{Path, PathBuf};

use crate::cli::existing::Overwrite;
use crate::cli::gate::GateOptions;
use crate::cli::{Common, input};
use crate::error::{Error, Result};
use crate::lora::blocks::BlockWeights;
use crate::lora::merge::{Compat, Method, Options, merge};
use crate::lora::prune::MajoritySign;
use crate::lora::save::Layout;
use crate::lora::{Expert, bake, base, load, provenance, save, sgm};
use crate::train::config::SavePrecision;

/// Merge LoRAs into one, or into a model.
///
/// LoRAs are merged on the CPU, in f64, whatever the --device. Weights of a model (--into) are added up there too, or on a GPU in
/// f32: the same to the last bit or two of f32, and in a 16-bit model nearly always the same bytes.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Merge {
    /// A LoRA (a file, a folder, or org/name[@REVISION][:FILE] on the hub) and its weight; repeatable. Weights are used as given,
    /// never normalised.
    #[arg(long = "lora", value_name = "FILE[:W]", required = true)]
    loras: Vec<String>,
    /// How the LoRAs are combined.
    #[arg(long, value_enum, default_value = "average")]
    method: Method,
    /// Output file; with --into, a new folder or file for the model.
    #[arg(long)]
    out: PathBuf,
    /// Add the merged LoRA to the weights of this model (a diffusers folder or a single-file checkpoint).
    #[arg(long, value_name = "MODEL")]
    into: Option<PathBuf>,
    /// Base model of the LoRAs: names and shapes are checked against it.
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// Rank of the result (svd, ties, dare-*, magnitude-prune).
    #[arg(long)]
    rank: Option<usize>,
    /// Take for each module the smallest rank whose relative error is at most this.
    #[arg(long)]
    max_error: Option<f64>,
    /// Share of entries that ties, dare-* and magnitude-prune keep, above 0, at most 1.
    #[arg(long)]
    density: Option<f64>,
    /// How ties and dare-ties elect the sign of an entry: by the sum of its values, or by how many there are.
    #[arg(long, value_enum, default_value = "total")]
    majority_sign: MajoritySign,
    /// Compute the methods as this tool does, defects included.
    #[arg(long, value_enum)]
    compat: Option<Compat>,
    /// Weights of the UNet's blocks, once for all LoRAs or once for each: kohya's list of 12 or 20 (SDXL), 17 or 26 (SD 1.x)
    /// numbers, or NAME=WEIGHT,... with BASE (text encoders), IN00 to IN11, MID, OUT00 to OUT11, IN and OUT.
    #[arg(long, visible_alias = "lbws", value_name = "WEIGHTS", allow_hyphen_values = true)]
    block_weights: Vec<String>,
    /// Numbers of the written LoRA: f32, f16 or bf16. A model (--into) keeps its own.
    #[arg(long, value_parser = SavePrecision::parse, default_value = "f32")]
    save_precision: SavePrecision,
    /// Layout of the result.
    #[arg(long, visible_alias = "to", value_enum, default_value = "diffusers")]
    layout: Layout,
    /// Warn of tensors that fit nothing instead of refusing the file.
    #[arg(long)]
    allow_unused: bool,
    #[command(flatten)]
    overwrite: Overwrite,
    #[command(flatten)]
    gate: GateOptions,
}

const EXAMPLES: &str = "\
Examples:
  selma merge --lora counting.safetensors --lora spatial.safetensors --out merged.safetensors
  selma merge --method concat --lora a.safetensors:0.7 --lora b.safetensors:0.5 --out mix.safetensors
  selma merge --method concat --lora style.safetensors:0.8 --into ./sd15 --out ./sd15-style
  selma merge --gate --model ./sd15 --data ./photos --lora a.safetensors --lora b.safetensors --out gate.safetensors";

impl Merge {
    /// Merges the LoRAs, and writes the result.
    ///
    /// # Errors
    /// For LoRAs that cannot be read or merged, and a result that is in the way.
    pub fn run(mut self, common: &Common) -> Result<()> {
        let named = |text: &String| {
            let (path, weight) = parse_lora(text)?;
            Ok((common.lora(&path)?, weight))
        };
        let inputs: Vec<(PathBuf, Option<f64>)> = self.loras.iter().map(named).collect::<Result<_>>()?;
        input::check(inputs.iter().map(|(path, _)| ("--lora", Some(path.as_path()))))?;
        if self.gate.asked()
            && let Some((path, _)) = inputs.iter().find(|(_, weight)| weight.is_some())
        {
            let message = format!("--lora {}: a gate finds the weights itself; give none", path.display());
            return Err(Error::Usage(message));
        }
        let blocks: Vec<BlockWeights> =
            self.block_weights.iter().map(|text| BlockWeights::parse(text)).collect::<Result<_>>()?;
        self.check_blocks(blocks.len(), inputs.len())?;
        // Of a single LoRA there is nothing to average.
        if let ([(_, Some(_))], Method::Average) = (&inputs[..], self.method) {
            self.method = Method::Concat;
        }
        if self.method == Method::Average && inputs.iter().any(|(_, w)| w.is_some()) {
            return Err(Error::Usage(
                "average weighs every LoRA by 1/T; use --method concat with weights of your own".into(),
            ));
        }
        self.overwrite.check_unused(&self.out)?;
        if self.into.is_none() {
            save::check(self.layout, &self.out)?;
        }
        for model in self.into.iter_mut().chain(&mut self.model) {
            *model = common.model(model)?;
        }
        let model = self.into.as_ref().or(self.model.as_ref());
        if let (true, Some(model)) = (self.gate.asked(), model) {
            let loras: Vec<PathBuf> = inputs.into_iter().map(|(path, _)| path).collect();
            return self.gate.run(&loras, model, &self.out, self.allow_unused, common);
        }
        let modules = model.map(|m| base::modules(m)).transpose()?;
        let mut loaded = Vec::new();
        for (path, _) in &inputs {
            let lora = load(path, modules.as_ref(), self.allow_unused)?;
            lora.warnings().for_each(|w| common.note(format!("warning: {w}")));
            loaded.push(lora);
        }
        let given: Vec<f64> = match self.method {
            Method::Average => vec![1.0 / inputs.len() as f64; inputs.len()],
            _ => inputs.iter().map(|(_, w)| w.unwrap_or(1.0)).collect(),
        };
        for (number, lora) in loaded.iter_mut().enumerate() {
            if let Some(blocks) = blocks.get(number).or(blocks.first()) {
                let own =
                    || lora.expert.components.get("unet").into_iter().flatten().map(|(module, _)| module.as_str());
                let layout = match modules.as_ref().and_then(|modules| modules.get("unet")) {
                    Some(unet) => sgm::Layout::of(unet.keys().map(String::as_str)),
                    None => sgm::Layout::of(own()),
                };
                lora.expert = blocks.apply(&lora.expert, &layout);
            }
        }
        let pairs: Vec<(&Expert, f64)> = loaded.iter().map(|l| &l.expert).zip(given.iter().copied()).collect();
        let options = Options {
            method: self.method,
            rank: self.rank,
            max_error: self.max_error,
            density: self.density,
            majority_sign: self.majority_sign,
            seed: common.seed(),
            compat: self.compat,
        };
        if let (Some(model), Method::Average | Method::Concat) = (&self.into, self.method)
            && pairs.iter().any(|(expert, _)| expert.is_decomposed())
        {
            return self.fold(model, &pairs, common);
        }
        let merged = merge(&pairs, &options)?;
        let mut metadata = provenance::of_merge(&loaded, &given, &options)?;
        metadata.extend(provenance::errors(&merged));
        if !self.block_weights.is_empty() {
            let all = serde_json::json!(blocks.iter().map(|blocks| &blocks.text).collect::<Vec<_>>());
            metadata.insert("selma.block_weights".into(), all.to_string());
        }
        match &self.into {
            Some(model) => {
                bake::into_model(model, &[(&merged.expert, 1.0)], &self.out, &common.device()?)?;
            }
            None => {
                if let Some(model) = model {
                    metadata.extend(provenance::prediction(model)?);
                }
                let expert = merged.expert.clone().stored_as(self.save_precision.dtype());
                save::write(self.layout, &self.out, &expert, modules.as_ref(), &metadata)?;
            }
        }
        if common.json {
            let report = serde_json::json!({
                "out": self.out.display().to_string(),
                "modules": merged.expert.len(),
                "norms": merged.expert.norms_and_biases().0,
                "biases": merged.expert.norms_and_biases().1,
                "rank": merged.expert.max_rank(),
                "relative_error": merged.relative_error,
                "distance_to_sum": merged.distance_to_sum,
                "metadata": metadata,
            });
            outjson!(report);
        } else {
            let (error, distance) = (merged.relative_error, merged.distance_to_sum);
            outln!(
                "{}: {}, relative error {error:.2e} (to the plain weighted sum {distance:.2e})",
                self.out.display(),
                merged.expert.contents(),
            );
        }
        Ok(())
    }
}

impl Merge {
    /// DoRA into a model: there is no LoRA that would be the sum.
    fn fold(&self, model: &Path, pairs: &[(&Expert, f64)], common: &Common) -> Result<()> {
        let changed = bake::into_model(model, pairs, &self.out, &common.device()?)?;
        if common.json {
            outjson!(serde_json::json!({ "out": self.out.display().to_string(), "parameters": changed }));
        } else {
            outln!("{}: {changed} parameters changed", self.out.display());
        }
        Ok(())
    }

    fn check_blocks(&self, given: usize, loras: usize) -> Result<()> {
        if given > 0 && self.gate.asked() {
            return Err(Error::Usage("--block-weights: a gate finds the weights itself; give none".into()));
        }
        if given > 1 && given != loras {
            let message =
                format!("--block-weights is given {given} times for {loras} LoRAs; give it once, or once for each");
            return Err(Error::Usage(message));
        }
        if self.into.is_some() && self.save_precision != SavePrecision::F32 {
            return Err(Error::Usage(
                "--save-precision is of a LoRA; a model (--into) keeps the numbers that it has".into(),
            ));
        }
        Ok(())
    }
}

/// `FILE` or `FILE:WEIGHT`. A colon that no number follows belongs to the name.
///
/// # Errors
/// [`Error::Usage`] for a weight that is NaN or infinite, or an empty name.
pub fn parse_lora(text: &str) -> Result<(PathBuf, Option<f64>)> {
    let (path, weight) = match text.rsplit_once(':').and_then(|(p, w)| Some((p, w.parse::<f64>().ok()?))) {
        Some((path, weight)) if !Path::new(text).exists() => (path, Some(weight)),
        _ => (text, None),
    };
    if weight.is_some_and(|w| !w.is_finite()) {
        return Err(Error::Usage(format!("--lora {text}: the weight is not a finite number")));
    }
    if path.is_empty() {
        return Err(Error::Usage(format!("--lora {text}: no file is named")));
    }
    Ok((path.into(), weight))
}
