//! `selma chat`: drawing in a dialogue with a language model.

mod serve;

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde_json::json;

use crate::chat::session::{self, Drawer, Event, NAME, Outcome, Session};
use crate::cli::generate::{gated_loras, put_on};
use crate::cli::{Common, input};
use crate::error::{Error, Result};
use crate::formats::atomic;
use crate::generate::generation::{Generation, Start};
use crate::generate::request::Request;
use crate::generate::{Generator, Settings, Source};
use crate::prompting::llm::{self, Client, Limits};

/// What the language model is told before the dialogue.
const RULES: &str = include_str!("rules.txt");

/// Talk to a language model that draws.
///
/// The model asks for images by tags in its replies: image, edit, variation, select and refine. Images and dialogue.jsonl
/// go into --out. --replay draws a recorded dialogue again, and says whether every image is the same. The key is read from
/// OPENAI_API_KEY.
#[derive(clap::Args)]
pub struct Chat {
    /// What draws: shapes, a folder, a checkpoint, or an id of the Hugging Face hub.
    #[arg(long)]
    model: PathBuf,
    /// A LoRA file, and its strength (1 if left out). Repeatable.
    #[arg(long, value_name = "FILE[:SCALE]")]
    lora: Vec<String>,
    /// Weigh the LoRAs for each prompt by a gate of `selma merge --gate`; without --lora, its experts are looked for beside it.
    #[arg(long, value_name = "FILE")]
    gate: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    /// An OpenAI-compatible endpoint, such as http://localhost:8000 or https://host/v1.
    #[arg(long, value_name = "URL", requires = "llm_model", conflicts_with = "replay")]
    llm: Option<String>,
    /// The model that the endpoint is asked for.
    #[arg(long, value_name = "NAME")]
    llm_model: Option<String>,
    /// A recorded dialogue (.jsonl) instead of an endpoint.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// What you say. Repeatable; without it, lines are read from the standard input.
    #[arg(long, value_name = "TEXT", conflicts_with = "replay")]
    say: Vec<String>,
    /// Talk on a page in the browser, at http://127.0.0.1:PORT; nobody but this machine can open it. Port 0 takes a free one.
    #[arg(long, value_name = "PORT", num_args = 0..=1, default_missing_value = "7862", requires = "llm", conflicts_with = "say")]
    serve: Option<u16>,
    /// Folder for the images and dialogue.jsonl.
    #[arg(long)]
    out: PathBuf,
    /// Go on with the dialogue in --out.
    #[arg(long)]
    resume: bool,
    /// Folder with `vocab.json` and `merges.txt`, for a model folder without its own.
    #[arg(long)]
    vocab: Option<PathBuf>,
}

impl Chat {
    pub fn run(mut self, common: &Common) -> Result<()> {
        input::check([
            ("--replay", self.replay.as_deref()),
            ("--gate", self.gate.as_deref()),
            ("--vocab", self.vocab.as_deref()),
        ])?;
        let loras = gated_loras(self.gate.as_deref(), &self.lora)?;
        input::check(loras.iter().map(|lora| ("--lora", Some(lora.path.as_path()))))?;
        let earlier = self.earlier()?;
        let client = self.client(common)?;
        let recorded = self.replay.as_deref().map(session::read).transpose()?;
        if client.is_none() && recorded.is_none() {
            return Err(Error::Usage("who replies? Give --llm URL --llm-model NAME, or --replay FILE".into()));
        }
        atomic::create_folder(&self.out)?;
        atomic::remove_leftovers(&self.out)?;
        self.model = common.model(&self.model)?;
        let source = Source { model: self.model.clone(), vocab: self.vocab.clone(), ..Source::default() };
        let mut generator = common.generator(source)?;
        put_on(&mut generator, self.gate.as_deref(), loras, false, &mut |text| common.note(text))?;
        Generation::new(&self.settings, common.seed(), &generator.model).check(&generator.model, None)?;
        let mut drawer = Own { generator: &generator, settings: &self.settings };
        let kept = recorded.as_ref().or(earlier.as_ref()).map_or(BTreeMap::new(), |events| session::files(events));
        let kept = if self.resume { kept } else { BTreeMap::new() };
        let mut session = Session::new(&self.out, common.seed(), &mut drawer, kept);
        for event in recorded.iter().chain(&earlier).flatten() {
            match event {
                Event::User { text, .. } => session.user(text)?,
                Event::Assistant { raw, .. } => show(&session.assistant(raw)?, common),
                Event::Tool { .. } => {}
            }
        }
        if let Some(recorded) = &recorded {
            session::compare(recorded, session.events())?;
            common.note("every image is as it was recorded");
            return Ok(());
        }
        match client {
            Some(client) => self.talk(&client, &mut session, common),
            None => Ok(()),
        }
    }

