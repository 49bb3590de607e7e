//! Tables of comma-separated values.

/// The line on which `row` of a table in `bytes` begins, from 1. Behind a line that ends in CR LF the reader is still before
/// the LF when it takes down where a row begins.
pub fn line(bytes: &[u8], row: &csv::StringRecord) -> u64 {
    let place = row.position().map_or((0, 0), |position| (position.byte() as usize, position.line()));
    place.1 + u64::from(bytes.get(place.0) == Some(&b'\n'))
}
