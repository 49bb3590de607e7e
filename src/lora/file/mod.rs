//! Loading a LoRA. Every tensor of the file is accounted for: applied to a module, or an error that names it (with
//! `allow_unused` a warning).

mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::formats::safetensors::Safetensors;
use crate::lora::base::BaseModules;
use crate::lora::beside::{take_vectors, with_magnitude};
use crate::lora::expert::{Expert, LoraFactors};
use crate::lora::keys::{self, Key, KeyTable, Place, Role};
use crate::lora::lycoris;
use crate::lora::metadata::AdapterConfig;
use crate::lora::state;

use values::fit;
pub(super) use values::{finite, scalar};

/// A loaded file.
pub struct Loaded {
    pub path: PathBuf,
    pub expert: Expert,
    pub metadata: BTreeMap<String, String>,
    /// Each tensor that was applied, and the module that it belongs to.
    pub applied: BTreeMap<String, Place>,
    /// Tensors that fit nothing, and why; only with `allow_unused` may there be any.
    pub unused: Vec<(String, String)>,
}

impl Loaded {
    /// One line for each unused tensor, for a warning.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let path = self.path.display();
        self.unused.iter().map(move |(key, why)| format!("{path}: {key} is unused: {why}"))
    }
}

/// The file that a `--lora` argument means: itself, or the usual name inside of a folder.
///
/// # Errors
/// [`Error::File`] for a folder that has none of those files.
pub fn resolve(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.into());
    }
    const NAMES: [&str; 3] = ["adapter_model.safetensors", "pytorch_lora_weights.safetensors", "lora.safetensors"];
    NAMES.iter().map(|name| path.join(name)).find(|file| file.is_file()).ok_or_else(|| {
        let hint = match super::base::COMPONENTS.iter().find(|c| path.join(c).join(NAMES[0]).is_file()) {
            Some(component) => {
                format!("; it holds an adapter for each component: name them one by one ({component})")
            }
            None => String::new(),
        };
        let names = NAMES.join(", ");
        Error::file(path, format!("no LoRA in this folder; expected one of {names}{hint}"))
    })
}

