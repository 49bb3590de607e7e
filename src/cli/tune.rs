//! `selma selfcheck --tune`: kernels that do the same prove it on this GPU, and the fastest are found.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::bench::launches::ListedStep;
use crate::cli::Common;
use crate::device::gpu::Gpu;
use crate::device::gpu::choice::{Case, Choice};
use crate::device::gpu::identity::Identity;
use crate::error::{Error, Result};
use crate::formats::model_dir::ModelDir;
use crate::nn::Config;
use crate::tuning::Verdict;
use crate::tuning::child::{self, TIME_LIMIT};
use crate::tuning::table::{Entry, Table};

/// Pixels of a side for each latent.
const DOWNSCALE: usize = 8;

#[derive(clap::Args)]
pub struct Tune {
    /// Try and time the kernels for the products and convolutions of a LoRA training step: sd15_512, sdxl_1024 or tiny; or of
    /// --model. Each proves on the real shape, in a process of its own, that it gives the plain kernel's results. What is found
    /// goes to tuning.json in the cache ($XDG_CACHE_HOME/selma), which runs on this GPU obey; what is there already is not tried
    /// again.
    #[arg(long, value_name = "STEP", num_args = 0..=1, default_missing_value = "sd15_512", conflicts_with_all = ["full", "small"])]
    tune: Option<String>,
    /// With --tune: the model that is trained, as for `selma train`.
    #[arg(long, requires = "tune")]
    model: Option<PathBuf>,
    /// With --tune: samples of a micro-batch.
    #[arg(long, default_value_t = 16, requires = "tune", value_parser = clap::value_parser!(u16).range(1..=64))]
    batch_size: u16,
    /// With --tune: rank of the LoRA [default: 128; of tiny 8]
    #[arg(long, requires = "tune", value_parser = clap::value_parser!(u16).range(1..))]
    rank: Option<u16>,
    /// With --tune: pixels of a side [default: the model's]
    #[arg(long, requires = "tune", value_parser = clap::value_parser!(u16).range(64..))]
    resolution: Option<u16>,
    /// With --tune: only shapes whose row contains this, such as conv_dgrad.
    #[arg(long, value_name = "TEXT", requires = "tune")]
    only: Option<String>,
    /// With --tune: seconds after which a kernel counts as one that hangs.
    #[arg(long, default_value_t = TIME_LIMIT.as_secs_f64(), requires = "tune")]
    time_limit: f64,
    /// Do a proof whose job is on standard input.
    #[arg(long, hide = true)]
    prove: bool,
}

/// What came of all.
#[derive(Default)]
struct Total {
    shapes: usize,
    refused: usize,
    /// Why something could not be tried.
    unable: Vec<String>,
}

impl Tune {
    pub fn is_asked(&self) -> bool {
        self.tune.is_some() || self.prove
    }

    /// Tries the candidates of each shape, and prints a row for it.
    ///
    /// # Errors
    /// For an unknown step, or a model that cannot be read; [`Error::Failed`] where something could not be tried.
    pub fn run(self, gpu: &Gpu, common: &Common) -> Result<()> {
        if self.prove {
            return child::serve(gpu);
        }
        if !(self.time_limit.is_finite() && self.time_limit > 0.0) {
            let message = format!("--time-limit {}: expected seconds, more than 0", self.time_limit);
            return Err(Error::Usage(message));
        }
        let path = Table::path().ok_or_else(|| {
            Error::Failed("no place for what is found: set HOME or XDG_CACHE_HOME to a folder".into())
        })?;
        let mut choices = self.step(common)?.choices(common.precision()?)?;
        choices.retain(|(case, _)| self.only.as_deref().is_none_or(|text| case.to_string().contains(text)));
        if choices.is_empty() {
            let only = self.only.unwrap_or_default();
            let message = format!("--only {only}: no product and no convolution of this step has that in its row");
            return Err(Error::Usage(message));
        }
        let (mut table, note) = Table::read(&path);
        note.iter().for_each(|note| common.note(note));
        let on = gpu.identity();
        common.note(format!("{}: {} shapes; what is found goes to {}", gpu.name(), choices.len(), path.display()));
        let prover = common.prover(Duration::from_secs_f64(self.time_limit));
        let mut total = Total::default();
        for (case, model) in &choices {
            let known = table.entry(&on, case).cloned();
            let candidates = untried(case, *model, gpu.runs_hopper(), known.as_ref());
            let verdicts = prover.prove(case, &candidates, true);
            total.note(case, &verdicts);
            let entry = Entry::new(&on, case, candidates.into_iter().zip(verdicts));
            if !entry.tried.is_empty() {
                Table::update(&path, entry.clone())?;
                table.add(entry);
            }
            show(&table, &on, case, common);
        }
        total.end(common)
    }

