//! `selma spatial`: prompts about relations, and how often images show them.

mod layout;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::json;

use crate::cli::{Common, input};
use crate::error::{Error, Result};
use crate::evaluate::questions::dsg;
use crate::evaluate::scores::Scores;
use crate::formats::atomic;
use crate::spatial::suite::{self, PREPOSITIONS};
use crate::spatial::visor::{Asked, Seen, Summary, both, summary};
use crate::spatial::{Relation, answers, asks, detections};

/// Test whether images show spatial relations.
#[derive(clap::Args)]
pub struct Spatial {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    Make(Make),
    Layout(Box<layout::Layout>),
    Score(Score),
}

/// Write prompts for spatial relations between two or three objects.
///
/// Prompts of asymmetric relations get a partner with the two objects exchanged. `selma generate --prompts` draws them; name
/// the images PROMPT_K, K from 0 on, for a detector.
#[derive(clap::Args)]
struct Make {
    /// The objects, with commas.
    #[arg(long, value_name = "NOUNS", value_delimiter = ',', required = true)]
    objects: Vec<String>,
    /// The prepositions, with commas [default: above, below, on, among, around, beside, in front of, behind, between,
    /// inside].
    #[arg(long, value_name = "PREPOSITIONS", value_delimiter = ',')]
    relations: Vec<String>,
    /// Prompts for each preposition, partners not counted.
    #[arg(long, default_value_t = 10)]
    count: usize,
    /// Further prompts of two relations each, such as `a cube above a ball, with a cone behind the cube`; partners not counted.
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    two_relations: usize,
    /// The prompts, as JSON.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Their questions too, as CSV with DSG's columns: `selma eval --benchmark dsg --questions` has a judge answer them.
    #[arg(long, value_name = "FILE")]
    questions: Option<PathBuf>,
    /// Replace the file if it is there.
    #[arg(long)]
    overwrite: bool,
}

/// Score images by what a detector saw in them, with VISOR's shares.
///
/// in front of, behind, around and among cannot be told from boxes: they are listed without a score. A judge that answers
/// questions can tell them: give its scores by --scores.
#[derive(clap::Args)]
struct Score {
    /// Prompts of `selma spatial make`, or an object {id: {a, b, rel}} as VISOR's.
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// {"PROMPT_K": [{"label", "score", "box": [x1, y1, x2, y2]}]}, K from 0 on, pixels, y down.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["results", "scores"])]
    detections: Option<PathBuf>,
    /// Instead, a result file of VISOR's authors: {"PROMPT_K": {"classes", "sra"}}.
    #[arg(long, value_name = "FILE", conflicts_with = "detections")]
    results: Option<PathBuf>,
    /// Instead, scores of `selma eval --benchmark dsg` on the suite's questions.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["detections", "results"])]
    scores: Option<PathBuf>,
    /// Detections count above this score.
    #[arg(long, default_value_t = detections::THRESHOLD)]
    threshold: f64,
    /// The shares, as JSON.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace the file if it is there.
    #[arg(long)]
    overwrite: bool,
}

impl Spatial {
    pub fn run(self, common: &Common) -> Result<()> {
        match self.command {
            Command::Make(make) => make.run(common),
            Command::Layout(layout) => layout.run(common),
            Command::Score(score) => score.run(common),
        }
    }
}

impl Make {
    fn run(self, common: &Common) -> Result<()> {
        let outs = [Some(&self.out), self.questions.as_ref()];
        outs.into_iter().flatten().try_for_each(|out| super::refuse_existing(out, self.overwrite))?;
        let named = |name: &String| Relation::parse(name).map_err(|e| Error::Usage(format!("--relations: {e}")));
        let relations: Vec<Relation> = match self.relations.is_empty() {
            true => PREPOSITIONS.to_vec(),
            false => self.relations.iter().map(named).collect::<Result<_>>()?,
        };
        let objects: Vec<String> = self.objects.iter().map(|object| object.trim().to_owned()).collect();
        let mut prompts = suite::make(&objects, &relations, self.count, common.seed())?;
        if self.two_relations > 0 {
            prompts.extend(suite::make_pairs(&objects, &relations, self.two_relations, common.seed())?);
        }
        suite::write(&self.out, &prompts)?;
        if let Some(file) = &self.questions {
            dsg::write(file, &answers::questions(&prompts))?;
        }
        let swapped = prompts.iter().filter(|prompt| prompt.swap_of.is_some()).count();
        match common.json {
            true => outjson!(json!({"out": self.out, "prompts": prompts.len(), "swapped": swapped})),
            false => outln!("{}: {} prompts, {swapped} of them partners", self.out.display(), prompts.len()),
        }
        Ok(())
    }
}

