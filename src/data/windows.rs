//! Long prompts: content ids cut into windows that each fit between start and end of text, at a comma or a full stop where
//! one is near.

/// Content ids of one window.
pub const CAPACITY: usize = 75;
/// How far back a cut may go for a comma or a full stop.
const REACH: usize = 20;
/// CLIP's `,</w>` and `.</w>`.
const STOPS: [i64; 2] = [267, 269];

/// The lengths of the windows of a text with these content ids, without start and end. Their sum is the number of ids; an
/// empty text has one empty window.
pub fn lengths(ids: &[i64]) -> Vec<usize> {
    let (mut lengths, mut rest) = (Vec::new(), ids);
    while rest.len() > CAPACITY {
        let stop = (CAPACITY - REACH + 1..=CAPACITY).rev().find(|&n| STOPS.contains(&rest[n - 1]));
        let n = stop.unwrap_or(CAPACITY);
        lengths.push(n);
        rest = &rest[n..];
    }
    if !rest.is_empty() || ids.is_empty() {
        lengths.push(rest.len());
    }
    lengths
}

/// Rows `[start, ids, end, padding]` of 77 ids, one a window.
pub fn rows(ids: &[i64], start: i64, end: i64, pad: i64) -> Vec<Vec<i64>> {
    let mut at = 0;
    let row = |n: usize| {
        let mut row = [&[start], &ids[at..at + n], &[end]].concat();
        row.resize(CAPACITY + 2, pad);
        at += n;
        row
    };
    lengths(ids).into_iter().map(row).collect()
}
