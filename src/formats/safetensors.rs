//! The safetensors container. The crate reads and checks headers and offsets; this adds the file's name to errors,
//! turns views into tensors, and writes files whose bytes depend on their content alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::{Mmap, UncheckedAdvice};
use safetensors::tensor::{Dtype, SafeTensorError, TensorInfo};

use crate::error::{Error, Result};
use crate::formats::atomic;
use crate::tensor::{DType, Element, Tensor};

/// A memory-mapped file of named tensors.
pub struct Safetensors {
    path: PathBuf,
    map: Mmap,
    /// Where the data begins, after the length word and the header.
    start: usize,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

impl Safetensors {
    /// Maps `path` and checks its header: length, JSON, offsets inside the file and without gaps or overlaps.
    ///
    /// # Errors
    /// [`Error::File`] naming the file and what is wrong with it; a pickle checkpoint is told apart, with the way out.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Err(Error::file(path, "is a folder; expected a safetensors file"));
        }
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        // SAFETY: the map is only read. As everywhere that weights are mapped, a process that rewrites the file in place
        // meanwhile can change what is read; our own writers replace files by renaming.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        if let Some(reason) = not_safetensors(&map) {
            return Err(Error::file(path, reason));
        }
        let (header, info) =
            safetensors::SafeTensors::read_metadata(&map).map_err(|e| Error::file(path, describe(&e, &map)))?;
        if let Some(name) = duplicate_key(&map[8..8 + header]) {
            return Err(Error::file(path, format!("two tensors are named {name}")));
        }
        let tensors = info.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        let metadata = info.metadata().clone().unwrap_or_default().into_iter().collect();
        Ok(Self { path: path.into(), map, start: 8 + header, tensors, metadata })
    }

    /// A file without tensors, which need not exist: whatever is asked of it is an error that names `path`.
    ///
    /// # Errors
    /// [`Error::Io`] where the system gives no page of memory.
    pub fn empty(path: &Path) -> Result<Self> {
        let map = memmap2::MmapMut::map_anon(1).and_then(memmap2::MmapMut::make_read_only);
        let map = map.map_err(|e| Error::io(path, e))?;
        Ok(Self { path: path.into(), map, start: 0, tensors: BTreeMap::new(), metadata: BTreeMap::new() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names in sorted order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The shape of one tensor, without touching its data.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|info| info.shape.as_slice())
    }

    /// The type that one tensor is stored in, such as `F16`; empty where there is no such tensor.
    pub fn type_name(&self, name: &str) -> String {
        self.tensors.get(name).map_or(String::new(), |info| info.dtype.to_string())
    }

    /// The strings of the header's `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Copies one tensor out. Floats keep their type, but 8-bit floats become f16, which has all of their values; integers are
    /// widened to i64.
    ///
    /// # Errors
    /// [`Error::File`] for a name that is not there, or a type that weights are not stored in.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let info = self.tensors.get(name).ok_or_else(|| Error::file(&self.path, format!("no tensor named {name}")))?;
        let (begin, end) = (self.start + info.data_offsets.0, self.start + info.data_offsets.1);
        let bytes = &self.map[begin..end];
        let shape = info.shape.as_slice();
        let tensor = match info.dtype {
            Dtype::F32 => Tensor::new(read::<f32>(bytes), shape),
            Dtype::F64 => Tensor::new(read::<f64>(bytes), shape),
            Dtype::F16 => Tensor::new(read::<f16>(bytes), shape),
            Dtype::BF16 => Tensor::new(read::<bf16>(bytes), shape),
            Dtype::F8_E4M3 => Tensor::new(bytes.iter().map(|&byte| from_e4m3(byte)).collect::<Vec<f16>>(), shape),
            // The upper half of an f16.
            Dtype::F8_E5M2 => {
                let values = bytes.iter().map(|&byte| f16::from_bits(u16::from(byte) << 8));
                Tensor::new(values.collect::<Vec<f16>>(), shape)
            }
            Dtype::I64 => Tensor::new(read::<i64>(bytes), shape),
            Dtype::I32 => Tensor::new(widen(&bytemuck::pod_collect_to_vec::<u8, i32>(bytes)), shape),
            Dtype::U8 => Tensor::new(widen(bytes), shape),
            other => {
                let message = format!(
                    "tensor {name} is stored as {other}; expected F32, F16, BF16, F64, F8_E4M3, F8_E5M2 or an integer"
                );
                return Err(Error::file(&self.path, message));
            }
        };
        self.forget(begin, end);
        Ok(tensor)
    }

    /// As [`Safetensors::tensor`], for weights: floats, none of which is NaN or infinite.
    ///
    /// # Errors
    /// [`Error::File`] naming the tensor, also as for [`Safetensors::tensor`].
    pub fn weight(&self, name: &str) -> Result<Tensor> {
        let tensor = self.tensor(name)?;
        if !tensor.dtype().is_float() {
            let message = format!("tensor {name} holds integers; expected floats");
            return Err(Error::file(&self.path, message));
        }
        if !tensor.is_finite() {
            let message = format!("tensor {name} holds NaN or infinity: the file is damaged, or its training diverged");
            return Err(Error::file(&self.path, message));
        }
        Ok(tensor)
    }

    /// Drops the mapped pages of a range that has been copied, so that a large file is not counted twice.
    fn forget(&self, begin: usize, end: usize) {
        const PAGE: usize = 4096;
        let (first, last) = (begin.next_multiple_of(PAGE), end / PAGE * PAGE);
        if last > first {
            // SAFETY: the map is a file's and never written, so dropped pages come back from the file with equal bytes.
            // It is a hint: where it fails, memory use is higher and nothing else changes.
            let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, first, last - first) };
        }
    }
}

