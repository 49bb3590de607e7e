//! How long 100,000 prompts take to be compared with all that were kept before them:
//! `cargo bench --bench prompt_filter`. One thread; words are as unevenly frequent as in captions (Zipf).

use std::time::Instant;

use selma::prompting::rouge::Pool;
use selma::tensor::random::{Stream, below, uniform};

const PROMPTS: u64 = 100_000;

fn main() {
    for (name, words) in [("6,000 words", 6000.0f32), ("60 words", 60.0)] {
        let prompts: Vec<String> = (0..PROMPTS).map(|index| prompt(index, words)).collect();
        let start = Instant::now();
        let mut pool = Pool::default();
        for prompt in &prompts {
            if pool.nearest_above(prompt, 0.8).is_none() {
                pool.insert(prompt);
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        println!("{name}: {PROMPTS} prompts, {} kept, {seconds:.1} s", pool.len());
    }
}

/// 8 to 29 words; the word of rank r is drawn about 1 / r as often as the first. Every fourth prompt is an earlier one
/// with one word changed.
fn prompt(index: u64, words: f32) -> String {
    let copied = if index % 4 == 3 { index / 2 } else { index };
    let len = 8 + below(1, Stream::Choice, copied, 0, 22) as usize;
    let mut ranks: Vec<u32> =
        uniform(1, Stream::Choice, copied, 1, len).iter().map(|u| words.powf(*u) as u32).collect();
    if copied != index {
        ranks[index as usize % len] = 0;
    }
    let named: Vec<String> = ranks.iter().map(|rank| format!("w{rank}")).collect();
    named.join(" ")
}
