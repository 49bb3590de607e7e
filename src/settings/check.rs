//! Ranges of values: each function refuses a value outside, naming the setting, the value and the range.

use std::fmt::Display;

use crate::error::{Error, Result};

/// # Errors
/// [`Error::Usage`] unless `ok`.
pub fn require(ok: bool, name: &str, got: &dyn Display, expected: &str) -> Result<()> {
    match ok {
        true => Ok(()),
        false => Err(Error::Usage(format!("{name} is {got}, expected {expected}"))),
    }
}

/// # Errors
/// [`Error::Usage`] for 0.
pub fn at_least_1<T: Default + PartialOrd + Display>(name: &str, value: &T) -> Result<()> {
    require(*value > T::default(), name, value, "at least 1")
}

/// # Errors
/// [`Error::Usage`] for 0, a negative number, infinity and NaN.
pub fn positive(name: &str, value: &f64) -> Result<()> {
    require(*value > 0.0 && value.is_finite(), name, value, "a number above 0")
}

/// # Errors
/// [`Error::Usage`] for a negative number, infinity and NaN.
pub fn not_negative(name: &str, value: &f64) -> Result<()> {
    require(*value >= 0.0 && value.is_finite(), name, value, "0 or more")
}

/// # Errors
/// [`Error::Usage`] for a number outside of 0 to 1.
pub fn share(name: &str, value: &f64) -> Result<()> {
    require((0.0..=1.0).contains(value), name, value, "from 0 to 1")
}

/// # Errors
/// [`Error::Usage`] for a number outside of 0 (included) to 1 (excluded).
pub fn below_1(name: &str, value: &f64) -> Result<()> {
    require((0.0..1.0).contains(value), name, value, "0 or more and below 1")
}