    /// The training step whose shapes are meant.
    fn step(&self, common: &Common) -> Result<ListedStep> {
        let batch = self.batch_size.into();
        let mut step = match &self.model {
            None => ListedStep::named(self.tune.as_deref().unwrap_or_default(), batch)?,
            Some(model) => {
                let files = ModelDir::open(&common.model(model)?)?;
                let config = Config::open(&files.unet.join("config.json"))?.into_value();
                let latent = config["sample_size"].as_u64().unwrap_or(64) as usize;
                ListedStep { config, latent, batch, ..ListedStep::named("sd15_512", batch)? }
            }
        };
        step.rank = self.rank.map_or(step.rank, usize::from);
        step.latent = self.resolution.map_or(step.latent, |side| usize::from(side).div_ceil(DOWNSCALE));
        Ok(step)
    }
}

/// Candidates that nothing is known of, that of the cost model among them.
fn untried(case: &Case, model: Choice, hopper: bool, known: Option<&Entry>) -> Vec<Choice> {
    let mut candidates = case.candidates(hopper);
    if model != case.reference() && case.permits(model) && !candidates.contains(&model) {
        candidates.push(model);
    }
    let is_known = |choice: &Choice| {
        let verdict = known.and_then(|entry| entry.of(*choice));
        verdict.is_some_and(|verdict| *verdict != Verdict::Proved)
    };
    candidates.retain(|choice| !is_known(choice));
    candidates
}

/// The row of a shape.
fn show(table: &Table, on: &Identity, case: &Case, common: &Common) {
    let entry = table.entry(on, case);
    let (best, tried) = (entry.and_then(|entry| entry.best), entry.map_or(&[][..], |entry| &entry.tried));
    if common.json {
        outjson!(json!({ "case": case, "best": best, "tried": tried }));
        return;
    }
    let times = best.and_then(|best| match *entry?.of(best)? {
        Verdict::Timed { seconds, reference } => Some(format!("{:.3} of {:.3} ms", seconds * 1e3, reference * 1e3)),
        _ => None,
    });
    let best = best.unwrap_or(case.reference()).to_string();
    outln!("{:<64} {best:<10} {}", case.to_string(), times.unwrap_or_else(|| "the plain one".into()));
    for tried in tried {
        if let Verdict::Refused(why) = &tried.verdict {
            outln!("  refused {}: {why}", tried.choice);
        }
    }
}

impl Total {
    fn note(&mut self, case: &Case, verdicts: &[Verdict]) {
        self.shapes += 1;
        self.refused += verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Refused(_))).count();
        let unable = verdicts.iter().find_map(|verdict| match verdict {
            Verdict::Unable(why) => Some(format!("{case}: {why}")),
            _ => None,
        });
        self.unable.extend(unable);
    }

    fn end(self, common: &Common) -> Result<()> {
        if self.refused > 0 {
            common.note(format!("{} candidates were refused; runs do without them", self.refused));
        }
        match self.unable.first() {
            None => Ok(()),
            Some(first) => {
                let (count, shapes) = (self.unable.len(), self.shapes);
                Err(Error::Failed(format!("{count} of {shapes} shapes could not be tried to the end, such as {first}")))
            }
        }
    }
}
