//! `--lora` and `--gate` of the commands that draw.

use std::path::Path;

use crate::cli::merge::parse_lora;
use crate::error::{Error, Result};
use crate::generate::Generator;
use crate::generate::loras::Strength;
use crate::lora;
use crate::lora::gate::GateFile;

/// The LoRAs that are given; else those of the gate, where there is one. They are checked before the model is loaded.
///
/// # Errors
/// As [`parse_loras`] and [`GateFile::check`]; [`Error::File`] for an expert that is not there.
pub(in crate::cli) fn gated_loras(gate: Option<&Path>, arguments: &[String]) -> Result<Vec<Strength>> {
    let Some(gate) = gate else { return parse_loras(arguments) };
    let file = GateFile::read(gate)?;
    let loras = match arguments.is_empty() {
        false => parse_loras(arguments)?,
        true => file.beside(gate).into_iter().map(|path| Strength { path, scale: 1.0 }).collect(),
    };
    if let Some(missing) = loras.iter().find(|lora| !lora.path.exists()) {
        let message = "no such file; the gate was trained on an expert of this name: give the gate's LoRAs by --lora";
        return Err(Error::file(&missing.path, message));
    }
    file.check(gate, &loras.iter().map(|lora| lora.path.clone()).collect::<Vec<_>>())?;
    Ok(loras)
}

/// Has the model draw with `loras`, weighed by the gate where there is one.
///
/// # Errors
/// As [`Generator::with_loras`] and [`Generator::with_gate`].
pub(in crate::cli) fn put_on(
    generator: &mut Generator,
    gate: Option<&Path>,
    loras: Vec<Strength>,
    allow_unused: bool,
    note: &mut dyn FnMut(String),
) -> Result<()> {
    match gate {
        None => generator.with_loras(loras, allow_unused, note)?,
        Some(gate) => generator.with_gate(gate, loras, allow_unused)?,
    };
    Ok(())
}

/// Reads `FILE[:SCALE]` arguments; a folder means the LoRA in it.
pub(in crate::cli) fn parse_loras(arguments: &[String]) -> Result<Vec<Strength>> {
    let resolve = |argument: &String| {
        let (path, scale) = parse_lora(argument)?;
        let (path, scale) = (lora::file::resolve(&path)?, scale.unwrap_or(1.0));
        Ok(Strength { path, scale })
    };
    arguments.iter().map(resolve).collect()
}
