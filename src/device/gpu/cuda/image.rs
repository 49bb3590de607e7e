//! What a kernel file was compiled to, as the driver takes it: a fat binary, or PTX.

use std::io::Read;

use super::super::identity::hash_of;
use super::super::table::Image;
use super::super::table::kernels::{FATBINS, PTX, PTX_90, PTX_TOOLKIT, TOOLKIT};
use crate::error::{Error, Result};

/// The kernels as one compiler made them.
pub struct Compiled {
    images: &'static [Image],
    /// Instead of those, for compute capability 9.0 alone.
    images_90: &'static [Image],
    /// The version of CUDA that compiled them: drivers of an older major version do not take them.
    pub toolkit: (i32, i32),
    is_ptx: bool,
}

/// What this build has: fat binaries first.
///
/// # Errors
/// What the build lacked.
pub fn compiled() -> Result<Vec<&'static Compiled>, String> {
    static ALL: std::sync::OnceLock<Vec<Compiled>> = std::sync::OnceLock::new();
    let all = ALL.get_or_init(|| {
        let fatbins = FATBINS.ok().map(|images| Compiled { images, images_90: &[], toolkit: TOOLKIT, is_ptx: false });
        let ptx = PTX.ok().map(|images| Compiled { images, images_90: PTX_90, toolkit: PTX_TOOLKIT, is_ptx: true });
        fatbins.into_iter().chain(ptx).collect()
    });
    match (FATBINS, PTX) {
        (Err(why), Err(ptx)) if why == ptx => Err(format!("this build of selma is without CUDA kernels: {why}")),
        (Err(why), Err(ptx)) => Err(format!("this build of selma is without CUDA kernels: {why}, and {ptx}")),
        _ => Ok(all.iter().collect()),
    }
}

impl Compiled {
    /// For people: what the driver gets.
    pub fn name(&self) -> String {
        let (major, minor) = self.toolkit;
        match self.is_ptx {
            true => {
                format!("the shipped PTX (CUDA {major}.{minor}), which the driver compiles and keeps when first used")
            }
            false => format!("machine code by nvcc {major}.{minor}"),
        }
    }

    pub fn is_ptx(&self) -> bool {
        self.is_ptx
    }

    /// The hash of what devices of this compute capability get.
    pub fn hash(&self, capability: (i32, i32)) -> String {
        let own = if capability == (9, 0) { self.images_90 } else { &[] };
        hash_of([own, self.images])
    }

    /// The compiled `file` for storage type number `scalar`, in words, since the driver reads words: for a device of this
    /// compute capability.
    ///
    /// # Errors
    /// [`Error::Failed`] where the PTX in this binary is damaged; [`Error::Usage`] where the file is for other devices.
    pub fn image(&self, file: &str, scalar: usize, capability: (i32, i32)) -> Result<Vec<u128>> {
        let own = self.images_90.iter().filter(|_| capability == (9, 0));
        let image = own.chain(self.images).find(|image| image.file == file).map(|image| image.scalars[scalar]);
        // Of files for one compute capability there is nothing for others.
        let Some(bytes) = image.filter(|bytes| !bytes.is_empty()) else {
            let (major, minor) = capability;
            let has = self.name();
            return Err(Error::Usage(format!(
                "{file}.cu has no image for compute capability {major}.{minor} in {has}"
            )));
        };
        if !self.is_ptx {
            return Ok(words(bytes));
        }
        let text = unpacked(bytes).map_err(|e| Error::Failed(format!("the PTX of {file}.cu in this binary: {e}")))?;
        Ok(words(&text))
    }
}

/// With at least one zero behind them, which ends PTX.
fn words(bytes: &[u8]) -> Vec<u128> {
    let mut words = vec![0_u128; bytes.len() / size_of::<u128>() + 1];
    bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
    words
}

/// PTX that `.ci/ptx` has packed: compressed by zlib, and a register's number is one byte from 128 on where it is near the
/// last one of its kind: 192 more than it is away from that.
fn unpacked(packed: &[u8]) -> Result<Vec<u8>, String> {
    let mut short = Vec::new();
    flate2::read::ZlibDecoder::new(packed).read_to_end(&mut short).map_err(|e| e.to_string())?;
    let mut text = Vec::with_capacity(3 * short.len() / 2);
    // The last number of each kind: there are six.
    let mut last: Vec<(&[u8], i64)> = Vec::new();
    let mut rest = short.as_slice();
    while let Some(percent) = rest.iter().position(|&byte| byte == b'%') {
        let end = rest[percent + 1..].iter().position(|byte| !byte.is_ascii_lowercase());
        let end = end.map_or(rest.len(), |end| percent + 1 + end);
        let kind = &rest[percent + 1..end];
        text.extend_from_slice(&rest[..end]);
        rest = &rest[end..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let code = rest.first().filter(|&&byte| byte >= 128).copied();
        if digits == 0 && code.is_none() {
            continue;
        }
        let known = match last.iter().position(|(name, _)| *name == kind) {
            Some(known) => known,
            None => {
                last.push((kind, 0));
                last.len() - 1
            }
        };
        let number = &mut last[known].1;
        if let Some(code) = code {
            *number += i64::from(code) - 192;
            text.extend_from_slice(number.to_string().as_bytes());
            rest = &rest[1..];
        } else {
            let (written, after) = rest.split_at(digits);
            *number = std::str::from_utf8(written).ok().and_then(|n| n.parse().ok()).ok_or("a number too large")?;
            text.extend_from_slice(written);
            rest = after;
        }
    }
    text.extend_from_slice(rest);
    match text.is_ascii() {
        true => Ok(text),
        false => Err("not packed as it should be".into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    #[test]
    fn numbers_of_registers_come_back() {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        encoder
            .write_all(b"add.s32 %r\xc3, %r\xc1, %tid.x; mov.f32 %f1000, %f\xbf; .reg .b32 %r<5>; bra $L1;")
            .unwrap();
        let text = super::unpacked(&encoder.finish().unwrap()).unwrap();
        let expected = "add.s32 %r3, %r4, %tid.x; mov.f32 %f1000, %f999; .reg .b32 %r<5>; bra $L1;";
        assert_eq!(String::from_utf8(text).unwrap(), expected);
        assert!(super::unpacked(b"nothing of zlib's").is_err());
    }
}
