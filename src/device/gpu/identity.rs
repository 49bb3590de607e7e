//! What was found out on a device holds for this device, this driver and these kernels.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::table::Image;
use super::table::kernels::{FATBINS, PTX};

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    pub device: String,
    /// The compute capability.
    pub capability: String,
    pub driver: String,
    /// The hash of the kernels' images.
    pub kernels: String,
}

impl Identity {
    /// Its kernels are host code of this build, made from the sources of the images.
    pub(super) fn of_simulator(device: String) -> Self {
        let images = PTX.or(FATBINS).unwrap_or_default();
        let driver = concat!("selma ", env!("CARGO_PKG_VERSION")).into();
        Self { device, capability: "host".into(), driver, kernels: hash_of([images]) }
    }
}

/// The first 64 bits of the SHA-256 of names and contents.
pub(super) fn hash_of<'a>(images: impl IntoIterator<Item = &'a [Image]>) -> String {
    let mut hash = Sha256::new();
    for image in images.into_iter().flatten() {
        for part in [image.file.as_bytes()].into_iter().chain(image.scalars) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}
