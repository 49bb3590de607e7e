//! Which modules of a UNet get a LoRA: dotted suffixes, as in peft's `target_modules`, and named sets of them.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// diffusers' and SELMA's default.
const ATTENTION: [&str; 4] = ["to_q", "to_k", "to_v", "to_out.0"];
const FEED_FORWARD: [&str; 2] = ["ff.net.0.proj", "ff.net.2"];
/// Every convolution of the resnets and samplers.
const CONVOLUTIONS: [&str; 5] = ["conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"];

/// A choice of modules. Parsed from a comma-separated list of suffixes and presets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    suffixes: Vec<String>,
    all_linear: bool,
}

impl Default for Targets {
    fn default() -> Self {
        Self::parse("attention").expect("the preset exists")
    }
}

impl Targets {
    /// Presets: `attention`, `attention+ff`, `all-linear` (every linear layer), `conv` (the convolutions of resnets and
    /// samplers; `attention,conv` for both). Everything else is a dotted suffix, such as `attn2.to_k`.
    ///
    /// # Errors
    /// [`Error::Usage`] for an empty list or item.
    pub fn parse(text: &str) -> Result<Self> {
        let mut targets = Self { suffixes: Vec::new(), all_linear: false };
        for item in text.split(',').map(str::trim) {
            let named: &[&[&str]] = match item {
                "" => {
                    return Err(Error::Usage(format!(
                        "targets {text:?}: an empty name; expected suffixes such as to_q,to_out.0 or a preset \
                         (attention, attention+ff, all-linear, conv)"
                    )));
                }
                "attention" => &[&ATTENTION],
                "attention+ff" => &[&ATTENTION, &FEED_FORWARD],
                "conv" => &[&CONVOLUTIONS],
                "all-linear" => {
                    targets.all_linear = true;
                    continue;
                }
                suffix => {
                    targets.suffixes.push(suffix.to_string());
                    continue;
                }
            };
            targets.suffixes.extend(named.iter().copied().flatten().map(|s| s.to_string()));
        }
        Ok(targets)
    }

    /// True where the module's path is one of the suffixes, or ends in `.` and one of them.
    pub fn matches(&self, module: &str, weight_shape: &[usize]) -> bool {
        (self.all_linear && weight_shape.len() == 2) || self.suffixes.iter().any(|s| ends_in(module, s))
    }

    /// The chosen modules in the order of their names.
    ///
    /// # Errors
    /// [`Error::Usage`] for a suffix that no module has, with the nearest one that exists.
    pub fn select(&self, modules: &BTreeMap<String, Vec<usize>>) -> Result<Vec<String>> {
        // A preset names what the family may lack (a UNet without conv_shortcut); what the user typed has to exist.
        for suffix in self.suffixes.iter().filter(|s| !CONVOLUTIONS.contains(&s.as_str())) {
            if !modules.keys().any(|m| ends_in(m, suffix)) {
                return Err(Error::Usage(no_such_target(suffix, modules)));
            }
        }
        let chosen: Vec<String> = modules
            .iter()
            .filter(|(module, shape)| self.matches(module, shape))
            .map(|(module, _)| module.clone())
            .collect();
        if chosen.is_empty() {
            return Err(Error::Usage("the targets match no module of this model".into()));
        }
        Ok(chosen)
    }

    /// The suffixes, for `target_modules` of a file's metadata.
    pub fn suffixes(&self) -> &[String] {
        &self.suffixes
    }
}

/// peft's rule for names: the whole path, or everything after one of its dots.
pub fn ends_in(module: &str, suffix: &str) -> bool {
    module.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn no_such_target(suffix: &str, modules: &BTreeMap<String, Vec<usize>>) -> String {
    let segments = suffix.split('.').count();
    let tail = |m: &str| {
        let parts: Vec<&str> = m.split('.').collect();
        parts[parts.len().saturating_sub(segments)..].join(".")
    };
    let nearest = modules
        .keys()
        .map(|m| tail(m))
        .max_by(|a, b| strsim::jaro_winkler(a, suffix).total_cmp(&strsim::jaro_winkler(b, suffix)));
    match nearest {
        Some(near) => format!(
            "target {suffix:?} matches no module of this model; the nearest is {near:?}, and all of a kind are attention, \
             attention+ff, all-linear and conv"
        ),
        None => format!("target {suffix:?} matches nothing: the model has no modules"),
    }
}
