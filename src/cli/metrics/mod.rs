//! `selma metrics`: what a set of images is like.

mod folders;
mod networks;
pub(super) mod sets;

use std::path::PathBuf;

use serde_json::{Value, json};

use networks::Networks;
use sets::Kind;

use crate::cli::{Common, input};
use crate::error::{Error, Result};
use crate::formats::atomic;
use crate::metrics::measure::{self, Set, Subsets};
use crate::metrics::report::{self, Metric};
use crate::metrics::statistics::Statistics;
use crate::metrics::{Features, kid, page};

/// Measure a set of images: its distance to a reference set, its diversity, and each image against its reference.
///
/// --inception gives FID and KID, --clip CMMD and diversity. Where file names are equal in two folders, images are compared
/// one by one: SSIM, PSNR, mean absolute difference and histogram, with --clip also CLIP-I, with --lpips LPIPS. What networks
/// computed is kept in OUT.values.jsonl, so that a command that was broken off goes on. Features of other programs come in as
/// safetensors files with a tensor `features` [n, d], statistics as .npz files with mu and sigma, as pytorch-fid writes them.
#[derive(clap::Args)]
pub struct Metrics {
    /// A folder of images, or their features (.safetensors)
    #[arg(long, value_name = "DIR|FEATURES")]
    images: PathBuf,
    /// What they are compared with: a folder, features, or a statistics file (.npz)
    #[arg(long, value_name = "DIR|FEATURES|STATS")]
    reference: Option<PathBuf>,
    #[command(flatten)]
    networks: Networks,
    /// What made the features of files: Inception's give FID and KID, CLIP's CMMD and diversity
    #[arg(long, value_enum, default_value = "inception")]
    features: Kind,
    /// Subsets that KID is over
    #[arg(long, default_value_t = kid::SUBSETS)]
    kid_subsets: usize,
    /// Images in each of them, fewer where a set is smaller
    #[arg(long, default_value_t = kid::SUBSET_SIZE)]
    kid_subset_size: usize,
    /// Keep mean and covariance of the features of --images for later comparisons (.npz)
    #[arg(long, value_name = "FILE")]
    save_statistics: Option<PathBuf>,
    /// The metrics, as JSON
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The numbers of every image, as JSON lines
    #[arg(long, alias = "pictures", value_name = "FILE")]
    per_image: Option<PathBuf>,
    /// The metrics as an HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Replace files that are there
    #[arg(long)]
    overwrite: bool,
}

/// What was measured so far: of the set, and of every image.
#[derive(Default)]
struct Measured {
    metrics: Vec<Metric>,
    rows: Vec<Value>,
    notes: Vec<String>,
}

impl Metrics {
    pub fn run(self, common: &Common) -> Result<()> {
        for file in [Some(&self.out), self.per_image.as_ref(), self.html.as_ref(), self.save_statistics.as_ref()] {
            file.map(|file| super::refuse_existing(file, self.overwrite)).transpose()?;
        }
        if self.kid_subsets == 0 || self.kid_subset_size < 2 {
            return Err(Error::Usage("--kid-subsets and --kid-subset-size: expected at least 1 subset of 2".into()));
        }
        input::check([("--images", Some(self.images.as_path())), ("--reference", self.reference.as_deref())])?;
        let mut measured = Measured::default();
        match self.images.is_dir() {
            true => self.of_folder(&mut measured, common)?,
            false => measured.metrics = self.of_features(common)?,
        }
        report::write(&self.out, &measured.metrics)?;
        if let Some(file) = &self.per_image {
            report::write_images(file, &measured.rows)?;
        }
        if let Some(file) = &self.html {
            let page = page::page(&measured.metrics, &measured.notes).into_string();
            atomic::write_bytes(file, page.as_bytes())?;
        }
        print(&measured.metrics, common);
        measured.notes.into_iter().for_each(|note| common.note(note));
        Ok(())
    }

    fn subsets(&self, common: &Common) -> Subsets {
        Subsets { count: self.kid_subsets, size: self.kid_subset_size, seed: common.seed() }
    }

    fn of_features(&self, common: &Common) -> Result<Vec<Metric>> {
        const RULE: &str = "features of files";
        if self.networks.any() || self.per_image.is_some() {
            let message = "--inception, --clip, --lpips and --per-image: expected --images to be a folder of images";
            return Err(Error::Usage(message.into()));
        }
        let images = Features::read(&self.images)?;
        let reference = self.reference.as_ref().map(|path| sets::read(path)).transpose()?;
        if let Some(file) = &self.save_statistics {
            Statistics::of(&images)?.write(file)?;
        }
        match (self.features, reference) {
            (Kind::Inception, Some(reference)) => {
                measure::distances(&Set::Features(images), &reference, RULE, self.subsets(common))
            }
            (Kind::Inception, None) if self.save_statistics.is_some() => Ok(Vec::new()),
            (Kind::Inception, None) => Err(Error::Usage(
                "--reference: FID and KID compare with a reference set; or add --features clip".into(),
            )),
            (Kind::Clip, Some(Set::Statistics(_))) => {
                Err(Error::Usage("--reference: CMMD needs features, and a statistics file has none".into()))
            }
            (Kind::Clip, reference) => {
                let mut metrics = measure::diversities(&images, None, RULE)?;
                if let Some(Set::Features(reference)) = reference {
                    metrics.push(measure::embedding_distance(&images, &reference, RULE)?);
                }
                Ok(metrics)
            }
        }
    }
}

fn print(metrics: &[Metric], common: &Common) {
    if common.json {
        return outjson!(json!(metrics));
    }
    for metric in metrics {
        let std = metric.std.map_or(String::new(), |std| format!(" ± {}", page::number(Some(std))));
        let interval = metric.interval.map(|ends| ends.map(|end| page::number(Some(end))).join(" to "));
        let interval = interval.map_or(String::new(), |ends| format!("  [{ends}]"));
        let rule = metric.rule.as_ref().map_or(String::new(), |rule| format!("  {rule}"));
        let notes = if metric.notes.is_empty() { String::new() } else { format!("  ({})", metric.notes.join("; ")) };
        let (value, counts) = (page::number(metric.value), page::counts(metric));
        outln!("{:<36} {value:>12}{std}{interval}  n {counts}{rule}{notes}", metric.name);
    }
}
