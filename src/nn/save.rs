//! Writing a network's parameters as the weight file of a model folder.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::Result;
use crate::formats::safetensors;
use crate::nn::Param;
use crate::nn::layout::channels_first;
use crate::tensor::{DType, Tensor};

/// Writes `parameters` under their names, in `dtype` and in PyTorch's layout: what `load` of the network reads back.
///
/// # Errors
/// [`crate::Error::Io`] where the file cannot be written.
pub fn save(path: &Path, parameters: &[Param], dtype: DType) -> Result<()> {
    let tensors: Vec<(String, Tensor)> = parameters
        .iter()
        .map(|param| {
            let value = param.get().to_cpu()?.cast(dtype);
            // Only convolutions have four dimensions.
            let value = match value.shape().len() {
                4 => channels_first(&value)?,
                _ => value,
            };
            Ok((param.name().to_owned(), value))
        })
        .collect::<Result<_>>()?;
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::write(path, &tensors, &metadata)
}
