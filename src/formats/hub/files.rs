//! Which files of a model selma reads.

use std::path::Path;

use serde_json::Value;

use super::download::{Listing, RemoteFile};
use crate::error::{Error, Result};
use crate::formats::json;
use crate::formats::model_dir::ModelDir;

/// Components with weights, and the stem of their files.
const NETWORKS: [(&str, &str); 4] = [
    ("unet", "diffusion_pytorch_model"),
    ("vae", "diffusion_pytorch_model"),
    ("text_encoder", "model"),
    ("text_encoder_2", "model"),
];
const OTHERS: [&str; 3] = ["scheduler", "tokenizer", "tokenizer_2"];

/// What is to be downloaded: the configurations and vocabularies of the components that the index lists, and of each
/// network one set of weights (of the variant, else full precision before fp16; never a pickle).
///
/// # Errors
/// [`Error::Failed`] naming a component without such weights; [`Error::Io`], [`Error::File`] for the index.
pub fn wanted<'a>(id: &str, index: &Path, variant: Option<&str>, listing: &'a Listing) -> Result<Vec<&'a RemoteFile>> {
    let index: Value = json::read(index)?;
    let mut wanted = Vec::new();
    for name in OTHERS.into_iter().filter(|name| index[name].is_array()) {
        wanted.extend(listing.below(name).filter(|file| file.name.ends_with(".json") || file.name.ends_with(".txt")));
    }
    for (name, stem) in NETWORKS.into_iter().filter(|(name, _)| index[name].is_array()) {
        wanted.extend(listing.find(&format!("{name}/config.json")));
        let weights = weights(name, stem, variant, listing);
        if let (true, Some(variant)) = (weights.is_empty(), variant) {
            let message = format!("{id}: {name} has no safetensors weights of the variant {variant} there");
            return Err(Error::Failed(message));
        }
        if weights.is_empty() {
            return Err(Error::Failed(format!(
                "{id}: {name} has no safetensors weights there (pickles can run code and are not loaded); convert it with \
                 diffusers' save_pretrained, and give that folder"
            )));
        }
        wanted.extend(weights);
    }
    Ok(wanted)
}

/// One file, or the shards with their index.
fn weights<'a>(component: &'a str, stem: &str, variant: Option<&str>, listing: &'a Listing) -> Vec<&'a RemoteFile> {
    let named = variant.map(|variant| format!(".{variant}"));
    let variants = named.as_deref().map_or(vec!["", ".fp16"], |named| vec![named]);
    for variant in variants {
        if let Some(file) = listing.find(&format!("{component}/{stem}{variant}.safetensors")) {
            return vec![file];
        }
        let index = [
            format!("{component}/{stem}.safetensors.index{variant}.json"),
            format!("{component}/{stem}{variant}.safetensors.index.json"),
        ];
        let Some(index) = index.iter().find_map(|name| listing.find(name)) else {
            continue;
        };
        let shard = |file: &&RemoteFile| {
            let rest = file.name.strip_prefix(&format!("{component}/{stem}")).unwrap_or_default();
            rest.contains("-of-") && rest.ends_with(".safetensors") && of_variant(rest, variant)
        };
        return listing.below(component).filter(shard).chain([index]).collect();
    }
    Vec::new()
}

/// Whether the rest of a shard's name is of a variant; the empty one is none of the others.
fn of_variant(rest: &str, variant: &str) -> bool {
    match variant.is_empty() {
        true => rest.starts_with('-') && !rest.trim_end_matches(".safetensors").contains('.'),
        false => rest.starts_with(&format!("{variant}-")) || rest.contains(&format!("{variant}.safetensors")),
    }
}

/// Whether a snapshot has all that selma reads: another program may have downloaded a part of it alone.
pub fn is_whole(folder: &Path) -> bool {
    let has_weights = |folder: &Path| {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return false;
        };
        let names: Vec<_> = entries
            .filter_map(|entry| entry.ok().filter(|entry| entry.path().is_file()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        let shards = names.iter().filter(|name| name.ends_with(".safetensors"));
        let told = shards.clone().find_map(|name| shard_count(name));
        told.map_or(shards.clone().count() > 0, |count| shards.count() >= count)
    };
    ModelDir::open(folder).is_ok_and(|model| {
        let second = model.text_encoder_2.as_deref();
        let networks = [&model.unet, &model.vae, &model.text_encoder].map(|path| path.as_path());
        networks.into_iter().chain(second).all(has_weights)
    })
}

/// The N of `STEM-00001-of-N.safetensors`.
fn shard_count(name: &str) -> Option<usize> {
    let (_, rest) = name.split_once("-of-")?;
    rest.split('.').next()?.parse().ok()
}
