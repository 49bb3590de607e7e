//! Ranges of single settings, and how their texts are read.

use crate::error::{Error, Result};
use crate::ops::LoraOrder;
use crate::settings::check;

pub(super) fn parse_betas(text: &str) -> Result<[f64; 2], String> {
    let numbers: Result<Vec<f64>, _> = text.split(',').map(|number| number.trim().parse()).collect();
    let pair = numbers.ok().and_then(|numbers| numbers.try_into().ok());
    pair.ok_or_else(|| "expected two numbers, such as 0.9,0.999".into())
}

pub(super) fn betas(name: &str, values: &[f64; 2]) -> Result<()> {
    values.iter().try_for_each(|value| check::below_1(name, value))
}

pub(super) fn targets(name: &str, values: &[String]) -> Result<()> {
    check::require(!values.is_empty(), name, &"empty", "at least one module suffix")
}

/// Eight pixels are one latent.
pub(super) fn resolution(name: &str, side: &u32) -> Result<()> {
    let ok = (8..=8192).contains(side) && side.is_multiple_of(8);
    check::require(ok, name, side, "a multiple of 8 up to 8192")
}

pub(super) fn lora_order(_: &str, order: &str) -> Result<()> {
    LoraOrder::parse(order).map(|_| ()).ok_or_else(|| unknown_order(order))
}

pub(super) fn unknown_order(order: &str) -> Error {
    let names = LoraOrder::NAMES.map(|(name, _)| name).join(", ");
    Error::Usage(format!("lora-order is {order}, expected one of {names}"))
}

pub(super) fn output_name(name: &str, value: &str) -> Result<()> {
    let plain = !value.is_empty() && !value.starts_with('.') && !value.contains(['/', '\\']);
    check::require(plain, name, &format!("`{value}`"), "a file name without ending and folder")
}

pub(super) fn caption_separator(name: &str, value: &str) -> Result<()> {
    check::require(!value.is_empty(), name, &"empty", "a character or more")
}

/// Eight pixels are one latent.
pub(super) fn bucket_steps(name: &str, steps: &u32) -> Result<()> {
    check::require(*steps > 0 && steps.is_multiple_of(8), name, steps, "a multiple of 8")
}

pub(super) fn alpha_background(name: &str, value: &str) -> Result<()> {
    let known = colour(value).is_some();
    check::require(known, name, &format!("`{value}`"), "white, black or a colour such as #80a0ff")
}

/// Red, green and blue of `white`, `black` or `#rrggbb`.
pub(super) fn colour(text: &str) -> Option<[u8; 3]> {
    let hexadecimal = match text {
        "white" => "ffffff",
        "black" => "000000",
        other => other.strip_prefix('#').filter(|digits| digits.len() == 6)?,
    };
    let value = u32::from_str_radix(hexadecimal, 16).ok()?;
    Some([16, 8, 0].map(|shift| (value >> shift) as u8))
}

pub(super) fn precision(name: &str, value: &str) -> Result<()> {
    let known = ["auto", "f32", "bf16", "f16"].contains(&value);
    check::require(known, name, &value, "auto, f32, bf16 or f16")
}
