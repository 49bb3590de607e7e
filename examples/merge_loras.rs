//! Merges LoRA files by their mean, as the SELMA paper does, and writes one file that diffusers reads.
//!
//!     cargo run --release --example merge_loras -- OUT.safetensors A.safetensors B.safetensors ...

use std::collections::BTreeMap;
use std::path::Path;

use selma::lora::{Expert, merge, save};

fn main() -> selma::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((out, files)) = arguments.split_first().filter(|(_, files)| !files.is_empty()) else {
        eprintln!("usage: merge_loras OUT.safetensors A.safetensors B.safetensors ...");
        std::process::exit(2);
    };
    let loaded =
        files.iter().map(|file| selma::lora::load(Path::new(file), None, false)).collect::<Result<Vec<_>, _>>()?;
    let share = 1.0 / loaded.len() as f64;
    let inputs: Vec<(&Expert, f64)> = loaded.iter().map(|lora| (&lora.expert, share)).collect();

    let merged = merge::merge(&inputs, &merge::Options::new(merge::Method::Average))?;
    save::diffusers(Path::new(out), &merged.expert, &BTreeMap::new())?;
    println!("{out}: {} modules, relative error {:.1e}", merged.expert.len(), merged.relative_error);
    Ok(())
}