    /// What is in --out already.
    fn earlier(&self) -> Result<Option<Vec<Event>>> {
        let file = self.out.join(NAME);
        match (file.exists(), self.resume) {
            (true, false) => {
                Err(Error::file(&file, "is a dialogue already; name another folder, or add --resume to go on with it"))
            }
            (true, true) if self.replay.is_none() => session::read(&file).map(Some),
            _ => Ok(None),
        }
    }

    fn client(&self, common: &Common) -> Result<Option<Client>> {
        let Some(url) = &self.llm else { return Ok(None) };
        if common.offline && !llm::is_local(url) {
            return Err(Error::Usage(format!("--llm {url}: --offline forbids it")));
        }
        let model = self.llm_model.clone().unwrap_or_default();
        let settings = llm::Settings { url: url.clone(), model, ..llm::Settings::default() };
        let client = Client::from_environment(settings, Limits::default())?;
        client.warn_of_key(|text| common.note(text));
        Ok(Some(client))
    }

    fn talk(&self, client: &Client, session: &mut Session, common: &Common) -> Result<()> {
        let answer = |session: &mut Session| -> Result<Outcome> {
            let raw = client.complete(&request(session.events()))?.text;
            let outcome = session.assistant(&raw)?;
            show(&outcome, common);
            Ok(outcome)
        };
        if let Some(port) = self.serve {
            return serve::serve(port, &self.out, session, &answer, common);
        }
        let reply = |session: &mut Session| answer(session).map(drop);
        // A killed dialogue may end in a question.
        if matches!(session.events().last(), Some(Event::User { .. })) {
            reply(session)?;
        }
        let mut say = |text: &str| -> Result<()> {
            if !text.trim().is_empty() {
                session.user(text.trim())?;
                reply(session)?;
            }
            Ok(())
        };
        if !self.say.is_empty() {
            return self.say.iter().try_for_each(|text| say(text));
        }
        for line in std::io::stdin().lock().lines() {
            say(&line.map_err(|e| Error::io("standard input", e))?)?;
        }
        Ok(())
    }
}

/// The rules and the dialogue so far, as one text.
fn request(events: &[Event]) -> String {
    let line = |event: &Event| match event {
        Event::User { text, .. } => Some(format!("User: {text}\n")),
        Event::Assistant { raw, .. } => Some(format!("Assistant: {raw}\n")),
        Event::Tool { id, .. } => Some(format!("(picture {id} was drawn)\n")),
    };
    let dialogue: String = events.iter().filter_map(line).collect();
    format!("{RULES}\n{dialogue}Assistant:")
}

fn show(outcome: &Outcome, common: &Common) {
    let images: Vec<(&String, &Path)> = outcome.images.iter().map(|(id, path)| (id, path.as_path())).collect();
    if common.json {
        return outjson!(json!({"shown": outcome.shown, "errors": outcome.errors, "pictures": images}));
    }
    if !outcome.shown.is_empty() {
        outln!("{}", outcome.shown);
    }
    for (id, path) in images {
        outln!("  image {}: {}", id, path.display());
    }
    outcome.errors.iter().for_each(|error| common.note(format!("the reply cannot be followed: {error}")));
}

/// The user's model.
struct Own<'a> {
    generator: &'a Generator,
    settings: &'a Settings,
}

impl Drawer for Own<'_> {
    fn draw(&mut self, prompt: &str, start: Option<(&RgbImage, f64)>, seed: u64) -> Result<RgbImage> {
        let model = &self.generator.model;
        let generation = Generation::new(self.settings, seed, model);
        generation.check(model, start.map(|(_, strength)| strength))?;
        let start = start.map(|(image, strength)| Start::new(model, image, generation.size, strength)).transpose()?;
        let parts = if self.settings.long_prompts { model.text.parts(prompt)? } else { 1 };
        let request = Request { parts, ..Request::plain(prompt.into(), generation) };
        let mut images = model.images(&[request], start.as_ref(), || Ok(()))?;
        images.1.pop().ok_or_else(|| Error::Failed("no image was drawn".into()))
    }
}
