//! The samplers' names: selma's own, and those of webui, ComfyUI and kohya's scripts, which all mean the same methods.

use serde_json::Value;

use super::config::Class;
use crate::error::Result;

/// selma's names, and webui's.
pub const NAMES: [(&str, &str); 17] = [
    ("ddim", "DDIM"),
    ("ddpm", "DDPM"),
    ("pndm", "PLMS"),
    ("euler", "Euler"),
    ("euler-a", "Euler a"),
    ("heun", "Heun"),
    ("dpm2", "DPM2"),
    ("dpm2-a", "DPM2 a"),
    ("dpmpp-2m", "DPM++ 2M"),
    ("dpmpp-2m-sde", "DPM++ 2M SDE"),
    ("dpmpp-sde", "DPM++ SDE"),
    ("dpmpp-2s", "DPM++ 2S"),
    ("lms", "LMS"),
    ("deis", "DEIS"),
    ("unipc", "UniPC"),
    ("lcm", "LCM"),
    ("tcd", "TCD"),
];

/// A name as selma writes it, and how its noise levels are spaced; none for what is none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    pub method: &'static str,
    /// webui's.
    pub label: &'static str,
    pub spacing: Option<Levels>,
}

/// How noise levels are spaced where a name says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    Karras,
    Exponential,
}

impl Name {
    /// Reads selma's names, webui's labels ("DPM++ 2M Karras"), ComfyUI's and kohya's ("dpmpp_2m_sde", "k_dpm_2_a").
    pub fn parse(name: &str) -> Option<Self> {
        let plain = name.to_lowercase().replace("++", "pp").replace([' ', '_'], "-");
        let plain = plain.strip_prefix("k-").unwrap_or(&plain);
        let spacings = [("-karras", Levels::Karras), ("-exponential", Levels::Exponential)];
        let spaced = spacings.iter().find_map(|(end, levels)| Some((plain.strip_suffix(end)?, Some(*levels))));
        let (method, spacing) = spaced.unwrap_or((plain, None));
        let method = match method {
            "plms" => "pndm",
            "euler-ancestral" => "euler-a",
            "dpm-2" => "dpm2",
            "dpm-2-a" | "dpm-2-ancestral" | "dpm2-ancestral" => "dpm2-a",
            "dpmsolverpp" => "dpmpp-2m",
            "dpmsingle" => "dpmpp-2s",
            "uni-pc" => "unipc",
            other => other,
        };
        let (method, label) = NAMES.iter().find(|(own, _)| *own == method)?;
        let unspaced = ["ddim", "ddpm", "pndm", "euler-a", "lcm", "tcd"].contains(method);
        (spacing.is_none() || !unspaced).then_some(Self { method, label, spacing })
    }

    /// The class, and `config` with what the name says.
    ///
    /// # Errors
    /// None: every name has a class.
    pub(super) fn resolve(self, config: &Value) -> Result<(Class, Value)> {
        let off = Value::Bool(false);
        let solver = |algorithm: &str| vec![("algorithm_type", algorithm.into()), ("solver_order", 2.into())];
        let (class, set): (_, Vec<(&str, Value)>) = match self.method {
            "ddim" => ("DDIMScheduler", vec![]),
            "ddpm" => ("DDPMScheduler", vec![]),
            "pndm" => ("PNDMScheduler", vec![("skip_prk_steps", true.into())]),
            "euler-a" => ("EulerAncestralDiscreteScheduler", vec![]),
            "heun" => ("HeunDiscreteScheduler", vec![]),
            "dpm2" => ("KDPM2DiscreteScheduler", vec![]),
            "dpm2-a" => ("KDPM2AncestralDiscreteScheduler", vec![]),
            "dpmpp-2m" => ("DPMSolverMultistepScheduler", solver("dpmsolver++")),
            "dpmpp-2m-sde" => ("DPMSolverMultistepScheduler", solver("sde-dpmsolver++")),
            "dpmpp-sde" => ("DPMSolverSDEScheduler", vec![]),
            "dpmpp-2s" => ("DPMSolverSinglestepScheduler", solver("dpmsolver++")),
            "lms" => ("LMSDiscreteScheduler", vec![]),
            "deis" => ("DEISMultistepScheduler", vec![("algorithm_type", "deis".into())]),
            "unipc" => ("UniPCMultistepScheduler", vec![]),
            "lcm" => ("LCMScheduler", vec![]),
            "tcd" => ("TCDScheduler", vec![]),
            _ => ("EulerDiscreteScheduler", vec![]),
        };
        let mut config = config.clone();
        if let Some(map) = config.as_object_mut() {
            // Latents are not confined to [-1, 1], so a configuration that says nothing must not clip them.
            map.entry("clip_sample").or_insert(off.clone());
            map.extend(set.into_iter().map(|(key, value)| (key.to_owned(), value)));
            // Euler and UniPC without a word on it keep the model's own spacing.
            if self.spacing.is_some() || !["euler", "unipc"].contains(&self.method) {
                for (key, levels) in
                    [("use_karras_sigmas", Levels::Karras), ("use_exponential_sigmas", Levels::Exponential)]
                {
                    map.insert(key.into(), (self.spacing == Some(levels)).into());
                }
                map.insert("use_lu_lambdas".into(), off);
            }
        }
        Ok((Class::from_diffusers(class)?, config))
    }
}

/// webui's name of a scheduler, by any of its names or the class of diffusers.
pub fn label(name: &str) -> String {
    if let Some(Name { label, spacing, .. }) = Name::parse(name) {
        return match spacing {
            None => label.into(),
            Some(Levels::Karras) => format!("{label} Karras"),
            Some(Levels::Exponential) => format!("{label} Exponential"),
        };
    }
    let label = match name {
        "DDIMScheduler" => "DDIM",
        "DDPMScheduler" => "DDPM",
        "PNDMScheduler" => "PLMS",
        "EulerDiscreteScheduler" => "Euler",
        "EulerAncestralDiscreteScheduler" => "Euler a",
        "UniPCMultistepScheduler" => "UniPC",
        "LCMScheduler" => "LCM",
        "HeunDiscreteScheduler" => "Heun",
        "KDPM2DiscreteScheduler" => "DPM2",
        "KDPM2AncestralDiscreteScheduler" => "DPM2 a",
        "DPMSolverSDEScheduler" => "DPM++ SDE",
        "LMSDiscreteScheduler" => "LMS",
        "DEISMultistepScheduler" => "DEIS",
        "TCDScheduler" => "TCD",
        other => other,
    };
    label.into()
}
