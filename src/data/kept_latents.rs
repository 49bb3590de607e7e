//! Learning from the latents that lie beside generated images.

use sha2::{Digest, Sha256};

use crate::data::dataset::{Dataset, Sample};
use crate::data::image_latents::{self, ImageLatents};
use crate::data::images::ImageFile;
use crate::data::latent_cache::Posterior;
use crate::error::{Error, Result};
use crate::formats::digest;
use crate::tensor::Tensor;
use crate::train::config::{TrainConfig, TrainOn};
use crate::train::watcher::Watcher;

/// The hash of all latents, where a run learns from them: `side` is the training resolution, `latent` the shape of one image's
/// latents, `vae` tells the trained model's VAE from others.
///
/// # Errors
/// With `--train-on latents`, [`Error::File`] and [`Error::Usage`] for what keeps the run from it.
pub(super) fn usable(
    config: &TrainConfig,
    dataset: &Dataset,
    images: &[ImageFile],
    vae: &str,
    side: u32,
    latent: [usize; 3],
    watcher: &mut dyn Watcher,
) -> Result<Option<String>> {
    if config.train_on == TrainOn::Pixels {
        return Ok(None);
    }
    match hash(config, dataset, images, vae, side, latent) {
        Ok(hash) => {
            watcher.note("learns from the latents beside the images");
            Ok(Some(hash))
        }
        Err(why) if config.train_on == TrainOn::Latents => Err(why),
        Err(why) => {
            if dataset.samples().iter().any(|sample| image_latents::path(&sample.image).exists()) {
                watcher.note(&format!("the latents beside the images are not used: {why}"));
            }
            Ok(None)
        }
    }
}

fn hash(
    config: &TrainConfig,
    dataset: &Dataset,
    images: &[ImageFile],
    vae: &str,
    side: u32,
    latent: [usize; 3],
) -> Result<String> {
    if config.flip {
        let message = "--flip mirrors images, and latents cannot be mirrored; add --flip=false, or --train-on pixels";
        return Err(Error::Usage(message.into()));
    }
    let mut hash = Sha256::new();
    for (sample, file) in dataset.samples().iter().zip(images) {
        let image = &sample.image;
        let wrong = |what: String| Error::file(image_latents::path(image), what);
        let latents = ImageLatents::read(image)?
            .ok_or_else(|| wrong("is not there; a run keeps it beside the images that it generates".into()))?;
        if latents.vae != vae {
            return Err(wrong(format!(
                "was generated with another VAE ({}) than the model's ({}); learn from the images, by --train-on pixels",
                short(&latents.vae),
                short(vae)
            )));
        }
        if latents.image != file.digest {
            return Err(wrong("belongs to another image than the one beside it; generate the image again".into()));
        }
        if file.size != (side, side) || latents.values.shape() != latent {
            let (height, width) = file.size;
            return Err(wrong(format!(
                "is of an image of {width}x{height} pixels, expected {side}x{side}, the training resolution; latents cannot \
                 be scaled"
            )));
        }
        hash.update(latents.values.bytes());
        hash.update(latents.scaling_factor.to_le_bytes());
    }
    Ok(digest::hex(hash.finalize()))
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// A posterior without spread around an image's latents, before the scaling factor.
///
/// # Errors
/// [`Error::File`] where they went away meanwhile, or are damaged.
pub(super) fn posterior(sample: &Sample) -> Result<Posterior> {
    let gone = || Error::file(image_latents::path(&sample.image), "went away while the run was going");
    let latents = ImageLatents::read(&sample.image)?.ok_or_else(gone)?;
    let factor = latents.scaling_factor as f32;
    let values = latents.values.data::<f32>();
    let mean = values.iter().map(|z| z / factor).collect();
    let shape = latents.values.shape();
    Ok(Posterior { mean: Tensor::new(mean, shape), std: Tensor::new(vec![0.0; values.len()], shape) })
}
