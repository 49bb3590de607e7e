//! `tuning.json` in the user's cache: what came of candidates, by device, driver, kernels, operation and shape.

use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::child::Verdict;
use crate::device::gpu::choice::{Case, Choice};
use crate::device::gpu::identity::Identity;
use crate::error::{Error, Result};
use crate::formats::{atomic, cache};

/// Another one is of another version of selma.
const FORMAT: u32 = 1;
/// What a candidate takes of the best time so far, at most, to be better.
const BETTER: f64 = 0.97;

/// One device's findings of one operation at one shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub on: Identity,
    pub case: Case,
    /// The fastest, where candidates were timed.
    pub best: Option<Choice>,
    pub tried: Vec<Tried>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tried {
    pub choice: Choice,
    pub verdict: Verdict,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    entries: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    format: u32,
    entries: Vec<Entry>,
}

/// What is known of a choice.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    Proved,
    Refused(String),
    Unknown,
}

impl Entry {
    /// From the verdicts of all that is known to matter: nothing of what could not be tried is kept.
    pub fn new(on: &Identity, case: &Case, tried: impl IntoIterator<Item = (Choice, Verdict)>) -> Self {
        let mut entry = Self { on: on.clone(), case: case.clone(), best: None, tried: Vec::new() };
        let tried = tried.into_iter().map(|(choice, verdict)| Tried { choice, verdict });
        entry.tried = tried.filter(|tried| !matches!(tried.verdict, Verdict::Unable(_))).collect();
        entry.best = entry.fastest();
        entry
    }

    /// The first of the fastest, as far as a difference is one; none where nothing was timed.
    fn fastest(&self) -> Option<Choice> {
        let mut best: Option<(Choice, f64)> = None;
        for tried in &self.tried {
            let Verdict::Timed { seconds, reference } = tried.verdict else { continue };
            let (_, least) = *best.get_or_insert((self.case.reference(), 1.0));
            // Each beside the reference of its own process.
            let share = seconds / reference;
            if share < BETTER * least {
                best = Some((tried.choice, share));
            }
        }
        best.map(|(choice, _)| choice)
    }

    pub fn of(&self, choice: Choice) -> Option<&Verdict> {
        self.tried.iter().find(|tried| tried.choice == choice).map(|tried| &tried.verdict)
    }

    fn is_sound(&self) -> bool {
        let permitted = |choice: &Choice| self.case.permits(*choice);
        self.case.is_sound() && self.best.iter().chain(self.tried.iter().map(|tried| &tried.choice)).all(permitted)
    }
}

impl Table {
    /// `tuning.json` in the user's cache; none where there is no such folder.
    pub fn path() -> Option<PathBuf> {
        cache::folder().map(|folder| folder.join("tuning.json"))
    }

