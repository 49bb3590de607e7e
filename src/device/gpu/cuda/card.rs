//! What the driver says of its devices, before any of them is opened.

use std::ffi::{CStr, c_char, c_int};

use super::driver::{self, Code, value, written};
use super::image::{Compiled, compiled};

/// The oldest compute capability that the kernels are compiled for.
const LEAST_CAPABILITY: (i32, i32) = (8, 0);

/// A device of the driver's.
#[derive(Clone, Debug)]
pub struct Card {
    pub(super) number: c_int,
    pub name: String,
    pub capability: (i32, i32),
    /// Bytes.
    pub memory: u64,
    pub multiprocessors: i32,
    /// The version of CUDA that the driver knows.
    pub driver: (i32, i32),
}

/// The devices, in the driver's order.
///
/// # Errors
/// Why there are none: a sentence.
pub fn cards() -> Result<Vec<Card>, String> {
    // What the build lacks is said first: without it no driver helps.
    compiled()?;
    if !driver::is_present() {
        return Err("no NVIDIA driver is installed (libcuda.so.1 was not found)".into());
    }
    let refused = |e: Code| format!("the NVIDIA driver says {e:?}");
    // SAFETY: nothing is asked of the caller.
    unsafe { driver::init(0) }.map_err(refused)?;
    // SAFETY: writes one int, here and below.
    let version = written(0, |version| unsafe { driver::driver_version(version) }).map_err(refused)?;
    let count = written(0, |count| unsafe { driver::device_count(count) }).map_err(refused)?;
    (0..count).map(|ordinal| card(ordinal, (version / 1000, version % 1000 / 10)).map_err(refused)).collect()
}

fn card(ordinal: c_int, driver: (i32, i32)) -> Result<Card, Code> {
    // SAFETY: writes one int, here and below; the device is the driver's.
    let number = written(0, |device| unsafe { driver::device_get(device, ordinal) })?;
    let mut name = [0 as c_char; 256];
    // SAFETY: writes at most so many bytes, with a zero at the end.
    unsafe { driver::device_name(name.as_mut_ptr(), name.len() as c_int - 1, number) }?;
    // SAFETY: ends with a zero.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    let attribute = |which| written(0, |value| unsafe { driver::device_attribute(value, which, number) });
    let capability = (attribute(value::DEVICE_CAPABILITY_MAJOR)?, attribute(value::DEVICE_CAPABILITY_MINOR)?);
    // A driver that does not say how much there is can be used as well.
    // SAFETY: writes one number.
    let memory = written(0, |bytes| unsafe { driver::device_memory(bytes, number) }).unwrap_or(0) as u64;
    let multiprocessors = attribute(value::DEVICE_MULTIPROCESSORS)?;
    Ok(Card { number, name, capability, memory, multiprocessors, driver })
}

impl Card {
    /// The compiled kernels that it runs.
    ///
    /// # Errors
    /// Why it can run none: a sentence.
    pub(super) fn compiled(&self) -> Result<&'static Compiled, String> {
        if self.capability < LEAST_CAPABILITY {
            let (name, (major, minor)) = (&self.name, self.capability);
            return Err(format!("{name} has compute capability {major}.{minor}; kernels need 8.0 (Ampere) or later"));
        }
        let all = compiled()?;
        let taken = all.iter().find(|compiled| compiled.toolkit.0 <= self.driver.0);
        taken.copied().ok_or_else(|| {
            let oldest = all.iter().map(|compiled| compiled.toolkit).min().unwrap_or_default();
            let needed = if oldest.0 >= 13 { "580" } else { "525" };
            format!(
                "the kernels were compiled by CUDA {}.{}, which needs NVIDIA driver {needed} or newer; this one knows CUDA \
                 {}.{}",
                oldest.0, oldest.1, self.driver.0, self.driver.1
            )
        })
    }

    /// What the driver gets as the kernels of this card, in words; and whether that is PTX.
    ///
    /// # Errors
    /// As `Card::compiled`.
    pub fn image(&self) -> Result<(String, bool), String> {
        self.compiled().map(|compiled| (compiled.name(), compiled.is_ptx()))
    }
}
