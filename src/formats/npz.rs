//! `.npz`: numpy arrays of floats in a zip archive. Source: numpy's format description (NEP 1), APPNOTE.TXT of zip 6.3.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;

use super::atomic;
use crate::error::{Error, Result};

/// Row-major values.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

/// The most bytes that one array may claim: a covariance of 8192 features takes 512 MiB.
const MAX_BYTES: usize = 1 << 30;

/// Reads every array, by name.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] if it is no zip archive of arrays of f32, f64 or i64, is damaged, or far too large.
pub fn read(path: &Path) -> Result<BTreeMap<String, Array>> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let arrays = entries(&bytes).and_then(|entries| {
        let array = |(name, content): (String, Vec<u8>)| {
            let array = array(&content).map_err(|why| format!("array {name}: {why}"))?;
            Ok((name.strip_suffix(".npy").unwrap_or(&name).to_owned(), array))
        };
        entries.into_iter().map(array).collect()
    });
    arrays.map_err(|why| Error::file(path, format!("not a readable .npz file: {why}")))
}

/// Writes f64 arrays, compressed, in the given order. The same arrays give the same bytes.
///
/// # Errors
/// [`Error::Io`].
pub fn write(path: &Path, arrays: &[(&str, Array)]) -> Result<()> {
    atomic::write(path, |w| {
        let (mut directory, mut offset) = (Vec::new(), 0u32);
        for (name, array) in arrays {
            let content = npy(array);
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(&content)?;
            let packed = encoder.finish()?;
            let mut crc = flate2::Crc::new();
            crc.update(&content);
            let name = format!("{name}.npy");
            // Version 2.0, no flags, deflate, 1980-01-01 00:00.
            let mut common = vec![20, 0, 0, 0, 8, 0, 0, 0, 0x21, 0];
            for word in [crc.sum(), small(packed.len())?, small(content.len())?] {
                common.extend(word.to_le_bytes());
            }
            common.extend((name.len() as u16).to_le_bytes());
            common.extend([0, 0]);
            let local = [b"PK\x03\x04", &common[..], name.as_bytes(), &packed].concat();
            directory.extend(
                [b"PK\x01\x02\x14\x00", &common[..], &[0; 10], &offset.to_le_bytes(), name.as_bytes()].concat(),
            );
            offset = offset.checked_add(small(local.len())?).ok_or(std::io::ErrorKind::FileTooLarge)?;
            w.write_all(&local)?;
        }
        let count = (arrays.len() as u16).to_le_bytes();
        let sizes = [small(directory.len())?.to_le_bytes(), offset.to_le_bytes()].concat();
        w.write_all(&directory)?;
        w.write_all(&[b"PK\x05\x06\0\0\0\0", &count[..], &count, &sizes, &[0, 0]].concat())
    })
}

fn small(len: usize) -> std::io::Result<u32> {
    u32::try_from(len).map_err(|_| std::io::ErrorKind::FileTooLarge.into())
}

fn npy(array: &Array) -> Vec<u8> {
    let sizes: String = array.shape.iter().map(|n| format!("{n}, ")).collect();
    let shape = if array.shape.len() == 1 { sizes.trim_end() } else { sizes.trim_end_matches([',', ' ']) };
    let mut header = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': ({shape}), }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(array.values.iter().flat_map(|v| v.to_le_bytes()));
    bytes
}

/// Name and unpacked content of every file of a zip archive, by its central directory.
fn entries(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
    // The end record has 22 bytes and a comment of at most 65,535.
    let tail = bytes.len().saturating_sub(22 + 0xffff);
    let end = bytes[tail..].windows(4).rposition(|w| w == b"PK\x05\x06").ok_or("no zip archive")? + tail;
    slice(bytes, end, 22)?;
    let (count, mut at) = (u16_at(bytes, end + 10)?, u32_at(bytes, end + 16)? as usize);
    let mut entries = Vec::new();
    for _ in 0..count {
        if bytes.get(at..at + 4) != Some(b"PK\x01\x02") {
            return Err("its directory is damaged".into());
        }
        let (method, crc) = (u16_at(bytes, at + 10)?, u32_at(bytes, at + 16)?);
        let (packed, size) = (u32_at(bytes, at + 20)? as usize, u32_at(bytes, at + 24)? as usize);
        let (name_len, extra) = (u16_at(bytes, at + 28)? as usize, u16_at(bytes, at + 30)? as usize);
        let (comment, local) = (u16_at(bytes, at + 32)? as usize, u32_at(bytes, at + 42)? as usize);
        let name = slice(bytes, at + 46, name_len)?;
        let name = String::from_utf8(name.to_vec()).map_err(|_| "a name is not UTF-8")?;
        if size > MAX_BYTES || packed > MAX_BYTES {
            return Err(format!("{name} has {size} bytes; expected less than 1 GiB"));
        }
        let start = local + 30 + u16_at(bytes, local + 26)? as usize + u16_at(bytes, local + 28)? as usize;
        let data = slice(bytes, start, packed)?;
        let content = unpacked(data, method, size).map_err(|why| format!("{name}: {why}"))?;
        let mut sum = flate2::Crc::new();
        sum.update(&content);
        if content.len() != size || sum.sum() != crc {
            return Err(format!("{name} is damaged: copy or download it again"));
        }
        entries.push((name, content));
        at += 46 + name_len + extra + comment;
    }
    Ok(entries)
}