    /// What is in the file. One that cannot be read is no file, and a note says so.
    pub fn read(path: &Path) -> (Self, Option<String>) {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Self::none(),
            Err(e) => return Self::unreadable(path, &e.to_string()),
        };
        match serde_json::from_slice::<Saved>(&bytes) {
            Ok(Saved { format: FORMAT, mut entries }) => {
                entries.retain(Entry::is_sound);
                (Self { entries }, None)
            }
            Ok(Saved { format, .. }) => Self::unreadable(path, &format!("format {format}, expected {FORMAT}")),
            Err(e) => Self::unreadable(path, &e.to_string()),
        }
    }

    fn none() -> (Self, Option<String>) {
        (Self::default(), None)
    }

    fn unreadable(path: &Path, why: &str) -> (Self, Option<String>) {
        let path = path.display();
        (
            Self::default(),
            Some(format!("{path} cannot be read ({why}): no kernel counts as proved, and it is written anew")),
        )
    }

    pub fn entry(&self, on: &Identity, case: &Case) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.on == *on && entry.case == *case)
    }

    /// What is known of `choice` at `case`. What has proved itself at other shapes, and failed at none, needs no proof at this.
    pub fn standing(&self, on: &Identity, case: &Case, choice: Choice) -> Standing {
        match self.entry(on, case).and_then(|entry| entry.of(choice)) {
            Some(Verdict::Refused(why)) => return Standing::Refused(why.clone()),
            Some(_) => return Standing::Proved,
            None => {}
        }
        let family = case.family(choice);
        let here = self.entries.iter().filter(|entry| entry.on == *on);
        let mut tried = here.flat_map(|entry| entry.tried.iter().map(|tried| (entry.case.family(tried.choice), tried)));
        let mut proved = false;
        let failed = tried.any(|(of, tried)| {
            let alike = of == family;
            proved |= alike;
            alike && matches!(tried.verdict, Verdict::Refused(_))
        });
        if proved && !failed { Standing::Proved } else { Standing::Unknown }
    }

    /// Puts an entry in the place of the old one, of which it takes what it does not have itself.
    pub fn add(&mut self, mut new: Entry) {
        if let Some(at) = self.entries.iter().position(|old| old.on == new.on && old.case == new.case) {
            let old = self.entries.remove(at);
            let kept = old.tried.into_iter().filter(|tried| new.of(tried.choice).is_none()).collect::<Vec<_>>();
            new.tried.splice(0..0, kept);
            new.best = new.fastest();
        }
        if !new.tried.is_empty() {
            self.entries.push(new);
        }
    }

    /// Adds an entry to the file, with what others have put there meanwhile.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be written.
    pub fn update(path: &Path, entry: Entry) -> Result<()> {
        atomic::create_folder(atomic::folder(path))?;
        let beside = path.with_extension("lock");
        let lock = File::create(&beside).map_err(|e| Error::io(&beside, e))?;
        // A file system without locks is no reason not to write.
        let _ = lock.lock();
        let (mut table, _) = Self::read(path);
        table.add(entry);
        let saved = Saved { format: FORMAT, entries: table.entries };
        let text = serde_json::to_string_pretty(&saved).map_err(|e| Error::Failed(e.to_string()))?;
        atomic::write_bytes(path, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::gpu::choice::Operation;
    use crate::dtype::DType;

    fn on(driver: &str) -> Identity {
        Identity { device: "a card".into(), capability: "9.0".into(), driver: driver.into(), kernels: "abc".into() }
    }

    fn case(m: usize) -> Case {
        let sizes = vec![m, 1280, 11520, 0];
        Case { operation: Operation::MatmulNt, dtype: DType::Bf16, sizes, added: Vec::new(), any: false }
    }

    fn choice(text: &str) -> Choice {
        text.parse().unwrap()
    }

    fn timed(seconds: f64, reference: f64) -> Verdict {
        Verdict::Timed { seconds, reference }
    }

    #[test]
    fn the_best_is_better_by_more_than_noise() {
        let best = |times: &[(&str, Verdict)]| {
            let tried = times.iter().map(|(name, verdict)| (choice(name), verdict.clone()));
            Entry::new(&on("1"), &case(64), tried).best.map(|choice| choice.to_string())
        };
        assert_eq!(best(&[]), None);
        assert_eq!(best(&[("large", Verdict::Proved)]), None);
        assert_eq!(best(&[("large", timed(0.98, 1.0))]).as_deref(), Some("small"));
        assert_eq!(best(&[("large", timed(0.96, 1.0)), ("tall", timed(0.94, 1.0))]).as_deref(), Some("large"));
        assert_eq!(best(&[("large", timed(0.96, 1.0)), ("tall", timed(0.9, 1.0))]).as_deref(), Some("tall"));
        // The second process found everything twice as slow.
        assert_eq!(best(&[("large", timed(0.9, 1.0)), ("tall", timed(1.6, 2.0))]).as_deref(), Some("tall"));
        let refused = Verdict::Refused("wrong".into());
        assert_eq!(best(&[("tall", refused), ("large", timed(0.5, 1.0))]).as_deref(), Some("large"));
    }

    #[test]
    fn what_proved_itself_counts_for_its_family_and_device() {
        let mut table = Table::default();
        let tried = [(choice("large x 4"), Verdict::Proved), (choice("tall"), Verdict::Refused("hangs".into()))];
        table.add(Entry::new(&on("1"), &case(64), tried));
        let standing = |driver, m, name| table.standing(&on(driver), &case(m), choice(name));
        assert_eq!(standing("1", 64, "large x 4"), Standing::Proved);
        assert_eq!(standing("1", 128, "large x 2"), Standing::Proved);
        assert_eq!(standing("1", 64, "tall"), Standing::Refused("hangs".into()));
        for (driver, m, name) in [("1", 64, "large"), ("2", 64, "large x 4"), ("1", 128, "tall")] {
            assert_eq!(standing(driver, m, name), Standing::Unknown, "{driver} {m} {name}");
        }
        // Another shape at which it failed: each shape needs its own proof.
        table.add(Entry::new(&on("1"), &case(256), [(choice("large x 8"), Verdict::Refused("wrong".into()))]));
        assert_eq!(table.standing(&on("1"), &case(128), choice("large x 2")), Standing::Unknown);
        assert_eq!(table.standing(&on("1"), &case(64), choice("large x 4")), Standing::Proved);
    }

    #[test]
    fn files_keep_what_others_found_and_damage_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache/tuning.json");
        assert_eq!(Table::read(&path), (Table::default(), None));
        let entry = |name, verdict| Entry::new(&on("1"), &case(64), [(choice(name), verdict)]);
        Table::update(&path, entry("large", timed(0.5, 1.0))).unwrap();
        Table::update(&path, entry("tall", timed(0.4, 1.0))).unwrap();
        Table::update(&path, entry("small x 2", Verdict::Unable("no room".into()))).unwrap();
        let (table, note) = Table::read(&path);
        assert_eq!(note, None);
        let found = table.entry(&on("1"), &case(64)).unwrap();
        assert_eq!((found.tried.len(), found.best), (2, Some(choice("tall"))));
        let text = std::fs::read_to_string(&path).unwrap();
        for (broken, words) in [
            (text[..text.len() / 2].to_owned(), "cannot be read"),
            (text.replace("\"format\": 1", "\"format\": 2"), "format 2, expected 1"),
            (text.replace("matmul_nt", "matmul_xx"), "cannot be read"),
            (text.replace("\"tall\"", "\"huge\""), "cannot be read"),
        ] {
            std::fs::write(&path, broken).unwrap();
            let (table, note) = Table::read(&path);
            assert!(table == Table::default() && note.unwrap().contains(words));
        }
        // An entry that is of no launch is not there; the others are.
        std::fs::write(&path, text.replace("\"tall\"", "\"any\"")).unwrap();
        assert_eq!(Table::read(&path), (Table::default(), None));
        Table::update(&path, entry("large", Verdict::Proved)).unwrap();
        assert!(Table::read(&path).0.entry(&on("1"), &case(64)).is_some());
    }
}
