//! Who decides between kernels for the commands: by mode, by what has proved itself, by what the run has chosen before.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Mode;
use super::child::{Prover, Verdict};
use super::record::Record;
use super::table::{Entry, Standing, Table};
use crate::device::gpu::choice::{Case, Choice, Chooser, Family, Kept};
use crate::device::gpu::identity::Identity;
use crate::error::{Error, Result};

pub struct Decider {
    /// What was asked for, where something was.
    asked: Option<Mode>,
    otherwise: Mode,
    on: Identity,
    /// The table's file.
    path: Option<PathBuf>,
    prover: Prover,
    /// For the person at the terminal.
    say: Box<dyn Fn(&str) + Send + Sync>,
    state: Arc<Mutex<State>>,
}

struct State {
    table: Table,
    chosen: HashMap<Case, Choice>,
    /// Those that are kept, by number: that of the innermost run is the last.
    records: Vec<(u64, Record)>,
    count: u64,
    /// What could not be tried, and is not tried again.
    unable: HashSet<Family>,
    /// What was said of.
    said: HashSet<Family>,
}

impl Decider {
    /// For the device of this identity. `asked` is what the command says, `otherwise` what holds where it says nothing; `path`
    /// is where the table is.
    pub fn new(
        [asked, otherwise]: [Option<Mode>; 2],
        on: Identity,
        path: Option<PathBuf>,
        prover: Prover,
        say: Box<dyn Fn(&str) + Send + Sync>,
    ) -> Self {
        let (table, note) = path.as_deref().map(Table::read).unwrap_or_default();
        if let Some(note) = note {
            say(&note);
        }
        let state = State {
            table,
            chosen: HashMap::new(),
            records: Vec::new(),
            count: 0,
            unable: HashSet::new(),
            said: HashSet::new(),
        };
        let state = Arc::new(Mutex::new(state));
        Self { asked, otherwise: otherwise.unwrap_or(Mode::Model), on, path, prover, say, state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        whole(&self.state)
    }

    /// How this run chooses.
    fn mode(&self, state: &State) -> Mode {
        let of_run = state.records.last().map(|(_, record)| record.mode);
        of_run.or(self.asked).unwrap_or(self.otherwise)
    }

    /// What the run or the table prefers, where that may be used; else the reference.
    fn proved(&self, state: &mut State, case: &Case, model: Choice) -> Choice {
        let of_run = state.records.iter().rev().find_map(|(_, record)| record.choice(case));
        let best = || state.table.entry(&self.on, case).and_then(|entry| entry.best);
        let preferred = of_run.or_else(best).filter(|&choice| case.permits(choice)).unwrap_or(model);
        if preferred == case.reference() || self.may_use(state, case, preferred) { preferred } else { case.reference() }
    }

    fn may_use(&self, state: &mut State, case: &Case, choice: Choice) -> bool {
        let family = case.family(choice);
        let why = match state.table.standing(&self.on, case, choice) {
            Standing::Proved => return true,
            Standing::Refused(why) => why,
            Standing::Unknown if state.unable.contains(&family) => return false,
            Standing::Unknown => match self.prove(state, case, choice) {
                Verdict::Proved | Verdict::Timed { .. } => return true,
                Verdict::Refused(why) => why,
                Verdict::Unable(why) => {
                    state.unable.insert(family);
                    format!("it could not be proved now: {why}")
                }
            },
        };
        if state.said.insert(family) {
            (self.say)(&format!("{case}: the kernel `{choice}` is not used, the plain one is: {why}"));
        }
        false
    }

    /// A proof at this shape, for the table too.
    fn prove(&self, state: &mut State, case: &Case, choice: Choice) -> Verdict {
        (self.say)(&format!("proving the kernel `{choice}` on {}, once: {case}", self.on.device));
        let verdicts = self.prover.prove(case, &[choice], false);
        let verdict = verdicts.into_iter().next().unwrap_or(Verdict::Unable("no verdict".into()));
        let entry = Entry::new(&self.on, case, [(choice, verdict.clone())]);
        if let Some(path) = self.path.as_deref().filter(|_| !entry.tried.is_empty())
            && let Err(error) = Table::update(path, entry.clone())
        {
            (self.say)(&format!("what was proved is not kept: {error}"));
        }
        state.table.add(entry);
        verdict
    }
}

impl Chooser for Decider {
    fn choose(&self, case: &Case, model: Choice) -> Result<Choice> {
        let state = &mut *self.state();
        if let Some(&choice) = state.chosen.get(case) {
            return Ok(choice);
        }
        let mode = self.mode(state);
        let choice = match mode {
            Mode::Proved => self.proved(state, case, model),
            Mode::Model => model,
            Mode::Reference => case.reference(),
        };
        if mode == Mode::Proved {
            state.records.iter_mut().try_for_each(|(_, record)| record.note(case, choice))?;
        }
        state.chosen.insert(case.clone(), choice);
        Ok(choice)
    }

