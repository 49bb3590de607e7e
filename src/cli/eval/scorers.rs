//! `selma eval --benchmark clipscore,..`: scorers of one number an image, each with a file of its own.

use std::path::{Path, PathBuf};

use super::{Eval, report};
use crate::cli::Common;
use crate::cli::progress::Progress;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::evaluate::comparison::Comparison;
use crate::evaluate::folder::Entry;
use crate::evaluate::scorers::{self, ValueCache};
use crate::evaluate::scores::Scores;
use crate::judges::kind::Kind;
use crate::judges::scorer::{Place, Scorer};
use crate::tensor::DType;

/// The CLIP of a file with the aesthetic head alone.
const AESTHETIC_CLIP: &str = "aesthetic-clip";
/// Weights that are not a scorer's.
pub const BLIP_VQA: &str = "blip-vqa";

/// The scorers that `--benchmark` names; none where it names another benchmark.
///
/// # Errors
/// [`Error::Usage`] where it names both.
pub fn kinds(benchmark: &str) -> Result<Option<Vec<Kind>>> {
    let names: Vec<&str> = benchmark.split(',').map(str::trim).collect();
    let found: Vec<Option<Kind>> = names.iter().map(|name| Kind::parse(name)).collect();
    match found.iter().position(Option::is_none) {
        None => {}
        Some(_) if names.len() == 1 => return Ok(None),
        Some(odd) => {
            let all: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            let message =
                format!("--benchmark {}: together with others, expected some of {}", names[odd], all.join(", "));
            return Err(Error::Usage(message));
        }
    }
    let mut kinds: Vec<Kind> = Vec::new();
    for kind in found.into_iter().flatten() {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    Ok(Some(kinds))
}

/// Scores the images by each, one network in memory at a time.
///
/// # Errors
/// [`Error::Usage`] for options that do not fit together; whatever is wrong with images and weights.
pub fn run(eval: &Eval, kinds: &[Kind], common: &Common) -> Result<()> {
    for (given, option) in [(&eval.judge, "--judge"), (&eval.judge_model, "--judge-model")] {
        if given.is_some() {
            return Err(Error::Usage(format!("{option}: scorers of one number an image ask nobody; use --weights")));
        }
    }
    if eval.questions.is_some() || eval.answers.is_some() {
        return Err(Error::Usage("--questions and --answers are for dsg and tifa".into()));
    }
    let dir = eval.images.as_deref().ok_or_else(|| Error::Usage("--images: expected a folder".into()))?;
    let places = places(&eval.weights, kinds)?;
    let outs: Vec<PathBuf> = kinds.iter().map(|kind| of_kind(&eval.out, *kind, kinds.len())).collect();
    outs.iter().try_for_each(|out| eval.overwrite.check(out))?;
    let entries = eval.entries(dir, &[], common)?;
    let other = eval.against.as_deref().filter(|path| path.is_dir());
    let others = other.map(|dir| eval.entries(dir, &[], common)).transpose()?;
    let cache = ValueCache::open(&eval.out.with_extension("values.jsonl"))?;
    let (device, dtype) = (common.device()?, precision(common)?);
    for ((kind, place), out) in kinds.iter().zip(places).zip(&outs) {
        let work = Work { common, cache: &cache, device: &device, dtype };
        let scorer = work.load(*kind, &place)?;
        let mut scores = work.score(&scorer, &entries)?;
        if let Some(against) = &eval.against {
            let theirs = match &others {
                Some(entries) => work.score(&scorer, entries)?,
                None => Scores::read(&of_kind(against, *kind, kinds.len()))?,
            };
            scores.against = Some(Comparison::of(&scores, &theirs)?);
        }
        scores.write(out)?;
        report::print(&scores, out, eval.against.as_deref(), common);
    }
    Ok(())
}

/// f32 where it is not asked for otherwise, whatever the device: scores are compared with those of others.
pub fn precision(common: &Common) -> Result<DType> {
    if common.precision == "auto" { Ok(DType::F32) } else { common.precision() }
}

/// The weights that `--weights NAME=MODEL` gives a name.
pub fn given<'a>(weights: &'a [String], name: &str) -> Option<&'a str> {
    weights.iter().rev().find_map(|text| text.split_once('=').filter(|(n, _)| *n == name)).map(|(_, model)| model)
}

