//! A language model that sees as the judge: it gets the images of a group and its texts in another order.

use std::path::Path;

use super::replies::named;
use crate::error::Result;
use crate::evaluate::replies::Replies;
use crate::random::{self, Stream};

/// The text that each image gets, by its place in the group: that of image i is text i. Images that the reply does not name,
/// or names twice, get none, which is `usize::MAX`.
///
/// # Errors
/// Those of the replies.
pub fn assigned(replies: &mut Replies, number: u64, images: &[&Path], texts: &[&str], seed: u64) -> Result<Vec<usize>> {
    let order = shuffled(texts.len(), seed, number);
    let list: String =
        order.iter().enumerate().map(|(i, &text)| format!("Text {}: {}\n", i + 1, texts[text])).collect();
    let request = format!(
        "Here are {0} pictures, Picture 1 to Picture {0} in their order, and {0} texts in another order. Which picture belongs to \
         which text?\n{list}Reply with one picture for each text, in the order of the texts, such as: [Picture 2] [Picture 1]",
        texts.len()
    );
    let reply = replies.ask(number, &request, images)?;
    let mut assigned = vec![usize::MAX; images.len()];
    for (place, answer) in named(&reply).into_iter().take(order.len()).enumerate() {
        let image = (answer as usize).wrapping_sub(1);
        if image < assigned.len() {
            let free = assigned[image] == usize::MAX;
            assigned[image] = if free { order[place] } else { usize::MAX - 1 };
        }
    }
    Ok(assigned)
}

fn shuffled(n: usize, seed: u64, number: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        let j = random::below(seed, Stream::Choice, number, i as u64, i as u32 + 1) as usize;
        order.swap(i, j);
    }
    order
}
