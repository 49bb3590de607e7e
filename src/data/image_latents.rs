//! The latents that a generated image was decoded from, in a file beside it: `NNNNN.latents.safetensors`. Learning from
//! them skips the way through the VAE and back, and what is lost on it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::formats::digest;
use crate::formats::safetensors::{self, Safetensors};
use crate::tensor::{DType, Tensor};

const LATENTS: &str = "latents";
const VAE: &str = "selma.vae";
const SCALING_FACTOR: &str = "selma.scaling-factor";
const IMAGE: &str = "selma.image";

/// The latents of one image.
#[derive(Debug, Clone)]
pub struct ImageLatents {
    /// `[h, w, c]` f32, as the UNet sees them: multiplied by the scaling factor.
    pub values: Tensor,
    pub scaling_factor: f64,
    /// [`crate::formats::content_hash::of_folders`] of the VAE that decoded them.
    pub vae: String,
    /// The SHA-256 of the image's file.
    pub image: String,
}

/// Where the latents of an image are.
pub fn path(image: &Path) -> PathBuf {
    image.with_extension("latents.safetensors")
}

impl ImageLatents {
    /// Writes the file beside `image`, which is there already.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(values: Tensor, scaling_factor: f64, vae: &str, image: &Path) -> Result<()> {
        let entries =
            [(VAE, vae.to_owned()), (SCALING_FACTOR, scaling_factor.to_string()), (IMAGE, digest::file(image)?)];
        let metadata = BTreeMap::from(entries.map(|(key, value)| (key.to_string(), value)));
        safetensors::write(&path(image), &[(LATENTS.into(), values)], &metadata)
    }

    /// Reads the file beside `image`; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::File`] for a damaged file, and for one that [`ImageLatents::write`] did not write.
    pub fn read(image: &Path) -> Result<Option<Self>> {
        let path = path(image);
        if !path.exists() {
            return Ok(None);
        }
        let file = Safetensors::open(&path)?;
        let said = |key: &str| {
            let value = file.metadata().get(key);
            value.cloned().ok_or_else(|| Error::file(&path, format!("has no `{key}`; generate the image again")))
        };
        let values = file.tensor(LATENTS)?;
        if values.dtype() != DType::F32 || values.shape().len() != 3 {
            let message = format!("`{LATENTS}` is {:?}, expected f32 [height, width, channels]", values.shape());
            return Err(Error::file(&path, message));
        }
        let factor = said(SCALING_FACTOR)?;
        let number = factor.parse().ok().filter(|factor: &f64| *factor > 0.0 && factor.is_finite());
        let scaling_factor = number
            .ok_or_else(|| Error::file(&path, format!("`{SCALING_FACTOR}` is {factor}, expected a number above 0")))?;
        Ok(Some(Self { values, scaling_factor, vae: said(VAE)?, image: said(IMAGE)? }))
    }

    /// Whether the file beside `image` is there and belongs to it as it is now.
    pub fn is_current(image: &Path) -> bool {
        let read = Self::read(image);
        read.is_ok_and(|kept| kept.is_some_and(|kept| digest::file(image).is_ok_and(|now| now == kept.image)))
    }
}
