//! PyTorch's weight files (`.pt`, `.pth`, `.bin`), which are pickles in a zip archive. Reading one builds containers and
//! tensors and nothing else: whatever else the pickle refers to is refused by its name, so that no code of it can run.

mod calls;
pub mod machine;
mod value;
mod zip;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;

use crate::error::{Error, Result};
use crate::tensor::{Element as Stored, Tensor, buffer};
use machine::Objects;
use value::{Element, Value, View};

/// The pickle itself holds names and sizes; those of published models take some 100 KB.
const LARGEST_PICKLE: usize = 8 << 20;

/// A memory-mapped file of named tensors.
pub struct Pickle {
    path: PathBuf,
    map: Mmap,
    tensors: BTreeMap<String, Place>,
}

/// Where a tensor lies.
pub struct Place {
    element: Element,
    /// The first byte of its storage.
    begin: usize,
    view: View,
}

impl Pickle {
    /// Maps the file and reads the names and places of its tensors: those of its dictionary, or of the one in it that is
    /// called `state_dict` or `model`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::File`] naming what the file is instead, what its pickle refers to, or what is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        // SAFETY: the map is only read; see `Safetensors::open`.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        let tensors = tensors(&map).map_err(|why| Error::file(path, why))?;
        Ok(Self { path: path.into(), map, tensors })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names in sorted order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of one tensor, without touching its data.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|place| place.view.shape.as_slice())
    }

    /// Copies one tensor out. Floats keep their type; integers are widened to i64.
    ///
    /// # Errors
    /// [`Error::File`] for a name that is not there.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let place = self.tensors.get(name);
        let place = place.ok_or_else(|| Error::file(&self.path, format!("no tensor named {name}")))?;
        Ok(place.read(&self.map))
    }
}

/// Whether the file begins as PyTorch's do, also those that are too old to be read. The length of a safetensors header may
/// have a pickle's first bytes; the header follows it.
pub fn is_pickle(path: &Path) -> bool {
    let mut begin = [0; 9];
    let read = File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut begin));
    let is_old = begin[0] == 0x80 && (2..=5).contains(&begin[1]) && begin[8] != b'{';
    read.is_ok() && (begin.starts_with(b"PK\x03\x04") || is_old)
}

/// The tensors of a file's bytes by name.
///
/// # Errors
/// A sentence on what the bytes are instead, or what of them is refused.
pub fn tensors(bytes: &[u8]) -> std::result::Result<BTreeMap<String, Place>, String> {
    if bytes.len() >= 2 && bytes[0] == 0x80 && (2..=5).contains(&bytes[1]) {
        return Err("this file was written before PyTorch 1.6, or by pickle itself; load it once in Python with \
                    torch.load(.., weights_only=True) and save its tensors with safetensors.torch.save_file"
            .into());
    }
    let entries = zip::entries(bytes)?;
    if entries.keys().any(|name| name.ends_with("/constants.pkl") || name.contains("/code/")) {
        return Err(
            "this is a TorchScript archive, which holds code; expected a file of weights: use the safetensors \
                    conversion of this model"
                .into(),
        );
    }
    let mut pickles = entries.keys().filter_map(|name| name.strip_suffix("/data.pkl"));
    let (Some(top), None) = (pickles.next(), pickles.next()) else {
        return Err("the zip archive is none of PyTorch's: expected one entry data.pkl in a folder".into());
    };
    if let Some(order) = entries.get(&format!("{top}/byteorder")).map(|range| &bytes[range.clone()])
        && order != b"little"
    {
        return Err(
            "its numbers are big endian; load it on the machine that wrote it and save it as safetensors".into()
        );
    }
    let pickle = &bytes[entries[&format!("{top}/data.pkl")].clone()];
    if pickle.len() > LARGEST_PICKLE {
        let message = format!("its pickle has {} bytes; that of weights has at most {LARGEST_PICKLE}", pickle.len());
        return Err(message);
    }
    let (root, objects) = machine::run(pickle)?;
    let mut tensors = BTreeMap::new();
    for (name, view) in named(root, &objects)? {
        let storage = &objects.storages[view.storage];
        let entry = entries.get(&format!("{top}/data/{}", storage.key));
        let entry = entry.ok_or_else(|| format!("the data of tensor {name} are not in the archive"))?;
        let needed = storage.len.checked_mul(storage.element.size());
        if needed.is_none_or(|needed| needed > entry.len()) || !view.fits(storage.len) {
            return Err(format!("tensor {name} reaches outside of its data: the file is damaged"));
        }
        let place = Place { element: storage.element, begin: entry.start, view: view.clone() };
        if tensors.insert(name.to_owned(), place).is_some() {
            return Err(format!("two tensors are named {name}"));
        }
    }
    match tensors.is_empty() {
        true => Err("it holds no tensors: expected a dictionary of them, or one under `state_dict` or `model`".into()),
        false => Ok(tensors),
    }
}

