//! A dialogue that draws: its events, its images, and how a recorded one is drawn again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use image::RgbImage;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::tags::{self, Call, Tool};
use crate::error::{Error, Result};
use crate::formats::{self, digest, jsonl, png};

/// The events of a dialogue, in its folder.
pub const NAME: &str = "dialogue.jsonl";

/// Who draws.
pub trait Drawer {
    /// An image of `prompt`; from `start` and a strength where given, else from noise.
    ///
    /// # Errors
    /// Those of the networks.
    fn draw(&mut self, prompt: &str, start: Option<(&RgbImage, f64)>, seed: u64) -> Result<RgbImage>;
}

/// A line of the dialogue file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "lowercase")]
pub enum Event {
    User {
        turn: usize,
        text: String,
    },
    Assistant {
        turn: usize,
        raw: String,
        shown: String,
        errors: Vec<String>,
    },
    Tool {
        turn: usize,
        id: String,
        tool: String,
        parent: Option<String>,
        prompt: Option<String>,
        seed: Option<u64>,
        strength: Option<f64>,
        file: String,
        sha256: String,
    },
}

/// An image of the dialogue.
#[derive(Clone, Debug)]
struct Drawn {
    file: String,
    sha256: String,
    /// What it was drawn from: that of its parent where it has none of its own.
    prompt: String,
}

/// What a reply led to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The reply without its tags.
    pub shown: String,
    pub errors: Vec<String>,
    /// Ids and files of new images.
    pub images: Vec<(String, PathBuf)>,
}

pub struct Session<'a> {
    out: &'a Path,
    seed: u64,
    drawer: &'a mut dyn Drawer,
    events: Vec<Event>,
    /// Oldest first.
    ids: Vec<String>,
    images: BTreeMap<String, Drawn>,
    turn: usize,
    /// Hashes of files that are there already and need not be drawn, by name.
    kept: BTreeMap<String, String>,
}

impl<'a> Session<'a> {
    /// A dialogue in the folder `out`, which exists. Images that `kept` names with the hash of their file are not drawn
    /// again.
    pub fn new(out: &'a Path, seed: u64, drawer: &'a mut dyn Drawer, kept: BTreeMap<String, String>) -> Self {
        let (events, ids, images) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { out, seed, drawer, events, ids, images, turn: 0, kept }
    }

    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Adds what the user said; it begins a turn.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn user(&mut self, text: &str) -> Result<()> {
        self.turn += 1;
        self.add(Event::User { turn: self.turn, text: text.into() })
    }

    /// Adds a reply and does what it asks for. Its text is on disk before anything is drawn.
    ///
    /// # Errors
    /// Those of the drawer; [`Error::Io`].
    pub fn assistant(&mut self, raw: &str) -> Result<Outcome> {
        let parsed = tags::parse(raw, &self.ids);
        let (shown, errors) = (parsed.shown.clone(), parsed.errors.clone());
        self.add(Event::Assistant { turn: self.turn, raw: raw.into(), shown, errors })?;
        let mut outcome = Outcome { shown: parsed.shown, errors: parsed.errors, images: Vec::new() };
        for call in &parsed.calls {
            let drawn = self.execute(call)?;
            outcome.images.push((call.id.clone(), self.out.join(&drawn.file)));
        }
        Ok(outcome)
    }

    fn execute(&mut self, call: &Call) -> Result<Drawn> {
        let parent = call.parent.as_ref().and_then(|id| self.images.get(id)).cloned();
        let own = call.prompt.clone();
        let prompt = own.or_else(|| parent.as_ref().map(|parent| parent.prompt.clone())).unwrap_or_default();
        let (seed, drawn) = match (call.tool, parent) {
            (Tool::Select, Some(parent)) => (None, parent),
            (_, parent) => {
                let seed = seed_of(self.seed, &call.id);
                let file = format!("{}.png", file_stem(&call.id));
                let path = self.out.join(&file);
                let there = self.kept.get(&file).filter(|hash| digest::file(&path).is_ok_and(|found| found == **hash));
                if there.is_none() {
                    let start = parent.map(|parent| formats::image::read(&self.out.join(parent.file))).transpose()?;
                    let start = start.as_ref().zip(call.strength);
                    let image = self.drawer.draw(&prompt, start, seed)?;
                    png::save(&path, &image, None)?;
                }
                (Some(seed), Drawn { sha256: digest::file(&path)?, file, prompt })
            }
        };
        self.ids.push(call.id.clone());
        self.images.insert(call.id.clone(), drawn.clone());
        self.add(Event::Tool {
            turn: self.turn,
            id: call.id.clone(),
            tool: call.tool.name().into(),
            parent: call.parent.clone(),
            prompt: call.prompt.clone(),
            seed,
            strength: call.strength,
            file: drawn.file.clone(),
            sha256: drawn.sha256.clone(),
        })?;
        Ok(drawn)
    }

    /// The file is written whole with every event: a killed dialogue has all that happened.
    fn add(&mut self, event: Event) -> Result<()> {
        self.events.push(event);
        let rows: Vec<Value> = self.events.iter().map(|event| json!(event)).collect();
        jsonl::write(&self.out.join(NAME), &rows)
    }
}

/// The seed of an image depends on that of the dialogue and its id alone, not on what was drawn before.
fn seed_of(seed: u64, id: &str) -> u64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update(id.as_bytes());
    let bytes: [u8; 32] = hash.finalize().into();
    // 53 bits survive every reader of JSON.
    bytes[..8].iter().fold(0u64, |sum, &b| sum << 8 | u64::from(b)) >> 11
}

