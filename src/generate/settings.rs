//! How images are generated: the options of `selma generate`, and the keys of `[images]` and `[evaluate]` in a run file.

use serde::{Deserialize, Serialize};

/// Settings that all images of a folder share. A prompt's own record can replace some of them: see [`super::request`].
#[derive(Clone, Debug, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
#[command(next_help_heading = "Sampling")]
pub struct Settings {
    /// Sampler steps
    #[arg(long, visible_alias = "num-inference-steps", default_value_t = Settings::default().steps)]
    pub steps: usize,
    /// Scale of classifier-free guidance [default: 7.5; SDXL: 5.0]
    #[arg(long, visible_aliases = ["cfg-scale", "guidance-scale"], allow_negative_numbers = true)]
    pub guidance: Option<f64>,
    /// Rescale guided predictions towards the standard deviation of the conditional one; 0 is off
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub guidance_rescale: f64,
    /// Sampler: ddim, ddpm, pndm, euler, euler-a, heun, dpm2, dpm2-a, dpmpp-2m, dpmpp-2m-sde, dpmpp-sde, dpmpp-2s, lms, deis,
    /// unipc, lcm or tcd; with -karras or -exponential for its noise levels; webui's and ComfyUI's names and diffusers' classes
    /// are read too [default: the model's]
    #[arg(long, visible_aliases = ["sampler", "sampling-method"])]
    pub scheduler: Option<String>,
    /// Image width in pixels [default: the model's]
    #[arg(long)]
    pub width: Option<usize>,
    /// Image height in pixels [default: the model's]
    #[arg(long)]
    pub height: Option<usize>,
    /// Negative prompt: what the images should not show
    #[arg(long, visible_alias = "negative-prompt")]
    pub negative: Option<String>,
    /// Last text-encoder layers to skip, as diffusers counts (webui's number minus 1)
    #[arg(long, default_value_t = 0)]
    pub clip_skip: usize,
    /// Read prompts longer than 75 tokens whole, in parts of 75, instead of cutting them
    #[arg(long)]
    pub long_prompts: bool,
    /// Images generated at once
    #[arg(long, default_value_t = 1)]
    pub batch_size: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            steps: 50,
            guidance: None,
            guidance_rescale: 0.0,
            scheduler: None,
            width: None,
            height: None,
            negative: None,
            clip_skip: 0,
            long_prompts: false,
            batch_size: 1,
        }
    }
}
