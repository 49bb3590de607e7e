//! Long prompts: content ids cut into windows that each fit between start and end of text, at a comma or a full stop where
//! one is near.

/// How far back a cut may go for a comma or a full stop.
const REACH: usize = 20;
/// CLIP's `,</w>` and `.</w>`.
const STOPS: [i64; 2] = [267, 269];

/// The lengths of the windows of a text with these content ids, at most `capacity` each: without start and end. Their sum is
/// the number of ids; an empty text has one empty window.
pub fn lengths(ids: &[i64], capacity: usize) -> Vec<usize> {
    let (mut lengths, mut rest) = (Vec::new(), ids);
    while rest.len() > capacity {
        let stop = ((capacity.saturating_sub(REACH) + 1)..=capacity).rev().find(|&n| STOPS.contains(&rest[n - 1]));
        let n = stop.unwrap_or(capacity);
        lengths.push(n);
        rest = &rest[n..];
    }
    if !rest.is_empty() || ids.is_empty() {
        lengths.push(rest.len());
    }
    lengths
}
