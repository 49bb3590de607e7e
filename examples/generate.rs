//! Generates images with the built-in model, or with a model folder and LoRAs.
//!
//!     cargo run --release --example generate -- OUT "a red circle" [MODEL_FOLDER [LORA.safetensors ...]]

use std::path::{Path, PathBuf};

use selma::Result;
use selma::data::prompts::Prompt;
use selma::generate::folder::{Existing, Finished, Folder};
use selma::generate::loras::Strength;
use selma::generate::webui::Syntax;
use selma::generate::{Generator, Observer, Settings, Source};
use selma::shapes::builtin;
use selma::tensor::DType;

/// Prints each image's path.
struct Printer;

impl Observer for Printer {
    fn note(&mut self, text: &str) {
        eprintln!("{text}");
    }

    fn stepped(&mut self, _images: usize) -> Result<()> {
        Ok(())
    }

    fn finished(&mut self, image: &Finished) {
        println!("{}", image.path.display());
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [out, prompt, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: generate OUT PROMPT [MODEL_FOLDER [LORA.safetensors ...]]");
        std::process::exit(2);
    };
    let model = rest.first().map_or_else(builtin::folder, |folder| Ok(PathBuf::from(folder)))?;
    let loras = rest.iter().skip(1).map(|file| Strength { path: file.into(), scale: 1.0 }).collect();

    let source = Source { model, ..Source::default() };
    let mut generator = Generator::load(source, DType::F32, &mut |note| eprintln!("{note}"))?;
    generator.with_loras(loras, false, &mut |note| eprintln!("{note}"))?;
    let settings = Settings { steps: 20, guidance: Some(3.0), ..Settings::default() };
    let folder = Folder {
        out: Path::new(out),
        prompts: &[Prompt::new(prompt)],
        settings: &settings,
        images_per_prompt: 1,
        seed: 42,
        named: &[],
        syntax: &Syntax::Plain,
        inputs: String::new(),
        existing: Existing::Refuse,
        latents: None,
    };
    generator.generate(&folder, &mut Printer)
}
