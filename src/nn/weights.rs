//! The weight files of one model component, read by name and scope. Every tensor is accounted for: read once, or
//! reported by [`Weights::finish`].

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::error::{Error, Result};
use crate::formats::safetensors::Safetensors;
use crate::nn::layout::channels_last;
use crate::nn::param::Param;
use crate::tensor::random::{self, Stream};
use crate::tensor::{DType, Tensor};

/// Named tensors under a scope. Clones and scopes share one store.
#[derive(Clone)]
pub struct Weights {
    store: Rc<Store>,
    /// What names in the file begin with here, with the dot.
    prefix: String,
    /// The module's name for users and LoRA files, which need not be the file's.
    name: String,
}

struct Store {
    folder: PathBuf,
    files: Vec<Safetensors>,
    /// Which of `files` holds a tensor.
    index: BTreeMap<String, usize>,
    /// Weights are drawn from this seed instead of read.
    seed: Option<u64>,
    dtype: DType,
    read: RefCell<BTreeSet<String>>,
    params: RefCell<Vec<Param>>,
}

impl Weights {
    /// Opens `<stem>.safetensors` in `folder`, its shards, or their fp16 variant, whichever is there first. Matrices are
    /// handed out in `dtype`, vectors in its accumulator type.
    ///
    /// # Errors
    /// [`Error::File`] naming the folder or file: nothing readable there, a shard missing, a tensor in two shards.
    pub fn open(folder: &Path, stem: &str, dtype: DType) -> Result<Self> {
        let mut index = BTreeMap::new();
        let mut files = Vec::new();
        for path in find(folder, stem)? {
            let file = Safetensors::open(&path)?;
            for name in file.names() {
                if index.insert(name.to_string(), files.len()).is_some() {
                    return Err(Error::file(&path, format!("tensor {name} is in another shard too")));
                }
            }
            files.push(file);
        }
        Ok(Self::over(Store {
            folder: folder.into(),
            files,
            index,
            seed: None,
            dtype,
            read: RefCell::default(),
            params: RefCell::default(),
        }))
    }

    /// Fresh weights for whatever is asked for: matrices and kernels uniform within 1 / sqrt(fan in), as PyTorch's layers
    /// begin, norm weights 1, biases 0. The n-th parameter asked for depends on `seed` and n alone.
    pub fn initial(seed: u64, dtype: DType) -> Self {
        Self::over(Store {
            folder: PathBuf::new(),
            files: Vec::new(),
            index: BTreeMap::new(),
            seed: Some(seed),
            dtype,
            read: RefCell::default(),
            params: RefCell::default(),
        })
    }

    fn over(store: Store) -> Self {
        Self {
            store: Rc::new(store),
            prefix: String::new(),
            name: String::new(),
        }
    }

    /// The tensors whose names begin with `name.`.
    pub fn scope(&self, name: &str) -> Self {
        self.scope_as(name, name)
    }

    /// As [`Weights::scope`] of `file`, an empty string for none, where the module is called `name`.
    pub fn scope_as(&self, name: &str, file: &str) -> Self {
        let dot = if file.is_empty() { "" } else { "." };
        Self {
            store: self.store.clone(),
            prefix: format!("{}{file}{dot}", self.prefix),
            name: join(&self.name, name),
        }
    }

    /// The module's full dotted name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type matrices are handed out in.
    pub fn dtype(&self) -> DType {
        self.store.dtype
    }

    /// Whether the file has this tensor.
    pub fn contains(&self, key: &str) -> bool {
        self.store.index.contains_key(&format!("{}{key}", self.prefix))
    }

    /// A bias or norm weight `[len]`, in the accumulator type.
    pub fn vector(&self, key: &str, len: usize) -> Result<Param> {
        let value = match self.store.seed {
            Some(_) => Tensor::full(&[len], f64::from(u8::from(key == "weight")), DType::F32),
            None => self.read(key)?,
        };
        self.check(key, &value, &[len])?;
        Ok(self.param(key, value.cast(self.store.dtype.accumulator())))
    }

    /// A matrix `[rows, columns]`, which old files may store as a 1x1 convolution `[rows, columns, 1, 1]`.
    pub fn matrix(&self, key: &str, rows: usize, columns: usize) -> Result<Param> {
        let mut value = match self.store.seed {
            Some(seed) => self.draw(seed, &[rows, columns]),
            None => self.read(key)?,
        };
        if value.shape() == [rows, columns, 1, 1] {
            value = value.with_shape(&[rows, columns]);
        }
        self.check(key, &value, &[rows, columns])?;
        Ok(self.param(key, value.cast(self.store.dtype)))
    }