fn read<T: Element>(bytes: &[u8]) -> Vec<T> {
    let mut data = crate::tensor::buffer::<T>(bytes.len() / size_of::<T>());
    bytemuck::cast_slice_mut::<T, u8>(&mut data).copy_from_slice(bytes);
    data
}

/// A value of 4 bits of exponent and 3 of mantissa, without infinities (Micikevicius et al. 2022, arXiv:2209.05433).
fn from_e4m3(byte: u8) -> f16 {
    let (sign, rest) = (u16::from(byte & 0x80) << 8, byte & 0x7f);
    let magnitude = match (rest >> 3, rest & 7) {
        (15, 7) => f16::NAN,
        // In steps of 2^-9.
        (0, mantissa) => f16::from_f32(f32::from(mantissa) / 512.0),
        (exponent, mantissa) => f16::from_bits((u16::from(exponent) + 8) << 10 | u16::from(mantissa) << 7),
    };
    f16::from_bits(sign | magnitude.to_bits())
}

fn widen<T: Copy + Into<i64>>(values: &[T]) -> Vec<i64> {
    values.iter().map(|&v| v.into()).collect()
}

/// A sentence for files that are recognisably something else.
fn not_safetensors(bytes: &[u8]) -> Option<String> {
    if bytes.len() < 8 {
        return Some(format!("not a safetensors file: it has only {} bytes", bytes.len()));
    }
    if bytes.starts_with(b"version https://git-lfs") {
        let reason = "this is a git-lfs pointer, not the weights; fetch them with `git lfs pull`";
        return Some(reason.into());
    }
    if bytes.starts_with(b"GGUF") {
        return Some("this is a GGUF file, which holds quantised weights; expected safetensors".into());
    }
    // PyTorch's files are zip archives of pickles; older ones bare pickles of protocol 2 or later.
    let pickle = bytes[0] == 0x80 && (2..=5).contains(&bytes[1]) && bytes.get(8) != Some(&b'{');
    (bytes.starts_with(b"PK\x03\x04") || pickle).then(|| {
        "this is a pickle checkpoint, which can run code when it is loaded; open it in Python and save its tensors with \
         safetensors.torch.save_file"
            .into()
    })
}