/// Reads a LoRA in any spelling. With `base`, names and shapes are checked against the model's modules; without it,
/// dotted names are taken as they stand and underscored ones are looked up in the published families.
///
/// # Errors
/// [`Error::File`] naming the tensors that fit nothing, a shape that differs from the model's, a missing factor, an
/// alpha of zero, a value that is not finite, or a kind of adapter that is not plain LoRA.
pub fn load(path: &Path, base: Option<&BaseModules>, allow_unused: bool) -> Result<Loaded> {
    let path = resolve(path)?;
    let file = Safetensors::open(&path)?;
    let config = AdapterConfig::read(&path, file.metadata())?;
    let mut loaded = Loaded {
        path: path.clone(),
        expert: Expert::default(),
        metadata: file.metadata().clone(),
        applied: BTreeMap::new(),
        unused: Vec::new(),
    };

    if let Some(expert) = state::expert(&file)? {
        base.map_or(Ok(()), |base| state::check(&path, &expert, base))?;
        let place = |(component, module): (&str, &str)| {
            let key = if component == "unet" { module.to_owned() } else { format!("{component}.{module}") };
            (key, Place { component: component.into(), module: module.into(), ldm: false })
        };
        loaded.applied = expert.iter().map(|(component, module, _)| place((component, module))).collect();
        loaded.expert = expert;
        return Ok(loaded);
    }
    if let Some(kind) = other_kind(&file) {
        return Err(Error::file(&path, format!("this is {kind}; expected a LoRA")));
    }
    let places = group(&file, base, &mut loaded)?;
    for (place, parts) in drop_doubled(&file, places, &mut loaded)? {
        let shape = base.and_then(|b| b.get(&place.component)?.get(&place.module));
        let parts = take_vectors(&file, &place, parts, shape, &mut loaded)?;
        if parts.is_empty() {
            continue;
        }
        if parts.keys().any(|role| matches!(role, Role::Lycoris(_))) {
            let factors = with_magnitude(&file, &parts, lycoris::factors(&file, &parts, shape)?)?;
            loaded.expert.insert(&place.component, &place.module, factors);
            loaded.applied.extend(parts.into_values().map(|key| (key, place.clone())));
            continue;
        }
        let Some((down, up)) = parts.get(&Role::Down).zip(parts.get(&Role::Up)) else {
            // Leaving lengths out would give another model than was trained, so no flag allows it.
            if let Some(key) = parts.get(&Role::Magnitude).or(parts.get(&Role::DoraScale)) {
                let message = format!("{key} has lengths of DoRA, and its module has no lora_down and lora_up");
                return Err(Error::file(&path, message));
            }
            let lacks = if parts.contains_key(&Role::Down) { "lora_up (B)" } else { "lora_down (A)" };
            let why = format!("{}.{} has no {lacks} beside it", place.component, place.module);
            loaded.unused.extend(parts.values().map(|key| (key.clone(), why.clone())));
            continue;
        };
        let mid = parts.get(&Role::Mid).map(|key| finite(&file, key)).transpose()?;
        let (down, up) = fit(&path, (down, finite(&file, down)?), (up, finite(&file, up)?), mid, shape)?;
        let rank = down.shape()[0];
        let alpha = match (parts.get(&Role::Scale), parts.get(&Role::Alpha)) {
            (Some(key), _) => scalar(&file, key)? * rank as f64,
            (None, Some(key)) => scalar(&file, key)?,
            (None, None) => config.alpha(&place.component, &place.module, rank)?.unwrap_or(rank as f64),
        };
        let factors = LoraFactors::new(down, up, alpha).map_err(|e| Error::file(&path, e.to_string()))?;
        let factors = with_magnitude(&file, &parts, factors)?;
        if factors.magnitude.is_none() && config.decomposes(&place.component) {
            let message = format!(
                "its configuration says use_dora, and {} has no lengths of DoRA (lora_magnitude_vector)",
                place.module
            );
            return Err(Error::file(&path, message));
        }
        loaded.expert.insert(&place.component, &place.module, factors);
        loaded.applied.extend(parts.into_values().map(|key| (key, place.clone())));
    }
    account(&loaded, base, allow_unused)?;
    Ok(loaded)
}

/// What a file is that has nothing of a LoRA but is something else that is shared for Stable Diffusion.
fn other_kind(file: &Safetensors) -> Option<&'static str> {
    const STARTS: [(&str, &str); 10] = [
        ("model.diffusion_model.input_blocks.0.0.weight", "a full checkpoint (give it by --model)"),
        ("first_stage_model.decoder.conv_in.weight", "a VAE (give it by --vae)"),
        ("decoder.conv_in.weight", "a VAE (give it by --vae)"),
        ("conv_in.weight", "the UNet of a model folder (give the folder by --model)"),
        ("control_model.", "a ControlNet"),
        ("controlnet_cond_embedding.", "a ControlNet"),
        ("double_blocks.", "a FLUX checkpoint"),
        ("emb_params", "a textual inversion embedding"),
        ("string_to_param.", "a textual inversion embedding"),
        ("clip_g", "a textual inversion embedding"),
    ];
    if file.names().any(|name| matches!(keys::split(name), Key::Part { .. })) {
        return None;
    }
    STARTS.into_iter().find(|(start, _)| file.names().any(|name| name.starts_with(start))).map(|(_, kind)| kind)
}

pub(super) type Parts = BTreeMap<Role, String>;

