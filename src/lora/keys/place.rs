//! The module that a key belongs to.

use std::collections::{BTreeSet, HashMap};

use crate::lora::base::{self, BaseModules};
use crate::lora::families::Family;
use crate::lora::sgm;

/// Where a stem leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub component: String,
    pub module: String,
    /// Spelled with LDM block names.
    pub ldm: bool,
}

/// Prefixes after `.` has become `_`, and the component that each names ("" where it is implied), longest first.
const PREFIXES: [(&str, &str); 17] = [
    ("base_model_model_unet_", "unet"),
    ("model_diffusion_model_", "unet"),
    ("base_model_model_", ""),
    ("lycoris_te1_", "text_encoder"),
    ("lycoris_te2_", "text_encoder_2"),
    ("diffusion_model_", "unet"),
    ("text_encoder_2_", "text_encoder_2"),
    ("text_encoder_", "text_encoder"),
    ("lycoris_unet_", "unet"),
    ("lycoris_te_", "text_encoder"),
    ("lora_unet_", "unet"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
    ("lora_te_", "text_encoder"),
    ("lycoris_", ""),
    ("unet_", "unet"),
    ("", ""),
];

/// Every spelling of every module of one model, with `.` written `_`.
pub struct KeyTable {
    bodies: HashMap<String, HashMap<String, (String, bool)>>,
}

impl KeyTable {
    pub fn new(base: &BaseModules) -> Self {
        let mut bodies = HashMap::new();
        for (component, modules) in base {
            let mut table = HashMap::new();
            let layout = sgm::Layout::of(modules.keys().map(String::as_str));
            let norms = norms(modules.keys().map(String::as_str));
            for module in modules.keys().chain(&norms) {
                if component == "unet"
                    && let Some(ldm) = layout.ldm_name(module)
                {
                    // A canonical name wins where the two layouts ever coincide.
                    for spelling in spellings(component, &ldm) {
                        table.entry(spelling).or_insert((module.clone(), true));
                    }
                }
            }
            for module in modules.keys().chain(&norms) {
                for spelling in spellings(component, module) {
                    table.insert(spelling, (module.clone(), false));
                }
            }
            bodies.insert(component.clone(), table);
        }
        Self { bodies }
    }

    /// The table of the published family that knows most of `stems`: for files read without a model.
    pub fn guess<'a>(stems: impl Iterator<Item = &'a str> + Clone) -> Self {
        let known = |table: &Self| stems.clone().filter(|s| table.find(s, None).is_some()).count();
        let mut best: Option<(usize, Self)> = None;
        for family in Family::ALL {
            let table = Self::new(&family.modules());
            let count = known(&table);
            if best.as_ref().is_none_or(|(most, _)| count > *most) {
                best = Some((count, table));
            }
        }
        best.expect("there are families").1
    }

    /// The module that a stem means. `implied` is the component of a stem that names none, where it is known.
    pub fn find(&self, stem: &str, implied: Option<&str>) -> Option<Place> {
        let flat = flatten(stem);
        for (prefix, component) in PREFIXES {
            let Some(body) = flat.strip_prefix(prefix) else {
                continue;
            };
            for candidate in base::COMPONENTS {
                let wanted = if component.is_empty() { implied } else { Some(component) };
                if wanted.is_none_or(|component| component == candidate)
                    && let Some((module, ldm)) = self.bodies.get(candidate).and_then(|t| t.get(body))
                {
                    return Some(Place { component: candidate.into(), module: module.clone(), ldm: *ldm });
                }
            }
        }
        None
    }
}

/// Reads a dotted stem in diffusers names as it stands, for a file read without a model: `unet.P`, `text_encoder.P`,
/// or bare `P` of a UNet or of the `implied` component.
pub fn parse_dotted(stem: &str, implied: Option<&str>) -> Option<Place> {
    let stem = unwrapped(stem);
    let stem = stem.as_str();
    let (component, module) = match stem.split_once('.') {
        Some((c, rest)) if base::COMPONENTS.contains(&c) => (c, rest),
        _ if stem.starts_with("text_model.") => (implied.unwrap_or("text_encoder"), stem),
        _ => (implied.unwrap_or("unet"), stem),
    };
    let start = module.split('.').next()?;
    let known = match component {
        "unet" => {
            ["down_blocks", "mid_block", "up_blocks", "conv_in", "conv_out"].contains(&start)
                || ["time_embedding", "add_embedding"].contains(&start)
        }
        _ => ["text_model", "encoder", "text_projection"].contains(&start),
    };
    if !known {
        return None;
    }
    let mut module = base::canonical(component, module);
    for (old, new) in OLD_NAMES {
        if component == "unet" && old != "to_out" {
            continue;
        }
        let new = if component == "unet" { "to_out.0" } else { new };
        if let Some(at) = module.strip_suffix(old)
            && at.ends_with('.')
        {
            module = format!("{at}{new}");
            break;
        }
    }
    Some(Place { component: component.into(), module, ldm: false })
}

/// The attention projections as the processors of old diffusers releases called them, and the encoders' own names.
const OLD_NAMES: [(&str, &str); 4] =
    [("to_q", "q_proj"), ("to_k", "k_proj"), ("to_v", "v_proj"), ("to_out", "out_proj")];

/// A dotted stem without what wrappers add: `_orig_mod` (torch.compile), `module` (DistributedDataParallel), `base_model.model`
/// (peft), `processor` (old attention), and a component that is named twice.
fn unwrapped(stem: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in stem.split('.') {
        let doubled = base::COMPONENTS.contains(&segment) && segments.last() == Some(&segment);
        match segment {
            "_orig_mod" | "module" | "processor" => {}
            "model" if segments.last() == Some(&"base_model") => drop(segments.pop()),
            _ if doubled => {}
            _ => segments.push(segment),
        }
    }
    segments.join(".")
}

fn flatten(stem: &str) -> String {
    unwrapped(stem).replace('.', "_").replace("wrapped_transformer_", "").replace("_orig_mod_", "")
}

/// The norms of a network that has these modules.
fn norms<'a>(modules: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    const BESIDE: [(&str, &[&str]); 4] = [
        ("attn1.to_q", &["norm1", "norm2", "norm3"]),
        ("conv1", &["norm1", "norm2"]),
        ("proj_in", &["norm"]),
        ("self_attn.q_proj", &["layer_norm1", "layer_norm2"]),
    ];
    let mut norms = BTreeSet::new();
    for module in modules {
        for (suffix, names) in BESIDE {
            if let Some(start) = module.strip_suffix(suffix).filter(|start| start.ends_with('.')) {
                norms.extend(names.iter().map(|name| format!("{start}{name}")));
            }
        }
        match module {
            "conv_out" => drop(norms.insert("conv_norm_out".into())),
            _ if module.starts_with("text_model.encoder.") => drop(norms.insert("text_model.final_layer_norm".into())),
            _ => {}
        }
    }
    norms
}

/// The flattened spellings of one module.
fn spellings(component: &str, module: &str) -> Vec<String> {
    let flat = module.replace('.', "_");
    let mut all = vec![flat.clone()];
    if component == "unet" {
        if let Some(start) = flat.strip_suffix("to_out_0") {
            all.push(format!("{start}to_out"));
        }
        return all;
    }
    for (old, new) in OLD_NAMES {
        if let Some(start) = flat.strip_suffix(new) {
            all.push(format!("{start}{old}"));
        }
    }
    let bare: Vec<String> = all.iter().filter_map(|s| s.strip_prefix("text_model_")).map(String::from).collect();
    all.extend(bare);
    all
}