/// The tensors of the dictionary that the file is, or that it wraps.
fn named<'a, 'o>(root: Value<'a>, objects: &'o Objects<'a>) -> Result<Vec<(&'a str, &'o View)>, String> {
    let Value::Dict(root) = root else {
        return Err("it holds no dictionary of tensors but something else".into());
    };
    let inner = |name: &str| {
        objects.dicts[root].iter().find_map(|pair| match *pair {
            (Value::Text(key), Value::Dict(inner)) if key == name => Some(inner),
            _ => None,
        })
    };
    let dict = inner("state_dict").or_else(|| inner("model")).unwrap_or(root);
    let tensor = |pair: &(Value<'a>, Value<'a>)| match *pair {
        (Value::Text(name), Value::Tensor(view)) => Some((name, &objects.views[view])),
        _ => None,
    };
    Ok(objects.dicts[dict].iter().filter_map(tensor).collect())
}

impl Place {
    /// Of `bytes`, in which the place was found.
    pub fn read(&self, bytes: &[u8]) -> Tensor {
        let bytes = &bytes[self.begin..];
        match self.element {
            Element::Float => self.gather(bytes, f32::from_le_bytes),
            Element::Double => self.gather(bytes, f64::from_le_bytes),
            Element::Half => self.gather(bytes, f16::from_le_bytes),
            Element::BFloat16 => self.gather(bytes, bf16::from_le_bytes),
            Element::Long => self.gather(bytes, i64::from_le_bytes),
            Element::Int => self.gather(bytes, |four| i64::from(i32::from_le_bytes(four))),
            Element::Byte | Element::Bool => self.gather(bytes, |[byte]| i64::from(byte)),
        }
    }

    fn gather<T: Stored, const N: usize>(&self, bytes: &[u8], read: impl Fn([u8; N]) -> T) -> Tensor {
        let View { offset, shape, strides, .. } = &self.view;
        let at = |i: usize| {
            let mut element = [0; N];
            element.copy_from_slice(&bytes[i * N..][..N]);
            read(element)
        };
        let mut out = buffer::<T>(shape.iter().product());
        if out.is_empty() {
            return Tensor::new(out, shape);
        }
        if contiguous(shape, strides) {
            out.iter_mut().enumerate().for_each(|(i, out)| *out = at(offset + i));
            return Tensor::new(out, shape);
        }
        let mut place = vec![0; shape.len()];
        for out in &mut out {
            *out = at(offset + place.iter().zip(strides).map(|(i, stride)| i * stride).sum::<usize>());
            for (i, size) in place.iter_mut().zip(shape).rev() {
                *i += 1;
                if *i < *size {
                    break;
                }
                *i = 0;
            }
        }
        Tensor::new(out, shape)
    }
}

fn contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    shape.iter().zip(strides).rev().all(|(&size, &stride)| {
        let fits = size == 1 || stride == expected;
        expected *= size;
        fits
    })
}
