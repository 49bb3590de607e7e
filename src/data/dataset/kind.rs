//! What kind of file lies in a training folder, by its name and its first bytes.

use std::io::Read;
use std::path::Path;

/// Endings of images that are read, in lower case.
const READ: [&str; 8] = ["png", "jpg", "jpeg", "jpe", "jfif", "jfi", "webp", "bmp"];
/// Endings of images that are not read.
const NOT_READ: [&str; 11] = ["gif", "avif", "heic", "heif", "tif", "tiff", "jxl", "jp2", "svg", "psd", "ico"];
/// Endings of captions.
pub const CAPTIONS: [&str; 2] = ["txt", "caption"];
/// Files that are no images whatever they begin with.
const OTHERS: [&str; 9] = ["json", "jsonl", "csv", "parquet", "npz", "safetensors", "toml", "md", "zip"];

/// What a file is to a training run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Image,
    /// An image in a format that is not read.
    UnreadImage,
    Caption,
    Other,
}

/// The kind of a file. One with another ending than an image's is an image where it begins like one.
pub fn of(path: &Path) -> Kind {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
    let ending = ending.as_str();
    match () {
        () if READ.contains(&ending) => Kind::Image,
        () if NOT_READ.contains(&ending) => Kind::UnreadImage,
        () if CAPTIONS.contains(&ending) => Kind::Caption,
        () if OTHERS.contains(&ending) => Kind::Other,
        () => by_content(path),
    }
}

fn by_content(path: &Path) -> Kind {
    let mut start = [0; 16];
    let read = std::fs::File::open(path).and_then(|mut file| file.read(&mut start));
    let start = &start[..read.unwrap_or(0)];
    let webp = start.starts_with(b"RIFF") && start.get(8..12) == Some(b"WEBP");
    // Two letters begin a bitmap; bytes 6 to 9 are reserved and 0.
    let bmp = start.starts_with(b"BM") && start.get(6..10) == Some(&[0; 4]);
    if start.starts_with(b"\x89PNG\r\n\x1a\n") || start.starts_with(b"\xff\xd8\xff") || webp || bmp {
        return Kind::Image;
    }
    let brand = start.get(8..12).filter(|_| start.get(4..8) == Some(b"ftyp"));
    let brands: [&[u8]; 8] = [b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"jp2 "];
    let unread: [&[u8]; 6] = [b"GIF8", b"II*\0", b"MM\0*", b"\xff\x0a", b"\0\0\0\x0cJXL ", b"8BPS"];
    match brand.is_some_and(|brand| brands.contains(&brand)) || unread.iter().any(|magic| start.starts_with(magic)) {
        true => Kind::UnreadImage,
        false => Kind::Other,
    }
}
