//! Writing files whose bytes depend on their content alone.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use crate::error::Result;
use crate::formats::atomic;
use crate::tensor::{DType, Tensor};

/// Writes a file, whole. The same content gives the same bytes.
///
/// # Errors
/// [`crate::Error::Io`] where it cannot be written.
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
