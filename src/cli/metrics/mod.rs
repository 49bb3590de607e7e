//! `selma metrics`: what a set of pictures is like.

mod sets;

use std::path::PathBuf;

use serde_json::{Value, json};

use sets::{Kind, Named};

use crate::cli::Common;
use crate::error::{Error, Result};
use crate::formats::{atomic, image};
use crate::metrics::measure::{self, Set, Subsets};
use crate::metrics::page;
use crate::metrics::report::{self, Metric};
use crate::metrics::similarity::{Similarity, similarity};
use crate::metrics::statistics::Statistics;
use crate::metrics::{Features, kid};

/// Measure a set of pictures: its distance to a reference set, its diversity, and each picture against its reference.
///
/// Two folders are compared picture by picture where file names are equal: SSIM, PSNR, mean absolute difference and
/// histogram. FID, KID, CMMD and diversity are computed from features: safetensors files with a tensor `features` [n, d], of
/// Inception or of CLIP as --features says, or for FID a statistics file (.npz with mu and sigma, as pytorch-fid writes).
#[derive(clap::Args)]
pub struct Metrics {
    /// Pictures, or their features (.safetensors).
    #[arg(long, value_name = "DIR|FEATURES")]
    images: PathBuf,
    /// What they are compared with: a folder, features, or a statistics file (.npz).
    #[arg(long, value_name = "DIR|FEATURES|STATS")]
    reference: Option<PathBuf>,
    /// What made the features of files: Inception's give FID and KID, CLIP's CMMD and diversity.
    #[arg(long, value_enum, default_value = "inception")]
    features: Kind,
    /// Subsets that KID is over.
    #[arg(long, default_value_t = kid::SUBSETS)]
    kid_subsets: usize,
    /// Pictures in each of them, fewer where a set is smaller.
    #[arg(long, default_value_t = kid::SUBSET_SIZE)]
    kid_subset_size: usize,
    /// Keep mean and covariance of the features of --images for later comparisons (.npz).
    #[arg(long, value_name = "FILE")]
    save_statistics: Option<PathBuf>,
    /// The metrics, as JSON.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The numbers of every picture, as JSON lines.
    #[arg(long, value_name = "FILE")]
    pictures: Option<PathBuf>,
    /// The metrics as an HTML page.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Replace files that are there.
    #[arg(long)]
    overwrite: bool,
}

impl Metrics {
    pub fn run(self, common: &Common) -> Result<()> {
        for file in [Some(&self.out), self.pictures.as_ref(), self.html.as_ref(), self.save_statistics.as_ref()] {
            file.map(|file| super::refuse_existing(file, self.overwrite)).transpose()?;
        }
        if self.kid_subsets == 0 || self.kid_subset_size < 2 {
            return Err(Error::Usage("--kid-subsets and --kid-subset-size: expected at least 1 subset of 2".into()));
        }
        let mut metrics = Vec::new();
        let mut rows = Vec::new();
        match (self.images.is_dir(), &self.reference) {
            (true, Some(reference)) if reference.is_dir() => {
                let (pairs, alone) = sets::pairs(&self.images, reference)?;
                metrics.extend(self.against(&pairs, alone, &mut rows)?);
            }
            (true, _) => {
                let message = "a folder is compared with a folder; give features (.safetensors) for the other metrics";
                return Err(Error::file(&self.images, message));
            }
            (false, _) => metrics.extend(self.of_features(common)?),
        }
        report::write(&self.out, &metrics)?;
        if let Some(file) = &self.pictures {
            report::write_pictures(file, &rows)?;
        }
        if let Some(file) = &self.html {
            atomic::write_bytes(file, page::page(&metrics).into_string().as_bytes())?;
        }
        self.print(&metrics, common);
        Ok(())
    }

    /// Each picture against the one of the same name.
    fn against(&self, pairs: &[Named], alone: usize, rows: &mut Vec<Value>) -> Result<Vec<Metric>> {
        let mut all: Vec<Similarity> = Vec::new();
        for pair in pairs {
            let ours = similarity(&image::read(&pair.reference)?, &image::read(&pair.image)?);
            let mut row = json!(ours);
            row["file_name"] = json!(pair.name);
            rows.push(row);
            all.push(ours);
        }
        let n = [Some(all.len()); 2];
        let of = |name: &str, value: fn(&Similarity) -> Option<f64>| {
            let values: Vec<Option<f64>> = all.iter().map(value).collect();
            let metric = Metric::mean(name, &values, n);
            if alone > 0 { metric.note(format!("{alone} pictures have no partner of their name")) } else { metric }
        };
        let identical = all.iter().filter(|s| s.identical).count();
        let mut metrics = vec![
            of("ssim_luma", |s| s.ssim_luma),
            of("ssim_rgb", |s| s.ssim_rgb),
            of("psnr", |s| s.psnr),
            of("mae", |s| Some(s.mae)),
            of("histogram_intersection", |s| Some(s.histogram_intersection)),
        ];
        if identical > 0 {
            metrics[2].notes.push(format!("{identical} pairs are identical, which have no PSNR"));
        }
        Ok(metrics)
    }

    fn of_features(&self, common: &Common) -> Result<Vec<Metric>> {
        let images = Features::read(&self.images)?;
        let reference = self.reference.as_ref().map(|path| sets::read(path)).transpose()?;
        if let Some(file) = &self.save_statistics {
            Statistics::of(&images)?.write(file)?;
        }
        let subsets = Subsets { count: self.kid_subsets, size: self.kid_subset_size, seed: common.seed() };
        match (self.features, reference) {
            (Kind::Inception, Some(reference)) => {
                measure::distances(&Set::Features(images), &reference, "features of files", subsets)
            }
            (Kind::Inception, None) if self.save_statistics.is_some() => Ok(Vec::new()),
            (Kind::Inception, None) => Err(Error::Usage(
                "--reference: FID and KID compare with a reference set; or add --features clip".into(),
            )),
            (Kind::Clip, Some(Set::Statistics(_))) => {
                Err(Error::Usage("--reference: CMMD needs features, and a statistics file has none".into()))
            }
            (Kind::Clip, reference) => {
                let mut metrics = measure::diversities(&images, None, "features of files")?;
                if let Some(Set::Features(reference)) = reference {
                    metrics.push(measure::embedding_distance(&images, &reference, "features of files")?);
                }
                Ok(metrics)
            }
        }
    }

    fn print(&self, metrics: &[Metric], common: &Common) {
        if common.json {
            return outjson!(json!(metrics));
        }
        for metric in metrics {
            let std = metric.std.map_or(String::new(), |std| format!(" ± {}", page::number(Some(std))));
            let notes =
                if metric.notes.is_empty() { String::new() } else { format!("  ({})", metric.notes.join("; ")) };
            outln!("{:<36} {:>12}{std}  n {}{notes}", metric.name, page::number(metric.value), page::counts(metric));
        }
    }
}