fn describe(error: &SafeTensorError, file: &[u8]) -> String {
    match error {
        SafeTensorError::InvalidHeaderLength | SafeTensorError::HeaderTooLarge => {
            "the header's length is larger than the file: it is truncated or not a safetensors file".into()
        }
        SafeTensorError::MetadataIncompleteBuffer => match (described_len(file), file.len()) {
            (Some(described), len) if described > len => {
                let missing = described - len;
                format!(
                    "it is truncated: the last {missing} of {described} bytes are missing; copy or download it again"
                )
            }
            (Some(described), len) => {
                let more = len - described;
                format!(
                    "it has {more} trailing bytes behind the last tensor, which ends at byte {described}: cut them off"
                )
            }
            (None, _) => "the tensors do not fill the file".into(),
        },
        SafeTensorError::InvalidOffset(name) => format!("the offsets of tensor {name} overlap another or leave a gap"),
        other => format!("not a valid safetensors file: {other}"),
    }
}

/// The length that a file has by its header.
fn described_len(file: &[u8]) -> Option<usize> {
    let header = usize::try_from(u64::from_le_bytes(file.get(..8)?.try_into().ok()?)).ok()?;
    let json: serde_json::Value = serde_json::from_slice(file.get(8..header.checked_add(8)?)?).ok()?;
    let end = |tensor: &serde_json::Value| tensor["data_offsets"][1].as_u64();
    let data = json.as_object()?.values().filter_map(end).max().unwrap_or(0);
    usize::try_from(data).ok()?.checked_add(8 + header)
}

/// JSON readers take the last of two equal keys; a weight file with two tensors of one name is refused instead.
fn duplicate_key(header: &[u8]) -> Option<String> {
    struct Keys(Option<String>);
    struct Visitor;
    impl<'de> serde::de::Visitor<'de> for Visitor {
        type Value = Keys;
        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
            let (mut seen, mut twice) = (BTreeSet::new(), None);
            while let Some((key, _)) = map.next_entry::<String, serde::de::IgnoredAny>()? {
                if let Some(key) = seen.replace(key) {
                    twice = Some(key);
                }
            }
            Ok(Keys(twice))
        }
    }
    impl<'de> serde::Deserialize<'de> for Keys {
        fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
            d.deserialize_map(Visitor)
        }
    }
    // The crate has parsed the header already, so it is an object.
    serde_json::from_slice::<Keys>(header).ok().and_then(|keys| keys.0)
}

/// Writes a file, whole. The same content gives the same bytes.
///
/// # Errors
/// [`Error::Io`] where it cannot be written.
pub fn write(path: &Path, tensors: &[(String, Tensor)], metadata: &BTreeMap<String, String>) -> Result<()> {
    atomic::write(path, |w| emit(w, tensors, metadata))
}

/// Writes length, header and tensors in the order of the reference writer: wide types first, so that every tensor is
/// aligned, then by name. Of two tensors of one name the later counts.
///
/// # Errors
/// Those of `w`.
pub fn emit(
    w: &mut dyn Write,
    tensors: &[(String, Tensor)],
    metadata: &BTreeMap<String, String>,
) -> std::io::Result<()> {
    let by_name: BTreeMap<&str, &Tensor> = tensors.iter().map(|(name, t)| (name.as_str(), t)).collect();
    let mut sorted: Vec<(&str, &Tensor)> = by_name.into_iter().collect();
    sorted.sort_by_key(|(_, tensor)| stored(tensor.dtype()).1);
    let mut header = serde_json::Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".into(), serde_json::json!(metadata));
    }
    let mut offset = 0;
    for (name, tensor) in &sorted {
        let end = offset + tensor.byte_len();
        let dtype = stored(tensor.dtype()).0;
        let info = serde_json::json!({ "dtype": dtype, "shape": tensor.shape(), "data_offsets": [offset, end] });
        header.insert((*name).into(), info);
        offset = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    w.write_all(&(header.len() as u64).to_le_bytes())?;
    w.write_all(&header)?;
    sorted.iter().try_for_each(|(_, tensor)| w.write_all(tensor.bytes()))
}

/// The format's name of a type, and its place in the order of tensors.
fn stored(dtype: DType) -> (&'static str, u8) {
    match dtype {
        DType::I64 => ("I64", 0),
        DType::F64 => ("F64", 1),
        DType::F32 => ("F32", 2),
        DType::Bf16 => ("BF16", 3),
        DType::F16 => ("F16", 4),
    }
}
