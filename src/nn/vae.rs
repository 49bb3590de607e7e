//! AutoencoderKL: pixels to latents and back.

use std::path::Path;

use serde_json::{Value, json};

use crate::autograd::Tape;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::formats::checkpoint::{Checkpoint, is_vae_alone};
use crate::formats::component::in_checkpoint;
use crate::nn::vae_blocks::{Decoder, Encoder};
use crate::nn::{Config, Conv2d, Param, Weights, input, move_to};
use crate::ops;
use crate::tensor::{DType, Tensor};

/// `vae/config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct VaeConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    pub latent_channels: usize,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub norm_num_groups: usize,
    pub mid_block_add_attention: bool,
    pub use_quant_conv: bool,
    pub use_post_quant_conv: bool,
    /// What the UNet sees is the posterior's sample times this.
    pub scaling_factor: f64,
}

impl VaeConfig {
    /// # Errors
    /// [`Error::File`] naming the key and the value that is not supported.
    pub fn parse(c: &Config) -> Result<Self> {
        c.only(&[
            ("act_fn", json!("silu")),
            ("latents_mean", Value::Null),
            ("latents_std", Value::Null),
            ("shift_factor", json!(0)),
        ])?;
        // `force_upcast` is about half precision in Python; `sample_size` a hint to its pipelines.
        c.ignore(&["force_upcast", "sample_size"]);
        let block_out_channels = c.sizes("block_out_channels", &[64])?;
        let blocks = block_out_channels.len();
        c.choices("down_block_types", &["DownEncoderBlock2D"], &vec![0; blocks], blocks)?;
        c.choices("up_block_types", &["UpDecoderBlock2D"], &vec![0; blocks], blocks)?;
        let norm_num_groups = c.size("norm_num_groups", 32)?;
        if block_out_channels.iter().any(|channels| channels % norm_num_groups != 0) {
            return Err(c.refuse("norm_num_groups", "it does not divide every entry of `block_out_channels`"));
        }
        let config = Self {
            in_channels: c.size("in_channels", 3)?,
            out_channels: c.size("out_channels", 3)?,
            latent_channels: c.size("latent_channels", 4)?,
            layers_per_block: c.size("layers_per_block", 1)?,
            norm_num_groups,
            mid_block_add_attention: c.flag("mid_block_add_attention", true)?,
            use_quant_conv: c.flag("use_quant_conv", true)?,
            use_post_quant_conv: c.flag("use_post_quant_conv", true)?,
            scaling_factor: c.number("scaling_factor", 0.18215)?,
            block_out_channels,
        };
        if config.scaling_factor <= 0.0 {
            return Err(c.refuse("scaling_factor", "expected a positive number"));
        }
        c.finish()?;
        Ok(config)
    }

    /// The configuration of the VAE in `place` where it stands in for a model's own, in `own`: a file that holds nothing
    /// but a VAE does not say how its latents are scaled, which is as the model's are.
    ///
    /// # Errors
    /// [`Error::File`] naming the key and the value that is not supported.
    pub fn standing_in(place: &Path, own: &Path) -> Result<Self> {
        let open = |place: &Path| Self::parse(&Config::open(&place.join("config.json"))?);
        let mut config = open(place)?;
        if let Some((file, _)) = in_checkpoint(place)
            && is_vae_alone(file)?
        {
            config.scaling_factor = match in_checkpoint(own) {
                Some((model, _)) => Checkpoint::open(model)?.scaling_factor(),
                None => open(own)?.scaling_factor,
            };
        }
        Ok(config)
    }

