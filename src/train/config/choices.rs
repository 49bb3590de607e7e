//! Settings that are one of a few names.

use crate::settings::named;
use crate::tensor::DType;

/// What the network is trained to predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Prediction {
    /// As the model's scheduler configuration says.
    Auto,
    Epsilon,
    #[value(alias = "v-prediction")]
    VPrediction,
}

named!(Prediction, "prediction");

impl Prediction {
    /// The name in scheduler configurations; none for what they say themselves.
    pub fn in_scheduler(self) -> Option<String> {
        (self != Prediction::Auto).then(|| self.name())
    }
}

/// What images are learnt from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TrainOn {
    /// The latents beside all images, where they are of this VAE and fit; else the images.
    Auto,
    /// The latents beside the images; an error where they do not fit
    Latents,
    /// The images
    Pixels,
}

named!(TrainOn, "train-on");

/// The layout of saved LoRAs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `unet.P.lora_A.weight`, alpha in the header
    Diffusers,
    /// `lora_unet_P.lora_down.weight` with `.alpha`: sd-scripts, ComfyUI, webui
    Kohya,
}

named!(Format, "format");

/// The number format of saved LoRAs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SavePrecision {
    #[value(aliases = ["float", "fp32"])]
    F32,
    #[value(alias = "fp16")]
    F16,
    Bf16,
}

named!(SavePrecision, "save-precision");

impl SavePrecision {
    /// The type of the tensors in a file.
    pub fn dtype(self) -> DType {
        match self {
            SavePrecision::F32 => DType::F32,
            SavePrecision::F16 => DType::F16,
            SavePrecision::Bf16 => DType::Bf16,
        }
    }
}
