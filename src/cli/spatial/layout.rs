//! `selma spatial layout`: the language model's column of the table.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::cli::llm::{Llm, print_spent, spent_json};
use crate::cli::{Common, input, progress::Progress};
use crate::error::{Error, Result};
use crate::formats::{atomic, png};
use crate::prompting::llm::Role;
use crate::prompting::prompts::Ask;
use crate::spatial::{layout, suite};

/// Have a language model lay out each prompt as boxes, and draw them.
///
/// --out gets a detections file for `selma spatial score`, so that language models stand beside those that draw; every reply
/// is recorded beside it in NAME.replies.jsonl. A reply without a usable scene counts as an empty one. The key is read from
/// OPENAI_API_KEY.
#[derive(clap::Args)]
pub(super) struct Layout {
    /// Prompts of `selma spatial make`.
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// The boxes, as JSON.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Folder for drawings of the scenes.
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    #[command(flatten)]
    llm: Llm,
    /// Replace --out if it is there.
    #[arg(long)]
    overwrite: bool,
}

impl Layout {
    pub fn run(self, common: &Common) -> Result<()> {
        self.llm.check()?;
        super::super::refuse_existing(&self.out, self.overwrite)?;
        input::check([("--prompts", Some(self.prompts.as_path()))])?;
        let suite = suite::read_suite(&self.prompts)?;
        let asks =
            suite.iter().zip(0..).map(|(prompt, request)| Ask { request, prompt: layout::request(&prompt.prompt) });
        let asks: Vec<Ask> = asks.collect();
        let mut source = self.llm.open(&self.out, Role::Questioner, None, common)?;
        let mut progress = Progress::new(common, "prompts", asks.len());
        let mut replies = Vec::new();
        for some in asks.chunks(self.llm.parallel()) {
            let records = source.writer().answer(some);
            let records = records.map_err(|e| self.llm.stopped(e, &self.out, replies.len(), asks.len()))?;
            if records.len() < some.len() {
                let done = replies.len() + records.len();
                let message =
                    format!("the recording ends after {done} of {} replies; ask a model by --llm", asks.len());
                return Err(Error::Failed(message));
            }
            replies.extend(records.into_iter().map(|record| record.reply));
            progress.set(replies.len() as u64);
        }
        progress.finish();
        if let Some(folder) = &self.images {
            atomic::create_folder(folder)?;
        }
        let (mut scenes, mut unusable) = (Map::new(), 0);
        for (prompt, reply) in suite.iter().zip(&replies) {
            let scene = layout::parse(reply);
            unusable += usize::from(scene.is_none());
            let scene = scene.unwrap_or_default();
            scenes.insert(format!("{}_0", prompt.id), layout::detections(&scene));
            if let Some(folder) = &self.images {
                png::save(&folder.join(format!("{}_0.png", prompt.id)), &layout::draw(&scene), None)?;
            }
        }
        let count = scenes.len();
        atomic::write_bytes(&self.out, format!("{:#}\n", Value::Object(scenes)).as_bytes())?;
        let spent = source.spent();
        if common.json {
            outjson!(json!({"out": self.out, "scenes": count, "unusable": unusable, "spent": spent_json(spent)}));
        } else {
            outln!("{}: {count} scenes, {unusable} replies without a usable one", self.out.display());
            print_spent(spent);
        }
        Ok(())
    }
}
