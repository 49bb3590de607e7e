//! What a file has of a module beside its factors: DoRA's lengths, and what is added to its bias or to a norm.

use super::expert::{Along, LoraFactors};
use super::file::{Loaded, Parts, finite};
use super::keys::{self, Place, Role};
use crate::error::{Error, Result};
use crate::formats::safetensors::Safetensors;

/// Puts what is added to norms and biases into the expert; what is left of a module's parts.
pub(super) fn take_vectors(
    file: &Safetensors,
    place: &Place,
    parts: Parts,
    weight: Option<&Vec<usize>>,
    loaded: &mut Loaded,
) -> Result<Parts> {
    let mut rest = Parts::new();
    for (role, key) in parts {
        let parameter =
            keys::VECTORS.iter().find(|(name, _)| role == Role::Lycoris(name)).map(|(_, parameter)| parameter);
        let Some(parameter) = parameter else {
            rest.insert(role, key);
            continue;
        };
        let vector = finite(file, &key)?;
        if let Some(weight) = weight.filter(|weight| weight[0] != vector.len()) {
            let message = format!("{key} has {} values, expected {}", vector.len(), weight[0]);
            return Err(Error::file(file.path(), message));
        }
        let all = loaded.expert.vectors.entry(place.component.clone()).or_default();
        all.insert(format!("{}.{parameter}", place.module), vector.with_shape(&[vector.len()]));
        loaded.applied.insert(key, place.clone());
    }
    Ok(rest)
}

/// `factors` with DoRA's lengths, where the module has them.
pub(super) fn with_magnitude(file: &Safetensors, parts: &Parts, factors: LoraFactors) -> Result<LoraFactors> {
    let Some((role, key)) = [Role::Magnitude, Role::DoraScale].iter().find_map(|role| Some((role, parts.get(role)?)))
    else {
        return Ok(factors);
    };
    let values = finite(file, key)?;
    // A dimension of 1 in front: LyCORIS's lengths of columns. peft has it with convolutions, and means rows.
    let of_columns = *role == Role::DoraScale && values.shape().len() > 1 && values.shape()[0] == 1;
    let square = factors.outputs() == 1;
    let along = if of_columns && !square { Along::Inputs } else { Along::Outputs };
    factors.with_magnitude(values, along).map_err(|e| Error::file(file.path(), format!("{key}: {e}")))
}