/// Sorts the file's keys by module and role.
fn group(file: &Safetensors, base: Option<&BaseModules>, loaded: &mut Loaded) -> Result<BTreeMap<Place, Parts>> {
    let mut split = Vec::new();
    for key in file.names() {
        match keys::split(key) {
            Key::Part { stem, role } => split.push((key, stem, role)),
            Key::Unsupported { algorithm, .. } => {
                // Leaving such a tensor out would give another model than was trained, so no flag allows it.
                let message = format!("{key}: this is {algorithm}, which is not available in this version");
                return Err(Error::file(file.path(), message));
            }
            Key::Embedding(name) => {
                let why = format!("the textual inversion embedding {name}, bundled with the LoRA: not loaded");
                loaded.unused.push((key.into(), why));
            }
            Key::Unknown => loaded.unused.push((key.into(), "not a tensor of any known LoRA layout".into())),
        }
    }
    let table = match base {
        Some(base) => KeyTable::new(base),
        None => KeyTable::guess(split.iter().map(|&(_, stem, _)| stem)),
    };
    let implied = implied_component(file.path());
    let mut places: BTreeMap<Place, Parts> = BTreeMap::new();
    for (key, stem, role) in split {
        let dotted = || match base {
            None => keys::parse_dotted(stem, implied),
            Some(_) => None,
        };
        let Some(place) = table.find(stem, implied).or_else(dotted) else {
            let whose = if base.is_some() { "this model" } else { "SD 1.x, SD 2.x or SDXL" };
            loaded.unused.push((key.into(), format!("{whose} has no module {stem}")));
            continue;
        };
        let Some(first) = places.entry(place.clone()).or_default().insert(role, key.into()) else {
            continue;
        };
        // Converters leave such copies behind.
        if !same_values(file, &first, key)? {
            let message = format!("{first} and {key} are two spellings of the same tensor; keep one of them");
            return Err(Error::file(file.path(), message));
        }
        loaded.applied.insert(first, place);
    }
    Ok(places)
}

fn same_values(file: &Safetensors, a: &str, b: &str) -> Result<bool> {
    let (a, b) = (file.tensor(a)?, file.tensor(b)?);
    Ok(a.len() == b.len() && a.reals::<f64>() == b.reals::<f64>())
}

/// A peft adapter does not say which network it is for; one that lies in a folder named after a component is for that.
fn implied_component(file: &Path) -> Option<&'static str> {
    let folder = file.parent()?.file_name()?.to_str()?;
    super::base::COMPONENTS.into_iter().find(|component| *component == folder)
}

/// Where a file has a module under its LDM name and its diffusers name, the second counts, as in diffusers; one that is not
/// the same is unused.
fn drop_doubled(
    file: &Safetensors,
    places: BTreeMap<Place, Parts>,
    loaded: &mut Loaded,
) -> Result<BTreeMap<Place, Parts>> {
    let (ldm, mut kept): (BTreeMap<_, _>, BTreeMap<_, _>) = places.into_iter().partition(|(place, _)| place.ldm);
    for (place, parts) in ldm {
        let twin = Place { ldm: false, ..place.clone() };
        let Some(others) = kept.get(&twin) else {
            kept.insert(place, parts);
            continue;
        };
        for (role, key) in parts {
            match others.get(&role) {
                Some(other) if same_values(file, other, &key)? => drop(loaded.applied.insert(key, twin.clone())),
                _ => {
                    let why = "the file has another tensor under the module's diffusers name, which counts";
                    loaded.unused.push((key, why.into()));
                }
            }
        }
    }
    Ok(kept)
}

fn account(loaded: &Loaded, base: Option<&BaseModules>, allow_unused: bool) -> Result<()> {
    const SHOWN: usize = 4;
    let (used, unused) = (loaded.applied.len(), loaded.unused.len());
    if (unused == 0 || allow_unused) && used > 0 {
        return Ok(());
    }
    if used == 0 && unused == 0 {
        return Err(Error::file(&loaded.path, "the file has no tensors"));
    }
    let mut message = format!("{unused} of its {} tensors fit nothing", used + unused);
    for (key, why) in loaded.unused.iter().take(SHOWN) {
        message += &format!("\n  {key}: {why}");
    }
    if unused > SHOWN {
        message += &format!("\n  and {} more", unused - SHOWN);
    }
    message += match (used, base) {
        (0, Some(_)) => "\nnothing fits this model: is it the LoRA of another family?",
        (0, None) => "\nis it a LoRA of Stable Diffusion? One for a model with other blocks needs that model (--model)",
        (used, Some(_)) if used < unused => {
            "\nmost of it fits another model: is it the LoRA of another family? (--allow-unused loads the rest)"
        }
        _ => "\nwith --allow-unused the rest is loaded",
    };
    Err(Error::file(&loaded.path, message))
}