    /// A convolution's weight `[c_out, c_in, k, k]`, handed out as `[c_out, k, k, c_in]`. Where `k` is 1 the file may
    /// store a matrix.
    pub fn kernel(&self, key: &str, c_out: usize, c_in: usize, k: usize) -> Result<Param> {
        if let Some(seed) = self.store.seed {
            return Ok(self.param(key, self.draw(seed, &[c_out, k, k, c_in]).cast(self.store.dtype)));
        }
        let mut value = self.read(key)?;
        if k == 1 && value.shape() == [c_out, c_in] {
            value = value.with_shape(&[c_out, c_in, 1, 1]);
        }
        self.check(key, &value, &[c_out, c_in, k, k])?;
        Ok(self.param(key, channels_last(&value.cast(self.store.dtype))?))
    }

    /// Every parameter read, in the order of reading.
    ///
    /// # Errors
    /// [`Error::File`] naming tensors that nothing read: the configuration does not describe this file.
    pub fn finish(self) -> Result<Vec<Param>> {
        let read = self.store.read.borrow();
        // Old transformers saved this constant buffer; it carries no information.
        let unread: Vec<&str> = (self.store.index.keys())
            .filter(|name| !read.contains(*name) && !name.ends_with("position_ids"))
            .map(String::as_str)
            .collect();
        if unread.is_empty() {
            return Ok(self.store.params.borrow().clone());
        }
        let first = &unread[..unread.len().min(4)];
        let more = if unread.len() > first.len() { ", ..." } else { "" };
        Err(Error::file(
            &self.store.folder,
            format!(
                "{} tensors have no place in the model that config.json describes: {}{more}; the configuration and the \
                 weights belong to different models",
                unread.len(),
                first.join(", ")
            ),
        ))
    }

    fn read(&self, key: &str) -> Result<Tensor> {
        let name = format!("{}{key}", self.prefix);
        let Some(&file) = self.store.index.get(&name) else {
            return Err(self.missing(&name));
        };
        let value = self.store.files[file].weight(&name)?;
        self.store.read.borrow_mut().insert(name);
        Ok(value)
    }

    /// `[c_out, ..]` values within 1 / sqrt(the rest).
    fn draw(&self, seed: u64, shape: &[usize]) -> Tensor {
        let index = self.store.params.borrow().len() as u64;
        let bound = 1.0 / (shape[1..].iter().product::<usize>() as f32).sqrt();
        let values = random::uniform(seed, Stream::Init, index, 0, shape.iter().product());
        Tensor::new(values.into_iter().map(|u| (2.0 * u - 1.0) * bound).collect(), shape)
    }

    fn missing(&self, name: &str) -> Error {
        let similarity = |other: &str| strsim::jaro(name, other);
        let closest = (self.store.index.keys())
            .max_by(|a, b| similarity(a).total_cmp(&similarity(b)))
            .map(|other| format!("; the closest is {other}"))
            .unwrap_or_default();
        Error::file(
            &self.store.folder,
            format!("no tensor {name}, which config.json calls for{closest}"),
        )
    }

    fn check(&self, key: &str, value: &Tensor, expected: &[usize]) -> Result<()> {
        if value.shape() == expected {
            return Ok(());
        }
        let name = format!("{}{key}", self.prefix);
        Err(Error::file(
            self.store.files[self.store.index[&name]].path(),
            format!(
                "tensor {name} has shape {:?}; config.json calls for {expected:?}",
                value.shape()
            ),
        ))
    }

    fn param(&self, key: &str, value: Tensor) -> Param {
        let param = Param::new(join(&self.name, key), value);
        self.store.params.borrow_mut().push(param.clone());
        param
    }
}

fn join(scope: &str, name: &str) -> String {
    match (scope, name) {
        ("", name) => name.into(),
        (scope, "") => scope.into(),
        _ => format!("{scope}.{name}"),
    }
}

/// The weight files of a component: one file or the shards that an index lists; full precision before fp16.
fn find(folder: &Path, stem: &str) -> Result<Vec<PathBuf>> {
    let single = |name: String| Some(vec![folder.join(name)]).filter(|paths| paths[0].is_file());
    for variant in ["", ".fp16"] {
        if let Some(paths) = single(format!("{stem}{variant}.safetensors")) {
            return Ok(paths);
        }
        for index in [
            format!("{stem}.safetensors.index{variant}.json"),
            format!("{stem}{variant}.safetensors.index.json"),
        ] {
            let index = folder.join(index);
            if index.is_file() {
                return shards(folder, &index);
            }
        }
    }
    let pickle = ["bin", "ckpt", "pt"].map(|end| format!("{stem}.{end}"));
    let message = match pickle.iter().find(|name| folder.join(name).is_file()) {
        Some(name) => format!(
            "there is only {name}, a pickle file, which can run code when it is loaded; convert the model with \
             diffusers' save_pretrained(..., safe_serialization=True)"
        ),
        None => format!("no {stem}.safetensors, .fp16.safetensors or .safetensors.index.json here"),
    };
    Err(Error::file(folder, message))
}

fn shards(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    let text = std::fs::read(index).map_err(|e| Error::io(index, e))?;
    let json: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| Error::file(index, format!("not valid JSON: {e}")))?;
    let map = json["weight_map"]
        .as_object()
        .ok_or_else(|| Error::file(index, "no `weight_map` object"))?;
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
