//! The zip archive around a pickle: stored entries alone, ZIP64 included, which PyTorch always writes.
//!
//! Source: PKWARE, APPNOTE.TXT 6.3, sections 4.3.7 (local header), 4.3.12 (directory), 4.3.14 to 4.3.16 (its end).

use std::collections::BTreeMap;
use std::ops::Range;

const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";
const ENTRY: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";
/// Of the directory's end, and of the comment that may follow it.
const END_LENGTH: usize = 22;
const LONGEST_COMMENT: usize = 0xffff;

/// Entry -> where its bytes lie in `bytes`.
///
/// # Errors
/// A sentence on what is wrong with the archive: truncated, compressed, two entries of one name, bytes outside of it.
pub fn entries(bytes: &[u8]) -> Result<BTreeMap<String, Range<usize>>, String> {
    let (count, mut at) = directory(bytes)?;
    let mut entries = BTreeMap::new();
    for _ in 0..count {
        if !starts(bytes, at, ENTRY) {
            return Err("the zip archive's directory is damaged".into());
        }
        let short = |offset| number(bytes, at + offset, 2);
        let [flags, method] = [short(8)?, short(10)?];
        let [name_length, extra_length, comment_length] =
            [short(28)? as usize, short(30)? as usize, short(32)? as usize];
        let name = slice(bytes, at + 46, name_length)?;
        let name = std::str::from_utf8(name).map_err(|_| "an entry's name is not UTF-8".to_string())?.to_owned();
        let extra = slice(bytes, at + 46 + name_length, extra_length)?;
        let long = |offset| number(bytes, at + offset, 4);
        let [whole, packed, header] = wide([long(24)?, long(20)?, long(42)?], extra)?;
        if method != 0 || flags & 1 != 0 || whole != packed {
            return Err(format!("its entry {name} is compressed or encrypted; PyTorch stores entries as they are"));
        }
        let range = data(bytes, header, whole).map_err(|why| format!("its entry {name} {why}"))?;
        if entries.insert(name.clone(), range).is_some() {
            return Err(format!("two entries are named {name}"));
        }
        at += 46 + name_length + extra_length + comment_length;
    }
    Ok(entries)
}

/// The number of entries, and where the first stands in the directory.
fn directory(bytes: &[u8]) -> Result<(u64, usize), String> {
    let first = bytes.len().saturating_sub(END_LENGTH + LONGEST_COMMENT);
    let last = bytes.len().checked_sub(END_LENGTH).ok_or("the zip archive is truncated")?;
    let end = (first..=last).rev().find(|&at| starts(bytes, at, END));
    let end = end.ok_or("the zip archive has no directory at its end: it is truncated (copy or download it again)")?;
    let (mut count, mut offset) = (number(bytes, end + 10, 2)?, number(bytes, end + 16, 4)?);
    if let Some(locator) = end.checked_sub(20).filter(|&at| starts(bytes, at, LOCATOR_64)) {
        let wide = place(number(bytes, locator + 8, 8)?)?;
        if !starts(bytes, wide, END_64) {
            return Err("the zip archive's directory is damaged".into());
        }
        (count, offset) = (number(bytes, wide + 32, 8)?, number(bytes, wide + 48, 8)?);
    }
    Ok((count, place(offset)?))
}

/// Size, packed size and offset; those that do not fit into 32 bits stand in the entry's extra field, in this order.
fn wide(narrow: [u64; 3], extra: &[u8]) -> Result<[u64; 3], String> {
    let mut values = narrow;
    let mut at = 0;
    while at + 4 <= extra.len() {
        let (kind, length) = (number(extra, at, 2)?, number(extra, at + 2, 2)? as usize);
        if kind == 1 {
            let mut next = at + 4;
            for value in values.iter_mut().filter(|value| **value == u64::from(u32::MAX)) {
                *value = number(extra, next, 8)?;
                next += 8;
            }
        }
        at += 4 + length;
    }
    Ok(values)
}

/// The bytes that follow the local header at `header`.
fn data(bytes: &[u8], header: u64, length: u64) -> Result<Range<usize>, String> {
    let outside = || "lies outside of the file: it is truncated or damaged".to_string();
    let header = usize::try_from(header).map_err(|_| outside())?;
    if !starts(bytes, header, LOCAL) {
        return Err(outside());
    }
    let names = number(bytes, header + 26, 2)? + number(bytes, header + 28, 2)?;
    let begin = header + 30 + names as usize;
    let end = usize::try_from(length).ok().and_then(|length| begin.checked_add(length));
    end.filter(|&end| end <= bytes.len()).map(|end| begin..end).ok_or_else(outside)
}

fn starts(bytes: &[u8], at: usize, with: &[u8]) -> bool {
    bytes.get(at..).is_some_and(|rest| rest.starts_with(with))
}

fn slice(bytes: &[u8], at: usize, length: usize) -> Result<&[u8], String> {
    let end = at.checked_add(length);
    end.and_then(|end| bytes.get(at..end)).ok_or_else(|| "the zip archive is truncated".into())
}

/// A little-endian number of `length` bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> Result<u64, String> {
    let bytes = slice(bytes, at, length)?;
    Ok(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

fn place(offset: u64) -> Result<usize, String> {
    usize::try_from(offset).ok().filter(|&at| at < usize::MAX / 2).ok_or_else(|| "the zip archive is damaged".into())
}
