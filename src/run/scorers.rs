//! The scorers of `[judge.scorers]`: further columns of an evaluation, and what `by` selects and chooses with.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Run;
use super::evaluate::BASE;
use super::summary::{ArmScores, Compared, comparisons, means};
use crate::error::{Error, Result};
use crate::evaluate::comparison::Comparison;
use crate::evaluate::folder::Entry;
use crate::evaluate::scorers::{self, ValueCache};
use crate::evaluate::scores::Scores;
use crate::judges::files::Files;
use crate::judges::kind::Kind;
use crate::judges::scorer::{Place, Scorer};
use crate::tensor::DType;
use crate::train::watcher::Watcher;

/// The CLIP of an aesthetic head that comes alone.
pub(super) const AESTHETIC_CLIP: &str = "aesthetic-clip";

/// What one scorer says of every arm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    pub benchmark: String,
    /// Formula, weights and recipe.
    pub judge: String,
    pub arms: Vec<ArmScores>,
    /// The pairs that the benchmark compares.
    pub comparisons: Vec<Compared>,
}

/// Those whose weights the run file names.
fn kinds(run: &Run) -> Vec<Kind> {
    let named = &run.config.judge.scorers;
    Kind::ALL.into_iter().filter(|kind| named.contains_key(kind.name())).collect()
}

/// Those whose weights it does not name.
pub(super) fn not_measured(run: &Run) -> Vec<Kind> {
    let measured = kinds(run);
    Kind::ALL.into_iter().filter(|kind| !measured.contains(kind)).collect()
}

/// The weights of all scorers, or of `only` one, as an input; none where there are none, so that runs without them stay as
/// they are.
///
/// # Errors
/// What is wrong with the files.
pub(super) fn input(run: &Run, only: Option<&str>) -> Result<Option<String>> {
    let of = |name: &str| match only {
        None => true,
        Some(only) => name == only || (name == AESTHETIC_CLIP && only == Kind::Aesthetic.name()),
    };
    let named = run.config.judge.scorers.iter().filter(|(name, _)| of(name));
    let hashes =
        named.map(|(name, weights)| Ok(format!("{name} {}", hash(run, weights)?))).collect::<Result<Vec<_>>>()?;
    Ok((!hashes.is_empty()).then(|| hashes.join(", ")))
}

/// BLIP-VQA as an input; none where others answer.
///
/// # Errors
/// What is wrong with its files.
pub(super) fn blip_input(run: &Run) -> Result<Option<String>> {
    let judge = &run.config.judge;
    let of = |weights: &String| Ok(format!("{} {:?}", hash(run, weights)?, judge.answer_form));
    judge.blip_vqa.as_ref().map(of).transpose()
}

/// What selection and choice go by beside the benchmark, as an input.
///
/// # Errors
/// As [`input`].
pub(super) fn by_input(run: &Run) -> Result<Option<String>> {
    match &run.config.judge.by {
        Some(by) => input(run, Some(by)),
        None => blip_input(run),
    }
}

/// Of a judge's files, once a run.
fn hash(run: &Run, weights: &str) -> Result<String> {
    let key = (PathBuf::from(weights), Some(PathBuf::from("judge")));
    if let Some(hash) = run.models.borrow().get(&key) {
        return Ok(hash.clone());
    }
    let hash = Files::find(Path::new(weights))?.hash()?;
    run.models.borrow_mut().insert(key, hash.clone());
    Ok(hash)
}

/// In f32 on the device of the run.
///
/// # Errors
/// As [`Scorer::load`].
pub(super) fn load(run: &Run, kind: Kind) -> Result<Scorer> {
    let of = |name: &str| run.config.judge.scorers.get(name).map(PathBuf::from);
    let weights = of(kind.name()).ok_or_else(|| Error::Failed(format!("[judge.scorers]: no {}", kind.name())))?;
    let clip = if kind == Kind::Aesthetic { of(AESTHETIC_CLIP) } else { None };
    Scorer::load(kind, &Place { weights, clip }, &run.device, DType::F32)
}

/// What networks made of the run's images. It is never removed, so that an image is looked at once.
///
/// # Errors
/// As [`ValueCache::open`].
pub(super) fn cache(run: &Run, name: &str) -> Result<ValueCache> {
    let path = run.folder.path(format!("judge/{name}.values.jsonl"));
    let folder = path.parent().unwrap_or(Path::new(""));
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    ValueCache::open(&path)
}

/// The scores of images, telling how far it is.
///
/// # Errors
/// As [`scorers::evaluate`]; [`Error::Interrupted`].
pub(super) fn score(
    run: &Run,
    scorer: &Scorer,
    entries: &[Entry],
    cache: &ValueCache,
    watcher: &mut dyn Watcher,
) -> Result<Scores> {
    scorers::evaluate(scorer, entries, cache, run.config.seed, &mut |done| {
        if watcher.stopped() {
            let message = "stopped; what the scorers computed is kept, and the same command goes on";
            return Err(Error::Interrupted(message.into()));
        }
        watcher.prepared("images scored", done, entries.len());
        Ok(())
    })
}

/// Every scorer on the images that every arm drew for the first benchmark, one network in memory at a time. The scores of an arm are in
/// `evaluate/ARM/scores.NAME.json`.
///
/// # Errors
/// As [`load`] and [`score`].
pub(super) fn columns(run: &Run, arms: &[(&str, Vec<Entry>)], watcher: &mut dyn Watcher) -> Result<Vec<Column>> {
    let path = |arm: &str, kind: Kind| run.folder.path(format!("evaluate/{arm}/scores.{}.json", kind.name()));
    // Of scorers that the run file named before.
    for kind in not_measured(run) {
        for (arm, _) in arms {
            match std::fs::remove_file(path(arm, kind)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(path(arm, kind), e)),
                _ => {}
            }
        }
    }
    let kinds = kinds(run);
    if kinds.is_empty() {
        return Ok(Vec::new());
    }
    let cache = cache(run, "evaluate")?;
    let mut columns = Vec::new();
    for kind in kinds {
        watcher.note(&format!("evaluate: {}", kind.name()));
        let scorer = load(run, kind)?;
        let mut all: Vec<(String, Scores)> = Vec::new();
        for (arm, entries) in arms {
            all.push(((*arm).into(), score(run, &scorer, entries, &cache, watcher)?));
        }
        let base = all[0].1.clone();
        for (arm, scores) in &mut all {
            if arm != BASE {
                scores.against = Some(Comparison::of(scores, &base)?);
            }
            scores.write(&path(arm, kind))?;
        }
        columns.push(Column {
            benchmark: kind.name().into(),
            judge: scorer.describe(),
            arms: means(&all),
            comparisons: comparisons(&all)?,
        });
    }
    Ok(columns)
}
