//! `selma associate --images`: groups of prompts, and a judge that says which image belongs to which.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::associate::{Similarities, ask, groups, score};
use crate::cli::progress::Progress;
use crate::cli::{Common, input};
use crate::error::{Error, Result};
use crate::evaluate::folder::{self, Entry};
use crate::evaluate::replies::Replies;
use crate::judges::clip::{Clip, cosine, stacked};
use crate::judges::kind::Kind;
use crate::judges::preprocess::{DecodedImage, Recipe};
use crate::metrics::Features;
use crate::prompting::llm::{EndpointOptions, Role};
use crate::tensor::{DType, Tensor};

/// How prompts are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Together {
    /// Each with those whose texts are nearest, by CLIP.
    Hard,
    /// By chance.
    Random,
}

#[derive(clap::Args)]
#[command(next_help_heading = "Images")]
pub(super) struct ImageOptions {
    /// Images with metadata.jsonl; of a prompt's images, the first counts.
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Sizes of groups, with commas.
    #[arg(long, value_name = "K", value_delimiter = ',', default_value = "3,5", requires = "images")]
    groups: Vec<usize>,
    /// How prompts are put into groups.
    #[arg(long, value_enum, default_value = "hard", requires = "images")]
    together: Together,
    /// The CLIP that compares images and texts: a folder, a file, or an id of the hub [default: CLIPScore's].
    #[arg(long, value_name = "MODEL", requires = "images")]
    clip: Option<String>,
    /// A language model that sees is asked as well: an OpenAI-compatible endpoint.
    #[arg(long, value_name = "URL", requires_all = ["llm_model", "images", "out"], conflicts_with = "replay")]
    llm: Option<String>,
    /// The model that the endpoint is asked for.
    #[arg(long, value_name = "NAME")]
    llm_model: Option<String>,
    /// Recorded replies of such a model, instead of the endpoint.
    #[arg(long, value_name = "FILE", requires = "images")]
    replay: Option<PathBuf>,
    #[command(flatten)]
    endpoint: EndpointOptions,
}

impl ImageOptions {
    /// Whether images are given.
    pub fn asked(&self) -> bool {
        self.images.is_some()
    }

    /// The scores of each judge, and the groups: for each the file names of its images.
    ///
    /// # Errors
    /// [`Error::Usage`] for groups that the prompts do not fill; those of the judges.
    pub fn run(&self, out: Option<&Path>, common: &Common) -> Result<(Value, Value)> {
        self.endpoint.check("--")?;
        let dir = self.images.as_deref().unwrap_or(Path::new(""));
        input::check([("--images", Some(dir)), ("--replay", self.replay.as_deref())])?;
        let entries = first_of_each_prompt(folder::list(dir)?.0);
        if let Some(k) = self.groups.iter().find(|&&k| !(2..=8).contains(&k) || k > entries.len()) {
            let most = entries.len();
            return Err(Error::Usage(format!(
                "--groups {k}: expected 2 to 8, and at most the {most} different prompts"
            )));
        }
        let mut replies = self.replies(out, common)?;
        let dtype = if common.precision == "auto" { DType::F32 } else { common.precision()? };
        let place = common.judge(self.clip.as_deref().unwrap_or(Kind::ClipScore.published()))?;
        let clip = Clip::load(&place, &common.device()?, dtype)?;
        let prompts: Vec<&str> = entries.iter().map(|entry| entry.prompt.as_str()).collect();
        let texts = prompts.chunks(8).map(|some| clip.text_embeds(some)).collect::<Result<Vec<_>>>()?.concat();
        let images = self.image_embeds(&clip, &entries, common)?;
        let (mut made, mut judged) = (Vec::new(), serde_json::Map::new());
        let mut matrices: Vec<(usize, Similarities)> = Vec::new();
        let mut said: Vec<(usize, Vec<Vec<usize>>)> = Vec::new();
        let mut number = 0;
        for &k in &self.groups {
            let groups = match self.together {
                Together::Hard => groups::hard(&features(&texts)?, k, common.seed())?,
                Together::Random => groups::random(entries.len(), k, common.seed())?,
            };
            let mut assigned = Vec::new();
            for group in groups {
                let row = |&i: &usize| group.iter().map(|&j| cosine(&images[i], &texts[j])).collect();
                matrices.push((number, group.iter().map(row).collect()));
                if let Some(replies) = &mut replies {
                    let paths: Vec<&Path> = group.iter().map(|&i| entries[i].path.as_path()).collect();
                    let own: Vec<&str> = group.iter().map(|&i| prompts[i]).collect();
                    assigned.push(ask::assigned(replies, number as u64, &paths, &own, common.seed())?);
                }
                let names: Vec<&str> = group.iter().map(|&i| entries[i].file_name.as_str()).collect();
                made.push(json!({"k": k, "images": names}));
                number += 1;
            }
            said.push((k, assigned));
        }
        let clip_scores = super::score_groups(matrices, common).map_err(|(_, e)| e)?;
        judged.insert("clip".into(), json!({"weights_sha256": clip.hash, "scores": clip_scores}));
        if replies.is_some() {
            let mut rows = Vec::new();
            for (k, assigned) in &said {
                let Some(score) = score(assigned) else { continue };
                let (exact, one) = crate::associate::Rule::Assignment.chance(*k);
                if !common.json {
                    outln!(
                        "groups of {k}, language model: {:.1} % exact (chance {:.1}), {:.1} % of images (chance {:.1}); {} groups",
                        100.0 * score.exact,
                        100.0 * exact,
                        100.0 * score.per_image,
                        100.0 * one,
                        score.groups
                    );
                }
                rows.push(json!({"k": k, "exact": score.exact, "per_picture": score.per_image, "groups": score.groups,
                                 "chance": {"exact": exact, "per_picture": one}}));
            }
            judged.insert("language_model".into(), Value::Array(rows));
        }
        Ok((Value::Object(judged), Value::Array(made)))
    }

    fn replies(&self, out: Option<&Path>, common: &Common) -> Result<Option<Replies>> {
        if let Some(file) = &self.replay {
            return Replies::replay(file).map(Some);
        }
        let (Some(url), Some(out)) = (&self.llm, out) else { return Ok(None) };
        let model = self.llm_model.as_deref().unwrap_or_default();
        let client = common.client(&self.endpoint, Role::Questioner, ("--llm", url), model, None)?;
        Replies::endpoint(client, &out.with_extension("replies.jsonl")).map(Some)
    }

    fn image_embeds(&self, clip: &Clip, entries: &[Entry], common: &Common) -> Result<Vec<Vec<f64>>> {
        let mut progress = Progress::new(common, "images", entries.len());
        let mut all = Vec::new();
        for entry in entries {
            let pixels = Recipe::ClipOpenai.apply(&DecodedImage::read(&entry.path)?, clip.model.image_size());
            let pixels = pixels.map_err(|why| Error::file(&entry.path, why.to_string()))?;
            all.extend(clip.image_embeds(&stacked(&[pixels.values])?)?);
            progress.set(all.len() as u64);
        }
        progress.finish();
        Ok(all)
    }
}

fn first_of_each_prompt(entries: Vec<Entry>) -> Vec<Entry> {
    let mut kept: Vec<Entry> = Vec::new();
    for entry in entries {
        if !kept.iter().any(|other| other.prompt == entry.prompt) {
            kept.push(entry);
        }
    }
    kept
}

fn features(rows: &[Vec<f64>]) -> Result<Features> {
    let width = rows.first().map_or(0, Vec::len);
    Features::new(&Tensor::from_reals(rows.concat(), &[rows.len(), width], DType::F32))
}