    fn keep(&self, record: &Path, anew: bool) -> Result<Option<Kept>> {
        let state = &mut *self.state();
        let record_of_run = Record::open(record, anew, self.mode(state))?;
        if let Some(asked) = self.asked.filter(|&asked| asked != record_of_run.mode) {
            let (asked, began) = (asked.name(), record_of_run.mode.name());
            return Err(Error::Usage(format!(
                "--kernels {asked}: this run began with --kernels {began} ({}); go on with that, or choose another --out",
                record.display()
            )));
        }
        state.count += 1;
        state.records.push((state.count, record_of_run));
        state.chosen.clear();
        Ok(Some(Box::new(Open { state: self.state.clone(), number: state.count })))
    }
}

/// A record that is being kept.
struct Open {
    state: Arc<Mutex<State>>,
    number: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = whole(&self.state);
        state.records.retain(|(number, _)| *number != self.number);
        state.chosen.clear();
    }
}

/// The maps are whole whenever the lock is free.
fn whole(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::device::gpu::choice::Operation;
    use crate::dtype::DType;

    fn case(m: usize) -> Case {
        let sizes = vec![m, 1280, 11520, 0];
        Case { operation: Operation::MatmulNt, dtype: DType::Bf16, sizes, added: Vec::new(), any: false }
    }

    fn choice(text: &str) -> Choice {
        text.parse().unwrap()
    }

    fn on() -> Identity {
        Identity { device: "a card".into(), capability: "9.0".into(), driver: "1".into(), kernels: "abc".into() }
    }

    /// Without a program that could prove anything.
    fn decider(asked: Option<Mode>, table: &Path) -> Decider {
        let prover = Prover::new("/there/is/no/such/program".into(), "cuda", Duration::from_secs(1));
        Decider::new([asked, Some(Mode::Proved)], on(), Some(table.into()), prover, Box::new(|_| {}))
    }

    #[test]
    fn a_choice_follows_from_mode_and_table() {
        let dir = tempfile::tempdir().unwrap();
        let table = dir.path().join("tuning.json");
        let chosen = |mode, m| decider(mode, &table).choose(&case(m), choice("large x 4")).unwrap().to_string();
        assert_eq!(chosen(Some(Mode::Model), 64), "large x 4");
        // Nothing has proved itself, and nothing can.
        assert_eq!(chosen(None, 64), "small");
        let timed = |seconds| Verdict::Timed { seconds, reference: 1.0 };
        let tried = [(choice("tall"), timed(0.5)), (choice("large x 4"), timed(0.7))];
        Table::update(&table, Entry::new(&on(), &case(64), tried)).unwrap();
        assert_eq!(chosen(None, 64), "tall");
        assert_eq!(chosen(None, 128), "large x 4");
        assert_eq!(chosen(Some(Mode::Reference), 64), "small");
    }

    #[test]
    fn a_run_goes_on_as_it_began() {
        let dir = tempfile::tempdir().unwrap();
        let (table, record) = (dir.path().join("tuning.json"), dir.path().join("kernels.jsonl"));
        let timed = |seconds| Verdict::Timed { seconds, reference: 1.0 };
        Table::update(&table, Entry::new(&on(), &case(64), [(choice("large x 4"), timed(0.7))])).unwrap();
        let chosen = |asked, anew| {
            let decider = decider(asked, &table);
            let kept = decider.keep(&record, anew)?;
            let choice = decider.choose(&case(64), choice("small"))?;
            drop(kept);
            Ok::<_, Error>(choice.to_string())
        };
        assert_eq!(chosen(None, true).unwrap(), "large x 4");
        // What is found meanwhile is for other runs.
        Table::update(&table, Entry::new(&on(), &case(64), [(choice("tall"), timed(0.2))])).unwrap();
        assert_eq!(chosen(None, false).unwrap(), "large x 4");
        let error = chosen(Some(Mode::Reference), false).unwrap_err().to_string();
        assert!(error.contains("--kernels reference: this run began with --kernels proved"), "{error}");
        assert_eq!(chosen(None, true).unwrap(), "tall");
        assert_eq!(chosen(Some(Mode::Reference), true).unwrap(), "small");
        // And a plain one stays plain.
        assert_eq!(chosen(None, false).unwrap(), "small");
    }
}
