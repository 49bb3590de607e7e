//! `selma mix filter`: leaves out images that do not show their target class, by CLIP.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cli::progress::Progress;
use crate::cli::{Common, input};
use crate::error::{Error, Result};
use crate::formats::jsonl;
use crate::judges::clip::{Clip, cosine, stacked};
use crate::judges::kind::Kind;
use crate::judges::preprocess::{DecodedImage, Recipe};
use crate::mix::meta;
use crate::tensor::DType;

/// Leave out images that do not show their target class, by CLIP (Diff-Mix).
///
/// An image is kept where it is nearer to "a photo with a CLASS on it" than to "a photo without a CLASS on it". Nothing is
/// removed: --out gets labels.kept.jsonl and meta.kept.csv, and filter.jsonl with both similarities of every image.
#[derive(clap::Args)]
pub(super) struct Filter {
    /// Folder of `selma mix generate`.
    #[arg(long)]
    images: PathBuf,
    /// The CLIP that compares: a folder, a file, or an id of the hub [default: ViT-B/32, as Diff-Mix's].
    #[arg(long, value_name = "MODEL")]
    clip: Option<String>,
    /// Replace the results of an earlier filter.
    #[arg(long)]
    overwrite: bool,
}

impl Filter {
    pub fn run(self, common: &Common) -> Result<()> {
        input::check([("--images", Some(self.images.as_path()))])?;
        let [labels_out, meta_out, scores_out] =
            ["labels.kept.jsonl", "meta.kept.csv", "filter.jsonl"].map(|name| self.images.join(name));
        for out in [&labels_out, &meta_out, &scores_out] {
            crate::cli::refuse_existing(out, self.overwrite)?;
        }
        let settings = self.images.join("mix.json");
        let text = std::fs::read_to_string(&settings).map_err(|e| Error::io(&settings, e))?;
        let settings_json: Value = serde_json::from_str(&text)
            .map_err(|e| Error::file(&settings, format!("not a file of `selma mix`: {e}")))?;
        let classes: Vec<String> = serde_json::from_value(settings_json["classes"].clone())
            .map_err(|e| Error::file(&settings, format!("`classes`: {e}")))?;
        let labels = self.images.join("labels.jsonl");
        let rows: Vec<(usize, Value)> = jsonl::read(&labels)?;
        let dtype = if common.precision == "auto" { DType::F32 } else { common.precision()? };
        let place = common.judge(self.clip.as_deref().unwrap_or(Kind::ClipScore.published()))?;
        let clip = Clip::load(&place, &common.device()?, dtype)?;
        let texts = classes.iter().map(|class| {
            let both = [format!("a photo with a {class} on it"), format!("a photo without a {class} on it")];
            clip.text_embeds(&both)
        });
        let texts: Vec<Vec<Vec<f64>>> = texts.collect::<Result<_>>()?;
        let mut progress = Progress::new(common, "images", rows.len());
        let (mut kept, mut scores) = (Vec::new(), Vec::new());
        for (number, (line, row)) in rows.iter().enumerate() {
            let wrong = |what: &str| Error::file(&labels, format!("line {line}: {what}"));
            let file = row["file"].as_str().ok_or_else(|| wrong("`file` is missing"))?;
            let target = row["target"].as_u64().map(|target| target as usize).filter(|target| *target < classes.len());
            let target = target.ok_or_else(|| wrong("`target` is no class of mix.json"))?;
            let path = crate::data::dataset::within(&self.images.join("data"), file).map_err(wrong)?;
            let path = path.ok_or_else(|| wrong(&format!("the image {file} is missing")))?;
            let pixels = Recipe::ClipOpenai.apply(&DecodedImage::read(&path)?, clip.model.image_size());
            let pixels = pixels.map_err(|why| Error::file(&path, why.to_string()))?;
            let image = clip.image_embeds(&stacked(&[pixels.values])?)?.concat();
            let [with, without] = [0, 1].map(|i| cosine(&image, &texts[target][i]));
            let keeps = with > without;
            scores.push(json!({"file": file, "with": with, "without": without, "kept": keeps}));
            if keeps {
                kept.push(row.clone());
            }
            progress.set(number as u64 + 1);
        }
        progress.finish();
        let names: Vec<&str> = kept.iter().filter_map(|row| row["file"].as_str()).collect();
        let mut table = meta::read(&self.images.join("meta.csv"))?;
        table.retain(|row| names.contains(&row.path.as_str()));
        jsonl::write(&scores_out, &scores)?;
        meta::write(&meta_out, &table)?;
        jsonl::write(&labels_out, &kept)?;
        match common.json {
            true => outjson!(
                json!({"out": labels_out, "kept": kept.len(), "images": rows.len(), "weights_sha256": clip.hash})
            ),
            false => outln!("{}: {} of {} images kept", labels_out.display(), kept.len(), rows.len()),
        }
        Ok(())
    }
}