fn unpacked(data: &[u8], method: u16, size: usize) -> Result<Vec<u8>, String> {
    match method {
        0 => Ok(data.to_vec()),
        8 => {
            let mut content = Vec::new();
            // One byte more than it claims shows a bomb.
            let read = DeflateDecoder::new(data).take(size as u64 + 1).read_to_end(&mut content);
            read.map(|_| content).map_err(|e| e.to_string())
        }
        other => Err(format!("packed by method {other}; expected stored or deflated")),
    }
}

fn array(bytes: &[u8]) -> Result<Array, String> {
    if !bytes.starts_with(b"\x93NUMPY") {
        return Err("no numpy array".into());
    }
    let (start, length) = match bytes.get(6) {
        Some(1) => (10, u16_at(bytes, 8)? as usize),
        _ => (12, u32_at(bytes, 8)? as usize),
    };
    let header = std::str::from_utf8(slice(bytes, start, length)?).map_err(|_| "its header is not text")?;
    let data = &bytes[start + length..];
    let after = |key: &str| header.split_once(key).map(|(_, rest)| rest).ok_or(format!("its header has no {key}"));
    let kind = after("'descr':")?.trim_start().trim_start_matches('\'').split('\'').next().unwrap_or_default();
    let fortran = after("'fortran_order':")?.trim_start().starts_with("True");
    let shape = after("'shape':")?.split_once('(').and_then(|(_, rest)| rest.split_once(')')).ok_or("no shape")?.0;
    let sizes = shape.split(',').map(str::trim).filter(|size| !size.is_empty());
    let shape: Vec<usize> =
        sizes.map(|size| size.parse().map_err(|_| format!("a size is {size}"))).collect::<Result<_, String>>()?;
    let values: Vec<f64> = match kind {
        "<f8" => data.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap_or_default())).collect(),
        "<f4" => data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap_or_default()).into()).collect(),
        "<i8" => data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap_or_default()) as f64).collect(),
        other => return Err(format!("it holds {other}; expected <f8, <f4 or <i8")),
    };
    let expected = shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
    if expected != Some(values.len()) {
        return Err(format!("{} values do not fill {shape:?}", values.len()));
    }
    let values = match shape[..] {
        [rows, columns] if fortran => {
            (0..rows * columns).map(|at| values[at % columns * rows + at / columns]).collect()
        }
        _ => values,
    };
    Ok(Array { shape, values })
}

fn slice(bytes: &[u8], at: usize, len: usize) -> Result<&[u8], String> {
    at.checked_add(len).and_then(|end| bytes.get(at..end)).ok_or_else(|| "it is truncated".into())
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, String> {
    slice(bytes, at, 2).map(|b| u16::from_le_bytes([b[0], b[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, String> {
    slice(bytes, at, 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/npz").join(name)
    }

    /// The fixtures were written by numpy 2.4.6: `savez_compressed` and `savez`.
    #[test]
    fn reads_what_numpy_writes() {
        let statistics = read(&fixture("compressed.npz")).unwrap();
        assert_eq!(statistics["mu"], Array { shape: vec![3], values: vec![1.0, 2.0, 3.5] });
        assert_eq!(statistics["sigma"].shape, [3, 3]);
        assert_eq!(statistics["sigma"].values, [2.0, 0.5, 0.0, 0.5, 3.0, 0.25, 0.0, 0.25, 1.0]);
        let others = read(&fixture("stored.npz")).unwrap();
        assert_eq!(others["fortran"], Array { shape: vec![2, 3], values: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0] });
        assert_eq!(others["whole"].values, [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(others["scalar"], Array { shape: vec![], values: vec![7.0] });
    }

    #[test]
    fn arrays_come_back_and_are_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let array = |shape: &[usize]| {
            let len = shape.iter().product::<usize>();
            Array { shape: shape.to_vec(), values: (0..len).map(|i| (i as f64).sin()).collect() }
        };
        let arrays = [("mu", array(&[7])), ("sigma", array(&[7, 7]))];
        let (first, second) = (dir.path().join("a.npz"), dir.path().join("b.npz"));
        write(&first, &arrays).unwrap();
        write(&second, &arrays).unwrap();
        assert_eq!(std::fs::read(&first).unwrap(), std::fs::read(&second).unwrap());
        let back = read(&first).unwrap();
        assert!(arrays.iter().all(|(name, array)| back[*name] == *array));
    }

    #[test]
    fn damaged_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.npz");
        let whole = std::fs::read(fixture("compressed.npz")).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&file, &whole[..cut]).unwrap();
            assert!(read(&file).is_err(), "{cut} bytes");
        }
        // Whatever byte is turned, the answer is arrays or an error.
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            std::fs::write(&file, &bytes).unwrap();
            let _ = read(&file);
        }
    }
}
