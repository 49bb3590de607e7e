//! The weight files of one model component, read by name and scope. Every tensor is accounted for: read once, or
//! reported by [`Weights::finish`].

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;

use crate::device::gpu::Gpu;
use crate::error::{Error, Result};
use crate::formats::component::Component;
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
    dtype: DType,
}

struct Store {
    files: Component,
    /// Weights are drawn from this seed instead of read.
    seed: Option<u64>,
    /// Weights are memory of this GPU that nobody has written.
    unset: Option<Gpu>,
    read: RefCell<BTreeSet<String>>,
    params: RefCell<Vec<Param>>,
}

impl Weights {
    /// Opens the weights of a component by [`Component::open`]. Matrices are handed out in `dtype`, vectors in its
    /// accumulator type.
    ///
    /// # Errors
    /// As [`Component::open`].
    pub fn open(place: &Path, dtype: DType) -> Result<Self> {
        Ok(Self::over(Component::open(place)?, None, None, dtype))
    }

    /// Fresh weights for whatever is asked for: matrices and kernels uniform within 1 / sqrt(fan in), as PyTorch's layers
    /// begin, norm weights 1, biases 0. The n-th parameter asked for depends on `seed` and n alone.
    pub fn initial(seed: u64, dtype: DType) -> Self {
        Self::over(Component::default(), Some(seed), None, dtype)
    }

    /// Tensors that are opened already, under names of the caller's choice.
    pub fn of(files: Component, dtype: DType) -> Self {
        Self::over(files, None, None, dtype)
    }

    /// Memory on `gpu` for whatever is asked for, with unspecified values: for a list of what a network launches.
    pub fn unset(gpu: &Gpu, dtype: DType) -> Self {
        Self::over(Component::default(), None, Some(gpu.clone()), dtype)
    }

    fn over(files: Component, seed: Option<u64>, unset: Option<Gpu>, dtype: DType) -> Self {
        Self {
            store: Rc::new(Store { files, seed, unset, read: RefCell::default(), params: RefCell::default() }),
            prefix: String::new(),
            name: String::new(),
            dtype,
        }
    }

    /// The tensors whose names begin with `name.`.
    pub fn scope(&self, name: &str) -> Self {
        self.scope_as(name, name)
    }

    /// As [`Weights::scope`] of `file`, an empty string for none, where the module is called `name`.
    pub fn scope_as(&self, name: &str, file: &str) -> Self {
        let dot = if file.is_empty() { "" } else { "." };
        let (store, prefix) = (self.store.clone(), format!("{}{file}{dot}", self.prefix));
        Self { store, prefix, name: join(&self.name, name), dtype: self.dtype }
    }

    /// The same tensors, with matrices in the accumulator type: for the few that nobody gains from rounding.
    pub fn unrounded(&self) -> Self {
        Self { dtype: self.dtype.master_dtype(), ..self.clone() }
    }

    /// The module's full dotted name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The type matrices are handed out in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether the file has this tensor.
    pub fn contains(&self, key: &str) -> bool {
        self.store.files.contains(&format!("{}{key}", self.prefix))
    }

    /// The shape of a tensor of the file.
    ///
    /// # Errors
    /// [`Error::File`] naming the tensor that is missing.
    pub fn shape(&self, key: &str) -> Result<Vec<usize>> {
        let name = format!("{}{key}", self.prefix);
        self.store.files.shape(&name).ok_or_else(|| self.missing(&name))
    }

    /// How many scopes `key.0`, `key.1`, .. there are.
    pub fn count(&self, key: &str) -> usize {
        let is_there = |i: &usize| {
            let scope = format!("{}{key}.{i}.", self.prefix);
            self.store.files.names().any(|name| name.starts_with(&scope))
        };
        (0..).take_while(is_there).count()
    }

    /// A table `[rows, columns]` whose dimensions the file may store otherwise, such as `[1, rows, columns]`.
    ///
    /// # Errors
    /// [`Error::File`] naming a tensor that is missing or does not have these elements.
    pub fn table(&self, key: &str, rows: usize, columns: usize) -> Result<Param> {
        let value = self.read(key)?;
        match value.len() == rows * columns && value.shape().last() == Some(&columns) {
            true => Ok(self.param(key, value.with_shape(&[rows, columns]).cast(self.dtype))),
            false => self.check(key, &value, &[rows, columns]).map(|()| unreachable!("its shape differs")),
        }
    }

    /// A tensor of this shape as the file has it, from which the caller makes a parameter.
    pub(super) fn value(&self, key: &str, shape: &[usize]) -> Result<Tensor> {
        let value = self.read(key)?;
        self.check(key, &value, shape)?;
        Ok(value)
    }

    /// A bias or norm weight `[len]`, in the accumulator type.
    ///
    /// # Errors
    /// [`Error::File`] naming a tensor that is missing or has another shape; where a device has no room.
    pub fn vector(&self, key: &str, len: usize) -> Result<Param> {
        if let Some(gpu) = &self.store.unset {
            return Ok(self.param(key, unset(gpu, &[len], self.dtype.master_dtype())?));
        }
        let value = match self.store.seed {
            Some(_) => Tensor::full(&[len], f64::from(u8::from(key == "weight")), DType::F32),
            None => self.read(key)?,
        };
        self.check(key, &value, &[len])?;
        Ok(self.param(key, value.cast(self.dtype.master_dtype())))
    }