/// `scores.json` of several scorers is `scores.NAME.json` of each.
fn of_kind(out: &Path, kind: Kind, count: usize) -> PathBuf {
    match count {
        1 => out.into(),
        _ => out.with_extension(format!("{}.json", kind.name())),
    }
}

/// The images of several folders by one scorer. What networks computed is kept in the file `cache`.
///
/// # Errors
/// [`Error::Usage`] for weights of another name; whatever is wrong with images and weights.
pub fn of_folders(
    kind: Kind,
    weights: &[String],
    folders: &[Vec<Entry>],
    cache: &Path,
    common: &Common,
) -> Result<Vec<Scores>> {
    let place = places(weights, &[kind])?;
    let cache = ValueCache::open(cache)?;
    let (device, dtype) = (common.device()?, precision(common)?);
    let work = Work { common, cache: &cache, device: &device, dtype };
    let scorer = work.load(kind, &place[0])?;
    folders.iter().map(|entries| work.score(&scorer, entries)).collect()
}

fn places<'a>(weights: &'a [String], kinds: &[Kind]) -> Result<Vec<[Option<&'a str>; 2]>> {
    for text in weights {
        let name = text.split_once('=').map(|(name, _)| name);
        let known = kinds.iter().map(|kind| kind.name());
        let known: Vec<&str> = known.chain(kinds.contains(&Kind::Aesthetic).then_some(AESTHETIC_CLIP)).collect();
        if !name.is_some_and(|name| known.contains(&name)) {
            let message = format!("--weights {text}: expected NAME=MODEL with one of {}", known.join(", "));
            return Err(Error::Usage(message));
        }
    }
    let of = |kind: &Kind| {
        let clip = (*kind == Kind::Aesthetic).then(|| given(weights, AESTHETIC_CLIP)).flatten();
        [given(weights, kind.name()), clip]
    };
    Ok(kinds.iter().map(of).collect())
}

struct Work<'a> {
    common: &'a Common,
    cache: &'a ValueCache,
    device: &'a Device,
    dtype: DType,
}

impl Work<'_> {
    fn load(&self, kind: Kind, place: &[Option<&str>; 2]) -> Result<Scorer> {
        let [weights, clip] = place;
        let weights = self.common.judge(weights.unwrap_or(kind.published()))?;
        let clip = clip.map(|clip| self.common.judge(clip)).transpose()?;
        let scorer = Scorer::load(kind, &Place { weights, clip }, self.device, self.dtype)?;
        if let [first, ..] = scorer.unread()[..] {
            let count = scorer.unread().len();
            self.common.note(format!("{}: {count} tensors of its files are not used, such as {first}", kind.name()));
        }
        Ok(scorer)
    }

    fn score(&self, scorer: &Scorer, entries: &[Entry]) -> Result<Scores> {
        let mut progress = Progress::new(self.common, "images", entries.len());
        progress.message(scorer.kind.name().into());
        let seed = self.common.seed();
        let scores = scorers::evaluate(scorer, entries, self.cache, seed, &mut |done| {
            progress.set(done as u64);
            Ok(())
        });
        progress.finish();
        let scores = scores?;
        let cut = scorer.cut_prompts(entries.iter().map(|entry| entry.prompt.as_str()))?;
        if cut > 0 {
            self.common.note(format!("{}: {cut} prompts are longer than it reads, and were cut", scorer.kind.name()));
        }
        if scorer.saw_alpha() {
            let message = "some images have an alpha channel, which is dropped as the originals do";
            self.common.note(format!("warning: {message}"));
        }
        Ok(scores)
    }
}
