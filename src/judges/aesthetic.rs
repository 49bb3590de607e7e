//! LAION's aesthetic predictor: a linear head on the image embedding of a CLIP.

use std::path::Path;

use super::clip;
use super::files::Files;
use super::layout;
use crate::autograd::Tape;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::nn::{ClipModel, ScoreHead, move_to};
use crate::tensor::{DType, Tensor};

pub struct Aesthetic {
    head: ScoreHead,
    clip: ClipModel,
    unread: Vec<String>,
    /// SHA-256 of the head's weights and of the CLIP's.
    pub hashes: Vec<String>,
}

impl Aesthetic {
    /// The head from a folder or file; its CLIP from `clip`, or from the same file where that holds both. On `device`, with
    /// matrices in `dtype`.
    ///
    /// # Errors
    /// [`Error::File`] naming what is missing or does not fit; what the device says.
    pub fn load(head: &Path, clip: Option<&Path>, device: &Device, dtype: DType) -> Result<Self> {
        let files = Files::find(head)?;
        let name = files.weights[0].file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if name.contains("relu") {
            let message = "the predictor with ReLU is another network; expected sac+logos+ava1-l14-linearMSE or a sibling \
                           with linearMSE in its name";
            return Err(Error::file(&files.weights[0], message));
        }
        let weights = files.open(layout::clip, dtype)?;
        let whole = weights.contains("vision_model.embeddings.class_embedding");
        let layers = ScoreHead::load(&weights)?;
        let (parameters, unread) = weights.finish_with_unread();
        move_to(&parameters, device)?;
        let weights_file = files.weights[0].clone();
        let mut hashes = vec![files.hash()?];
        let of_clip = match (clip, whole) {
            (Some(clip), _) => {
                let files = Files::find(clip)?;
                hashes.push(files.hash()?);
                files
            }
            (None, true) => files,
            (None, false) => {
                let message = "holds the head alone; give the CLIP ViT-L/14 that it reads with `aesthetic-clip=MODEL`";
                return Err(Error::file(head, message));
            }
        };
        let same = of_clip.weights == [weights_file];
        let clip = clip::network(&of_clip, dtype)?;
        clip.to(device)?;
        // A file with both is read once for each.
        let own = |name: &String| !same || (clip.unread.contains(name) && !name.starts_with("layers."));
        let unread = unread.into_iter().filter(own).collect();
        Ok(Self { head: layers, clip, unread, hashes })
    }

    /// Tensors of the head's file that neither part has.
    pub fn unread(&self) -> &Vec<String> {
        &self.unread
    }

    /// Width and height of the images that it takes.
    pub fn image_size(&self) -> usize {
        self.clip.image_size()
    }

    /// The projected embeddings of `[n, h, w, 3]` pixels, not normalised.
    ///
    /// # Errors
    /// What the device says.
    pub fn image_embeds(&self, pixels: &Tensor) -> Result<Vec<Vec<f64>>> {
        clip::rows(&self.clip.image(&Tape::off(), pixels)?.embeds)
    }

    /// The score of each embedding, which is normalised first; a zero stays zero.
    ///
    /// # Errors
    /// [`Error::Failed`] where the CLIP is not the one of the head.
    pub fn scores(&self, embeds: &[Vec<f64>]) -> Result<Vec<f64>> {
        let width = self.head.width();
        if let Some(embed) = embeds.iter().find(|embed| embed.len() != width) {
            let message = format!(
                "the aesthetic head reads embeddings of {width} values, and the CLIP makes {}: it is another one",
                embed.len()
            );
            return Err(Error::Failed(message));
        }
        let unit = |embed: &Vec<f64>| -> Vec<f32> {
            let norm = embed.iter().map(|x| x * x).sum::<f64>().sqrt();
            let norm = if norm == 0.0 { 1.0 } else { norm };
            embed.iter().map(|x| (x / norm) as f32).collect()
        };
        let values: Vec<f32> = embeds.iter().flat_map(unit).collect();
        self.head(&Tensor::new(values, &[embeds.len(), width]))
    }

    /// The linear head of `[n, width]` vectors as they are.
    ///
    /// # Errors
    /// [`Error::Shape`] for another width; what the device says.
    pub fn head(&self, x: &Tensor) -> Result<Vec<f64>> {
        Ok(self.head.forward(&Tape::off(), x)?.to_cpu()?.reals::<f64>().into_owned())
    }
}
