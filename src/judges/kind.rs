//! Which judges there are that give an image one number.

use super::preprocess::Recipe;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Hessel et al. 2021: 2.5 max(cos, 0) by OpenAI's ViT-B/32.
    ClipScore,
    /// Kirstain et al. 2023 (arXiv:2305.01569).
    PickScore,
    /// Wu et al. 2023 (arXiv:2306.09341), in percent.
    HpsV2,
    HpsV21,
    /// Xu et al. 2023 (arXiv:2304.05977).
    ImageReward,
    /// LAION's predictor of aesthetic ratings, 1 to 10; it does not read the prompt.
    Aesthetic,
}

impl Kind {
    pub const ALL: [Kind; 6] =
        [Kind::ClipScore, Kind::PickScore, Kind::HpsV2, Kind::HpsV21, Kind::ImageReward, Kind::Aesthetic];

    /// None for a name that no scorer has.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::ClipScore => "clipscore",
            Kind::PickScore => "pickscore",
            Kind::HpsV2 => "hpsv2",
            Kind::HpsV21 => "hpsv2.1",
            Kind::ImageReward => "imagereward",
            Kind::Aesthetic => "aesthetic",
        }
    }

    /// Where its weights are published, as `Hub::judge` takes it.
    pub fn published(self) -> &'static str {
        match self {
            Kind::ClipScore => "openai/clip-vit-base-patch32@refs/pr/32",
            Kind::PickScore => "yuvalkirstain/PickScore_v1",
            Kind::HpsV2 => "xswu/HPSv2:HPS_v2_compressed.pt",
            Kind::HpsV21 => "xswu/HPSv2:HPS_v2.1_compressed.pt",
            Kind::ImageReward => "THUDM/ImageReward:ImageReward.pt",
            Kind::Aesthetic => "shunk031/aesthetics-predictor-v2-sac-logos-ava1-l14-linearMSE",
        }
    }

    pub(super) fn recipe(self) -> Recipe {
        match self {
            Kind::PickScore => Recipe::ClipTransformers,
            Kind::HpsV2 | Kind::HpsV21 => Recipe::Hps,
            Kind::ClipScore | Kind::ImageReward | Kind::Aesthetic => Recipe::ClipOpenai,
        }
    }

    /// How a number comes about, for whoever reads it.
    pub(super) fn formula(self) -> &'static str {
        match self {
            Kind::ClipScore => "2.5 max(cos, 0), text \"A photo depicts \" + caption",
            Kind::PickScore => "exp(logit_scale) cos",
            Kind::HpsV2 | Kind::HpsV21 => "100 cos",
            Kind::ImageReward => "standardised reward",
            Kind::Aesthetic => "linear head, without the prompt",
        }
    }
}