    /// Pixels of an image's edge for each latent's.
    pub fn downscale(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

#[derive(Clone)]
pub struct AutoencoderKl {
    pub config: VaeConfig,
    dtype: DType,
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    parameters: Vec<Param>,
}

impl AutoencoderKl {
    /// Loads `dir` (a model's `vae` folder) with matrices in `dtype`.
    ///
    /// # Errors
    /// [`Error::File`] naming the file and the key or tensor that does not fit.
    pub fn load(dir: &Path, dtype: DType) -> Result<Self> {
        let config = VaeConfig::parse(&Config::open(&dir.join("config.json"))?)?;
        Self::build(config, Weights::open(dir, dtype)?)
    }

    /// As [`AutoencoderKl::load`], with the configuration of [`VaeConfig::standing_in`].
    ///
    /// # Errors
    /// As [`AutoencoderKl::load`].
    pub fn load_standing_in(place: &Path, own: &Path, dtype: DType) -> Result<Self> {
        Self::build(VaeConfig::standing_in(place, own)?, Weights::open(place, dtype)?)
    }

    /// A network with fresh weights, for the keys of a `config.json`.
    ///
    /// # Errors
    /// As [`AutoencoderKl::load`] for the configuration.
    pub fn initial(config: Value, seed: u64, dtype: DType) -> Result<Self> {
        let config = VaeConfig::parse(&Config::from_value(Path::new("config.json"), config)?)?;
        Self::build(config, Weights::initial(seed, dtype))
    }

    fn build(config: VaeConfig, w: Weights) -> Result<Self> {
        let latent = config.latent_channels;
        let conv = |name, channels| Conv2d::load(&w.scope(name), channels, channels, 1);
        Ok(Self {
            dtype: w.dtype(),
            encoder: Encoder::load(&w.scope("encoder"), &config)?,
            decoder: Decoder::load(&w.scope("decoder"), &config)?,
            quant_conv: config.use_quant_conv.then(|| conv("quant_conv", 2 * latent)).transpose()?,
            post_quant_conv: config.use_post_quant_conv.then(|| conv("post_quant_conv", latent)).transpose()?,
            parameters: w.finish()?,
            config,
        })
    }

    /// `image` `[n, h, w, 3]` in [-1, 1] -> mean and log variance of the posterior, `[n, h/s, w/s, latent]` each, before
    /// the scaling factor.
    ///
    /// # Errors
    /// [`Error::Shape`] for an image of other channels, or smaller than one latent; [`Error::NoGradient`] on a tape that
    /// tracks the encoder, as the log variance is clamped: see [`AutoencoderKl::moments`].
    pub fn encode(&self, tape: &Tape, image: &Tensor) -> Result<(Tensor, Tensor)> {
        let moments = self.moments(tape, image)?;
        let latent = self.config.latent_channels;
        let mean = ops::slice_channels(tape, &moments, 0, latent)?;
        let log_variance = ops::slice_channels(tape, &moments, latent, latent)?;
        tape.refuse("clamp", &log_variance)?;
        Ok((mean, ops::clamp(&log_variance, ops::LOG_VARIANCE.0, ops::LOG_VARIANCE.1)?))
    }

    /// Mean and unclamped log variance in one tensor, `[n, h/s, w/s, 2 * latent]`. Has a gradient.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] where the image does not have the channels of the VAE; what a GPU says.
    pub fn moments(&self, tape: &Tape, image: &Tensor) -> Result<Tensor> {
        self.check(image, self.config.in_channels, self.config.downscale())?;
        let h = self.encoder.forward(tape, &input(tape, image, &self.device(), self.dtype)?)?;
        match &self.quant_conv {
            Some(conv) => conv.forward(tape, &h),
            None => Ok(h),
        }
    }

    /// `latents` `[n, h, w, latent]`, after division by the scaling factor -> image `[n, h*s, w*s, 3]` in about [-1, 1].
    ///
    /// # Errors
    /// [`Error::Shape`] for latents of other channels.
    pub fn decode(&self, tape: &Tape, latents: &Tensor) -> Result<Tensor> {
        self.check(latents, self.config.latent_channels, 1)?;
        let mut h = input(tape, latents, &self.device(), self.dtype)?;
        if let Some(conv) = &self.post_quant_conv {
            h = conv.forward(tape, &h)?;
        }
        self.decoder.forward(tape, &h)
    }

    fn check(&self, x: &Tensor, channels: usize, smallest: usize) -> Result<()> {
        let [_, height, width, c] = x.dims("AutoencoderKL")?;
        if c == channels && height >= smallest && width >= smallest {
            return Ok(());
        }
        let message =
            format!("expected [n, height, width, {channels}] of at least {smallest} x {smallest}, got {:?}", x.shape());
        Err(Error::shape("AutoencoderKL", message))
    }

    /// Brings every weight to `device`, where the network then computes.
    ///
    /// # Errors
    /// Where the device has no room.
    pub fn to(&self, device: &Device) -> Result<()> {
        move_to(&self.parameters, device)
    }

    pub fn device(&self) -> Device {
        self.parameters.first().map_or(Device::Cpu, |param| param.get().device())
    }

    /// Every weight.
    pub fn parameters(&self) -> &[Param] {
        &self.parameters
    }
}
