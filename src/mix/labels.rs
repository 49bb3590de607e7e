//! Soft labels, and how many steps image to image runs.

use crate::error::{Error, Result};

/// The shares of the source and of the target class in an image drawn with strength `s`: `1 - s^gamma` and `s^gamma`.
///
/// # Errors
/// [`Error::Usage`] for a strength outside [0, 1], or a gamma that is not above 0.
pub fn shares(strength: f64, gamma: f64) -> Result<(f64, f64)> {
    if !(0.0..=1.0).contains(&strength) {
        return Err(Error::Usage(format!("strength {strength}: expected 0 to 1")));
    }
    if !(gamma > 0.0 && gamma.is_finite()) {
        return Err(Error::Usage(format!("gamma {gamma}: expected a number above 0")));
    }
    let target = strength.powf(gamma);
    Ok((1.0 - target, target))
}

/// The whole label: shares add up where source and target are one class.
///
/// # Errors
/// As [`shares`].
///
/// # Panics
/// If a class is not below `classes`.
pub fn soft_label(source: usize, target: usize, strength: f64, gamma: f64, classes: usize) -> Result<Vec<f64>> {
    let (of_source, of_target) = shares(strength, gamma)?;
    let mut label = vec![0.0; classes];
    label[source] += of_source;
    label[target] += of_target;
    Ok(label)
}

/// How many of `steps` steps image to image evaluates: the last `floor(steps * strength)`.
///
/// # Errors
/// [`Error::Usage`] where that is none: the image would come back as it was.
pub fn evaluations(steps: usize, strength: f64) -> Result<usize> {
    match ((steps as f64 * strength) as usize).min(steps) {
        0 => Err(Error::Usage(format!(
            "strength {strength} is too small for {steps} steps: expected at least 1/{steps}"
        ))),
        n => Ok(n),
    }
}
