//! The tensors of one component of a model (its UNet, say), by their names in diffusers: from a folder of a model, or
//! from its part of a single-file checkpoint, which goes by the name `file.safetensors/unet`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::formats::checkpoint::{Checkpoint, Source};
use crate::formats::json;
use crate::formats::safetensors::Safetensors;
use crate::formats::tensor_file::TensorFile;
use crate::tensor::Tensor;

/// Named tensors, in one file or several.
#[derive(Default)]
pub struct Component {
    place: PathBuf,
    files: Vec<TensorFile>,
    /// Where each tensor is: which of `files`, and what of it.
    index: BTreeMap<String, (usize, Source)>,
}

impl Component {
    /// Opens the weights in `place`: one file, its shards, or their fp16 variant, whichever is there first.
    ///
    /// # Errors
    /// [`Error::File`] naming the folder or file: nothing readable there, a shard missing, a tensor in two shards.
    pub fn open(place: &Path) -> Result<Self> {
        if let Some((file, name)) = in_checkpoint(place) {
            let (file, index) = Checkpoint::open_for(file, name)?.into_component(name)?;
            let index = index.into_iter().map(|(name, source)| (name, (0, source))).collect();
            return Ok(Self { place: place.into(), files: vec![TensorFile::Safetensors(file)], index });
        }
        let mut index = BTreeMap::new();
        let mut files = Vec::new();
        for path in weight_files(place)? {
            let file = Safetensors::open(&path)?;
            for name in file.names() {
                if index.insert(name.into(), (files.len(), Source::whole(name))).is_some() {
                    return Err(Error::file(&path, format!("tensor {name} is in another shard too")));
                }
            }
            files.push(TensorFile::Safetensors(file));
        }
        Ok(Self { place: place.into(), files, index })
    }

    /// The tensors of one file or of all shards, each under the names that `names` gives it; where those are none, it is
    /// left out.
    ///
    /// # Errors
    /// [`Error::File`] where two tensors have one name.
    pub fn renamed(
        place: &Path,
        files: Vec<TensorFile>,
        names: impl Fn(&str) -> Vec<(String, Source)>,
    ) -> Result<Self> {
        let mut index = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for (name, source) in file.names().flat_map(&names) {
                if index.insert(name.clone(), (i, source)).is_some() {
                    return Err(Error::file(file.path(), format!("two tensors of it are {name}")));
                }
            }
        }
        Ok(Self { place: place.into(), files, index })
    }

    /// The folder, or the checkpoint and the component's name.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Names in sorted order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.index.contains_key(name)
    }

    /// The shape of one tensor, without touching its data.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let (file, source) = self.index.get(name)?;
        Some(source.shape(self.files[*file].shape(&source.key)?))
    }

    /// The file that a tensor is in.
    pub fn file_of(&self, name: &str) -> &Path {
        self.index.get(name).map_or(&self.place, |(file, _)| self.files[*file].path())
    }

    /// Copies one tensor out: floats, all of them finite.
    ///
    /// # Errors
    /// As [`Safetensors::weight`].
    pub fn weight(&self, name: &str) -> Result<Tensor> {
        let Some((file, source)) = self.index.get(name) else {
            return Err(Error::file(&self.place, format!("no tensor named {name}")));
        };
        source.take(&self.files[*file].weight(&source.key)?, self.files[*file].path())
    }
}

/// The checkpoint and the component that a place inside of a file means.
pub fn in_checkpoint(place: &Path) -> Option<(&Path, &str)> {
    let file = place.parent().filter(|parent| parent.is_file())?;
    Some((file, place.file_name()?.to_str()?))
}

/// A configuration file of a component, such as `unet/config.json`; for a checkpoint, what its family and its shapes say.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] where it is not JSON.
pub fn json(path: &Path) -> Result<Value> {
    if let Some((file, name)) = path.parent().and_then(in_checkpoint) {
        return Checkpoint::open_for(file, name)?.config(name);
    }
    json::read(path)
}

/// The weight files of a component's folder: the full-precision file or its shards, else the fp16 variant.
///
/// # Errors
/// [`Error::File`] where there is none, or an index names a file outside of the folder.
pub fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];
    for stem in STEMS {
        for variant in ["", ".fp16"] {
            let single = folder.join(format!("{stem}{variant}.safetensors"));
            if single.is_file() {
                return Ok(vec![single]);
            }
            for index in
                [format!("{stem}.safetensors.index{variant}.json"), format!("{stem}{variant}.safetensors.index.json")]
            {
                let index = folder.join(index);
                if index.is_file() {
                    return shards(folder, &index);
                }
            }
        }
    }
    let pickles = STEMS.iter().flat_map(|stem| ["bin", "ckpt", "pt"].map(|end| format!("{stem}.{end}")));
    let message = match pickles.into_iter().find(|name| folder.join(name).is_file()) {
        Some(name) => format!(
            "there is only {name}, a pickle file, which can run code when it is loaded; convert the model with \
             diffusers' save_pretrained(..., safe_serialization=True)"
        ),
        None => {
            "no diffusion_pytorch_model.safetensors or model.safetensors here, nor their fp16 variants or shards".into()
        }
    };
    Err(Error::file(folder, message))
}

fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let json = json(index)?;
    let map = json["weight_map"].as_object().ok_or_else(|| Error::file(index, "no `weight_map` object"))?;
    let mut names = BTreeSet::new();
    for value in map.values() {
        // A name with a folder in it could lead out of the model.
        match value.as_str().filter(|name| !name.contains(['/', '\\'])) {
            Some(name) => names.insert(name),
            None => {
                let message = format!("`weight_map` names {value}, which is not a file of this folder");
                return Err(Error::file(index, message));
            }
        };
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}
