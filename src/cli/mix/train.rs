//! `selma mix train`: a token for each class, learned together with a LoRA.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::cli::tokens::{self, StartOptions};
use crate::cli::{Common, input};
use crate::error::{Error, Result};
use crate::formats::atomic;
use crate::mix::plan::{self, Class};
use crate::train::config::{TrainConfig, TrainOptions};
use crate::train::tokens::Init;

/// Learn a token for each class of a data set, and a LoRA that draws them.
///
/// --data has a folder of images for each class, whose name is the class's. The classes get the tokens <class_0>, <class_1>,
/// in the order of their names, and the captions "a photo of a <class_0>". Writes learned_embeds.safetensors, whose header
/// has the token of each class, and lora.safetensors: both are for `selma mix generate`. Defaults are Diff-Mix's: rank 10,
/// learning rate 5e-5, batches of 2, 35,000 steps.
#[derive(clap::Args)]
pub(super) struct Train {
    #[command(flatten)]
    options: TrainOptions,
    /// Word after the token in every caption, such as bird.
    #[arg(long, value_name = "WORD")]
    super_class: Option<String>,
    #[command(flatten)]
    start: StartOptions,
    /// The same as --flip=false.
    #[arg(long)]
    no_flip: bool,
    /// Go on from the newest state in --out.
    #[arg(long)]
    resume: bool,
    /// Folder with `vocab.json` and `merges.txt`, for a model folder without its own.
    #[arg(long)]
    vocab: Option<PathBuf>,
}

impl Train {
    pub fn run(self, common: &Common) -> Result<()> {
        let mut config = TrainConfig {
            rank: 10,
            lr: 5e-5,
            batch_size: 2,
            grad_accum: 1,
            steps: 35_000,
            flip: !self.no_flip,
            ..TrainConfig::default()
        };
        self.options.apply(&mut config);
        config.validate()?;
        input::check([("--data", Some(config.data.as_path())), ("--vocab", self.vocab.as_deref())])?;
        let classes = plan::classes(&config.data)?;
        let tokens: Vec<String> = (0..classes.len()).map(|i| format!("<class_{i}>")).collect();
        atomic::create_folder(&config.out)?;
        let dataset = config.out.join("dataset.toml");
        let text = dataset_file(&classes, &tokens, self.super_class.as_deref())?;
        match std::fs::read_to_string(&dataset) {
            Ok(there) if there != text => {
                let message = "was written for other classes; bring them back, or choose another --out";
                return Err(Error::file(&dataset, message));
            }
            Ok(_) => {}
            Err(_) => atomic::write_bytes(&dataset, text.as_bytes())?,
        }
        config.data = dataset;
        let names = classes.into_iter().map(|class| class.name).collect();
        let settings = self.start.settings(tokens, names, Init::DiffMix, true, &config);
        tokens::train(config, settings, self.vocab.as_deref(), self.resume, common)
    }
}

/// A dataset file with a folder for each class, whose images have one caption.
fn dataset_file(classes: &[Class], tokens: &[String], super_class: Option<&str>) -> Result<String> {
    let mut subsets = Vec::new();
    for (class, token) in classes.iter().zip(tokens) {
        let folder = class.images[0].parent().unwrap_or(Path::new("."));
        let folder = folder.canonicalize().map_err(|e| Error::io(folder, e))?;
        let folder = folder.to_str().ok_or_else(|| Error::file(&folder, "expected a path in UTF-8"))?;
        let caption = match super_class {
            Some(word) => format!("a photo of a {token} {word}"),
            None => format!("a photo of a {token}"),
        };
        subsets.push(Value::from(Table::from_iter([
            ("image_dir".to_owned(), Value::from(folder)),
            ("class_tokens".to_owned(), Value::from(caption)),
        ])));
    }
    let inner = Table::from_iter([("subsets".to_owned(), Value::from(subsets))]);
    let file = Table::from_iter([("datasets".to_owned(), Value::from(vec![Value::from(inner)]))]);
    toml::to_string(&file).map_err(|e| Error::Failed(format!("the classes do not fit into a dataset file: {e}")))
}