    /// A matrix `[rows, columns]`, which old files may store as a 1x1 convolution `[rows, columns, 1, 1]` or
    /// `[rows, columns, 1]`.
    ///
    /// # Errors
    /// As [`Weights::vector`].
    pub fn matrix(&self, key: &str, rows: usize, columns: usize) -> Result<Param> {
        if let Some(gpu) = &self.store.unset {
            return Ok(self.param(key, unset(gpu, &[rows, columns], self.dtype)?));
        }
        let mut value = match self.store.seed {
            Some(seed) => self.draw(seed, &[rows, columns]),
            None => self.read(key)?,
        };
        if value.shape() == [rows, columns, 1, 1] || value.shape() == [rows, columns, 1] {
            value = value.with_shape(&[rows, columns]);
        }
        self.check(key, &value, &[rows, columns])?;
        Ok(self.param(key, value.cast(self.dtype)))
    }

    /// A convolution's weight `[c_out, c_in, k, k]`, handed out as `[c_out, k, k, c_in]`. Where `k` is 1 the file may
    /// store a matrix.
    ///
    /// # Errors
    /// As [`Weights::vector`].
    pub fn kernel(&self, key: &str, c_out: usize, c_in: usize, k: usize) -> Result<Param> {
        if let Some(gpu) = &self.store.unset {
            return Ok(self.param(key, unset(gpu, &[c_out, k, k, c_in], self.dtype)?));
        }
        if let Some(seed) = self.store.seed {
            return Ok(self.param(key, self.draw(seed, &[c_out, k, k, c_in]).cast(self.dtype)));
        }
        let mut value = self.read(key)?;
        if k == 1 && value.shape() == [c_out, c_in] {
            value = value.with_shape(&[c_out, c_in, 1, 1]);
        }
        self.check(key, &value, &[c_out, c_in, k, k])?;
        Ok(self.param(key, channels_last(&value.cast(self.dtype))?))
    }

    /// Every parameter read, in the order of reading.
    ///
    /// # Errors
    /// [`Error::File`] naming tensors that nothing read: the configuration does not describe this file.
    pub fn finish(self) -> Result<Vec<Param>> {
        let read = self.store.read.borrow();
        // Old transformers saved this constant buffer; it carries no information.
        let unread: Vec<&str> = (self.store.files.names())
            .filter(|name| !read.contains(*name) && !name.ends_with("position_ids"))
            .collect();
        if unread.is_empty() {
            return Ok(self.store.params.borrow().clone());
        }
        let first = &unread[..unread.len().min(4)];
        let more = if unread.len() > first.len() { ", ..." } else { "" };
        Err(Error::file(
            self.store.files.place(),
            format!(
                "{} tensors have no place in the model that config.json describes: {}{more}; the configuration and the \
                 weights belong to different models",
                unread.len(),
                first.join(", ")
            ),
        ))
    }

    /// As [`Weights::finish`], of a file that may hold more than the model has: also the names that nothing read.
    pub fn finish_with_unread(self) -> (Vec<Param>, Vec<String>) {
        let read = self.store.read.borrow();
        let unread = self.store.files.names().filter(|name| !read.contains(*name)).map(str::to_owned).collect();
        (self.store.params.borrow().clone(), unread)
    }

    fn read(&self, key: &str) -> Result<Tensor> {
        let name = format!("{}{key}", self.prefix);
        if !self.store.files.contains(&name) {
            return Err(self.missing(&name));
        }
        let value = self.store.files.weight(&name)?;
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
        let closest = (self.store.files.names())
            .max_by(|a, b| similarity(a).total_cmp(&similarity(b)))
            .map(|other| format!("; the closest is {other}"))
            .unwrap_or_default();
        Error::file(self.store.files.place(), format!("no tensor {name}, which config.json calls for{closest}"))
    }

    fn check(&self, key: &str, value: &Tensor, expected: &[usize]) -> Result<()> {
        if value.shape() == expected {
            return Ok(());
        }
        let name = format!("{}{key}", self.prefix);
        Err(Error::file(
            self.store.files.file_of(&name),
            format!("tensor {name} has shape {:?}; config.json calls for {expected:?}", value.shape()),
        ))
    }

    pub(super) fn param(&self, key: &str, value: Tensor) -> Param {
        let param = Param::new(join(&self.name, key), value);
        self.store.params.borrow_mut().push(param.clone());
        param
    }
}

/// Memory of a GPU as it comes.
fn unset(gpu: &Gpu, shape: &[usize], dtype: DType) -> Result<Tensor> {
    Ok(Tensor::on_gpu(gpu.buffer(dtype, shape.iter().product())?, shape))
}

fn join(scope: &str, name: &str) -> String {
    match (scope, name) {
        ("", name) => name.into(),
        (scope, "") => scope.into(),
        _ => format!("{scope}.{name}"),
    }
}
