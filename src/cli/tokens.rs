//! Tokens that are learned: the options of `selma train --class-token`, and their training.

use std::path::Path;
use std::time::Instant;

use serde_json::json;

use crate::cli::terminal::Terminal;
use crate::cli::{Common, parse_precision};
use crate::error::{Error, Result};
use crate::train::config::TrainConfig;
use crate::train::preparation::Preparation;
use crate::train::tokens::{Init, TokenSettings, TokenTrainer};
use crate::train::watcher::Watcher;

#[derive(clap::Args)]
#[command(next_help_heading = "Learned tokens")]
pub(super) struct TokenOptions {
    /// Learn the embedding of a new token (textual inversion), which the captions have, such as <robin>; repeatable. Writes
    /// learned_embeds.safetensors, for `selma generate --embedding` and diffusers.
    #[arg(long, alias = "placeholder-token", value_name = "TOKEN")]
    class_token: Vec<String>,
    /// Train a LoRA together with the tokens.
    #[arg(long, requires = "class_token")]
    with_lora: bool,
    #[command(flatten)]
    start: StartOptions,
}

/// What `selma mix train` has too.
#[derive(clap::Args)]
pub(super) struct StartOptions {
    /// What the tokens start from: a word, or several, whose mean is taken.
    #[arg(long, alias = "initializer-token", value_name = "TEXT")]
    init_word: Option<String>,
    /// Vectors of each token.
    #[arg(long, alias = "num-vectors", default_value_t = 1)]
    vectors: usize,
    /// Learning rate of the embeddings, which are not clipped [default: that of the run].
    #[arg(long)]
    embedding_lr: Option<f64>,
}

impl TokenOptions {
    /// What is asked for, if tokens are.
    ///
    /// # Errors
    /// [`Error::Usage`] for --init-word and the like without tokens, or a token given twice.
    pub fn settings(&self, config: &TrainConfig) -> Result<Option<TokenSettings>> {
        if self.class_token.is_empty() {
            let start = &self.start;
            let lone = [
                ("--init-word", start.init_word.is_some()),
                ("--vectors", start.vectors != 1),
                ("--embedding-lr", start.embedding_lr.is_some()),
            ];
            return match lone.iter().find(|(_, given)| *given) {
                None => Ok(None),
                Some((option, _)) => Err(Error::Usage(format!("{option}: give the tokens by --class-token"))),
            };
        }
        for (i, token) in self.class_token.iter().enumerate() {
            if self.class_token[..i].contains(token) {
                return Err(Error::Usage(format!("--class-token {token} is given twice")));
            }
        }
        let init = Init::Text("object".into());
        Ok(Some(self.start.settings(self.class_token.clone(), Vec::new(), init, self.with_lora, config)))
    }
}

impl StartOptions {
    /// Of these tokens, which start from `init` unless a word is given.
    pub fn settings(
        &self,
        tokens: Vec<String>,
        classes: Vec<String>,
        init: Init,
        lora: bool,
        config: &TrainConfig,
    ) -> TokenSettings {
        TokenSettings {
            tokens,
            classes,
            init: self.init_word.clone().map_or(init, Init::Text),
            vectors: self.vectors,
            lr: self.embedding_lr.unwrap_or(config.lr),
            lora,
        }
    }
}

/// Learns tokens as `config` and `settings` say.
///
/// # Errors
/// Those of [`Preparation::new`] and [`TokenTrainer`].
pub(super) fn train(
    mut config: TrainConfig,
    settings: TokenSettings,
    vocab: Option<&Path>,
    resume: bool,
    common: &Common,
) -> Result<()> {
    config.model = common.model(Path::new(&config.model))?.display().to_string();
    config.seed = common.given_seed.unwrap_or(config.seed);
    if common.precision != "auto" {
        config.precision.clone_from(&common.precision);
    }
    let device = common.device()?;
    let dtype = parse_precision(&config.precision, &device)?;
    config.precision = dtype.name().into();
    let mut terminal = Terminal::new(common)?;
    let steps = config.steps;
    let samples = (config.batch_size * config.grad_accum) as u64;
    let prepared = Preparation::with_tokens(config, vocab, &device, dtype, resume, &settings, &mut terminal)?;
    let mut trainer = TokenTrainer::new(prepared, settings, vocab, resume)?;
    let [embeddings, lora] = trainer.trained();
    terminal.note(&format!("training {embeddings} values of embeddings and {lora} of a LoRA"));
    let (begin, first) = (Instant::now(), trainer.step());
    terminal.begin(first, steps);
    trainer.run(&mut terminal)?;
    terminal.finish();
    let seconds = begin.elapsed().as_secs_f64();
    let results = trainer.results();
    if common.json {
        outjson!(json!({"files": results, "samples": (steps - first) * samples, "seconds": seconds}));
    } else {
        results.iter().for_each(|path| outln!("{}", path.display()));
    }
    Ok(())
}
