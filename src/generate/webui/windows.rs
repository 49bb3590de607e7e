//! Fragments to windows of 75 tokens, each token with its weight.

use super::attention::Fragment;
use crate::data::tokenizer::Tokenizer;
use crate::error::Result;

/// CLIP's `,</w>`.
const COMMA: i64 = 267;
/// How many tokens after a comma may go over into the next window with it.
const REACH: usize = 20;

/// The tokens of one window, without start and end, and their weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Window {
    pub ids: Vec<i64>,
    pub weights: Vec<f64>,
}

/// The windows of a prompt, at least one. A window that is full ends after its last comma, where one is near.
///
/// # Errors
/// As [`Tokenizer::tokens`].
pub fn windows(fragments: &[Fragment], tokenizer: &Tokenizer) -> Result<Vec<Window>> {
    let capacity = tokenizer.capacity();
    let (mut all, mut now, mut comma) = (Vec::new(), Window::default(), None);
    for fragment in fragments {
        let Fragment::Words(text, weight) = fragment else {
            all.push(std::mem::take(&mut now));
            comma = None;
            continue;
        };
        for id in tokenizer.tokens(text)? {
            let full = now.ids.len() == capacity;
            if id == COMMA {
                comma = Some(now.ids.len());
            } else if let Some(at) = comma.filter(|at| full && now.ids.len() - at <= REACH) {
                let next = Window { ids: now.ids.split_off(at + 1), weights: now.weights.split_off(at + 1) };
                all.push(std::mem::replace(&mut now, next));
                comma = None;
            }
            if now.ids.len() == capacity {
                all.push(std::mem::take(&mut now));
                comma = None;
            }
            now.ids.push(id);
            now.weights.push(*weight);
        }
    }
    if !now.ids.is_empty() || all.is_empty() {
        all.push(now);
    }
    Ok(all)
}