/// Ids come from a language model: only letters, digits, `-` and `_` name a file, and others are told apart by their hash.
fn file_stem(id: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if id.len() <= 40 && id.chars().all(plain) {
        return id.into();
    }
    let kept: String = id.chars().filter(|c| plain(*c)).take(20).collect();
    format!("{kept}.{:013x}", seed_of(0, id))
}

/// Reads a dialogue file.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] naming the line that is no event.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    Ok(jsonl::read::<Event>(path)?.into_iter().map(|(_, event)| event).collect())
}

/// The hash of every file of a dialogue.
pub fn files(events: &[Event]) -> BTreeMap<String, String> {
    let file = |event: &Event| match event {
        Event::Tool { file, sha256, .. } => Some((file.clone(), sha256.clone())),
        _ => None,
    };
    events.iter().filter_map(file).collect()
}

/// Says what a repeated dialogue drew otherwise than the recorded one.
///
/// # Errors
/// [`Error::Failed`] naming the first image that differs.
pub fn compare(recorded: &[Event], repeated: &[Event]) -> Result<()> {
    let tools =
        |events: &[Event]| events.iter().filter(|e| matches!(e, Event::Tool { .. })).cloned().collect::<Vec<_>>();
    let (recorded, repeated) = (tools(recorded), tools(repeated));
    for (old, new) in recorded.iter().zip(&repeated) {
        if old != new {
            return Err(Error::Failed(format!(
                "the replay differs from the recording: recorded {}, now {}; was another model, seed or setting used?",
                json!(old),
                json!(new)
            )));
        }
    }
    match recorded.len() <= repeated.len() {
        true => Ok(()),
        false => Err(Error::Failed(format!("{} recorded images, {} drawn", recorded.len(), repeated.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws the seed and the start's first pixel.
    struct Plain(Vec<(String, Option<f64>)>);

    impl Drawer for Plain {
        fn draw(&mut self, prompt: &str, start: Option<(&RgbImage, f64)>, seed: u64) -> Result<RgbImage> {
            self.0.push((prompt.into(), start.map(|(_, strength)| strength)));
            let base = start.map_or(0, |(image, _)| image.as_raw()[0]);
            Ok(RgbImage::from_pixel(4, 4, image::Rgb([base.wrapping_add(seed as u8 | 1); 3])))
        }
    }

    const REPLIES: [&str; 6] = [
        "Here: <image> a hedgehog </image>",
        "<variation> 1 </variation>",
        "<edit prev_id=2 strength=high>at sea</edit>",
        "Only talk.",
        "<edit>at night</edit>",
        "<select> 3 </select><refine>5</refine>",
    ];

    fn run(out: &Path, drawer: &mut Plain, kept: BTreeMap<String, String>) -> Vec<Event> {
        let mut session = Session::new(out, 7, drawer, kept);
        for reply in REPLIES {
            session.user("go on").unwrap();
            session.assistant(reply).unwrap();
        }
        session.events().to_vec()
    }

    #[test]
    fn six_turns_make_six_events_and_five_files() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut drawer = Plain(Vec::new());
        let events = run(first.path(), &mut drawer, BTreeMap::new());
        let tools: Vec<(String, Option<String>)> = events
            .iter()
            .filter_map(|event| match event {
                Event::Tool { id, parent, .. } => Some((id.clone(), parent.clone())),
                _ => None,
            })
            .collect();
        let expected =
            [("1", None), ("2", Some("1")), ("3", Some("2")), ("4", Some("3")), ("5", Some("3")), ("6", Some("5"))];
        let expected: Vec<_> =
            expected.iter().map(|(id, parent)| (id.to_string(), parent.map(str::to_owned))).collect();
        assert_eq!(tools, expected);
        let drawn = [
            ("a hedgehog", None),
            ("a hedgehog", Some(0.5)),
            ("at sea", Some(0.75)),
            ("at night", Some(0.6)),
            ("at sea", Some(0.25)),
        ];
        assert_eq!(drawer.0, drawn.map(|(prompt, strength)| (prompt.to_owned(), strength)));
        assert!(!first.path().join("5.png").exists(), "an alias has no file of its own");
        let repeated = run(second.path(), &mut Plain(Vec::new()), BTreeMap::new());
        compare(&events, &repeated).unwrap();
        assert_eq!(read(&first.path().join(NAME)).unwrap(), repeated);
        // Resumed: what is there is not drawn again, what is damaged is.
        std::fs::remove_file(first.path().join("4.png")).unwrap();
        let mut drawer = Plain(Vec::new());
        assert_eq!(run(first.path(), &mut drawer, files(&events)), events);
        assert_eq!(drawer.0.len(), 1);
        let mut other = events.clone();
        if let Some(Event::Tool { sha256, .. }) = other.iter_mut().find(|e| matches!(e, Event::Tool { .. })) {
            sha256.push('0');
        }
        assert!(compare(&other, &events).is_err());
    }

    #[test]
    fn ids_never_leave_the_folder() {
        assert_eq!(file_stem("12"), "12");
        let stem = file_stem("../../etc/x");
        assert!(stem.starts_with("etcx.") && !stem.contains('/'), "{stem}");
        assert_ne!(stem, file_stem("../etc/x"));
    }
}