impl Score {
    fn run(self, common: &Common) -> Result<()> {
        if let Some(out) = &self.out {
            super::refuse_existing(out, self.overwrite)?;
        }
        input::check([
            ("--prompts", Some(self.prompts.as_path())),
            ("--detections", self.detections.as_deref()),
            ("--results", self.results.as_deref()),
            ("--scores", self.scores.as_deref()),
        ])?;
        let prompts = asks::read(&self.prompts)?;
        let (found, recorded, answered);
        let (file, groups) = match (&self.detections, &self.results, &self.scores) {
            (Some(file), ..) => {
                found = detections::read(file)?;
                let seen = |asked: &_, found: &Vec<_>| detections::seen(asked, found, self.threshold);
                (file, detections::by_prompt(&prompts, &found, seen))
            }
            (_, _, Some(file)) => {
                answered = answers::by_image(&Scores::read(file)?).map_err(|e| Error::file(file, e.to_string()))?;
                let seen = |asked: &_, answers: &Vec<_>| answers::seen(asked, answers);
                (file, detections::by_prompt(&prompts, &answered, seen))
            }
            (None, Some(file), _) => {
                recorded = detections::read_recorded(file)?;
                (file, detections::by_prompt(&prompts, &recorded, detections::seen_recorded))
            }
            (None, None, None) => return Err(Error::Usage("--detections: expected a file".into())),
        };
        let groups = groups.map_err(|e| Error::file(file, e.to_string()))?;
        let mut by_relation: BTreeMap<Relation, Vec<&[Seen]>> = BTreeMap::new();
        for (asked, seen) in &groups {
            by_relation.entry(asked.relation).or_default().push(seen);
        }
        let rows: Vec<(Relation, Option<Summary>)> =
            by_relation.iter().map(|(relation, seen)| (*relation, summary(seen.iter().copied()))).collect();
        let decided = rows.iter().filter(|(_, row)| row.is_some()).map(|(relation, _)| *relation);
        let decided: Vec<&[Seen]> = decided.flat_map(|relation| by_relation[&relation].iter().copied()).collect();
        let all = summary(decided);
        let undecided: Vec<&str> = rows.iter().filter(|(_, row)| row.is_none()).map(|(r, _)| r.name()).collect();
        let relations: serde_json::Map<_, _> = rows.iter().map(|(r, row)| (r.name().to_owned(), json!(row))).collect();
        let of_two = both_relations(&groups);
        let ids = |all: &mut dyn Iterator<Item = &str>| all.collect::<BTreeSet<&str>>().len();
        let without_images = ids(&mut prompts.prompts.iter().map(|asked| asked.id.as_str()))
            - ids(&mut groups.iter().map(|(asked, _)| asked.id.as_str()));
        let report = json!({"threshold": self.threshold, "all": all, "relations": relations,
                            "both_relations": of_two.as_ref().map(|row| json!(row)), "not_told_by_boxes": undecided, "prompts_without_pictures": without_images});
        if let Some(out) = &self.out {
            atomic::write(out, |w| writeln!(w, "{report:#}"))?;
        }
        if common.json {
            outjson!(report);
            return Ok(());
        }
        outln!(
            "{:<16} {:>8} {:>7} {:>7} {:>7} {:>7}  VISOR 1 / 2 / 3 / 4",
            "relation",
            "images",
            "OA",
            "cond",
            "uncond",
            "opposite"
        );
        for (relation, row) in &rows {
            print_row(relation.name(), row.as_ref());
        }
        print_row("all", all.as_ref());
        if let Some(row) = &of_two {
            print_row("both of two", row.as_ref());
        }
        if without_images > 0 {
            common.note(format!("{without_images} prompts have no image"));
        }
        if let Some(short) = all.map(|all| all.short_prompts).filter(|&n| n > 0) {
            common.note(format!("{short} prompts have fewer than four images, so VISOR 4 is too low for them"));
        }
        Ok(())
    }
}

/// The prompts of two relations, held where both are; none where there is no such prompt.
fn both_relations(groups: &[(&Asked, Vec<Seen>)]) -> Option<Option<Summary>> {
    let pairs = groups.windows(2).filter(|pair| pair[0].0.id == pair[1].0.id);
    let whole = |pair: &[(&Asked, Vec<Seen>)]| -> Vec<Seen> {
        pair[0].1.iter().zip(&pair[1].1).map(|(first, second)| both(*first, *second)).collect()
    };
    let whole: Vec<Vec<Seen>> = pairs.map(whole).collect();
    (!whole.is_empty()).then(|| summary(whole.iter().map(Vec::as_slice)))
}

fn print_row(name: &str, row: Option<&Summary>) {
    let Some(row) = row else {
        return outln!("{name:<16} boxes cannot tell");
    };
    let cond = row.cond.map_or("-".into(), |cond| format!("{cond:.2}"));
    outln!(
        "{name:<16} {:>8} {:>7.2} {cond:>7} {:>7.2} {:>8}  {:.1} / {:.1} / {:.1} / {:.1}",
        row.images,
        row.both,
        row.uncond,
        row.opposite,
        row.visor_1,
        row.visor_2,
        row.visor_3,
        row.visor_4
    );
}
