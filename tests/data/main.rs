//! Training data, from the outside.

mod buckets;
mod cache;
mod dataset;
mod examples;
mod folders;
mod loader;
mod noise;
mod preprocess;
mod prompts;
mod tokenizer;

/// The message of an error.
fn message<T: std::fmt::Debug>(result: selma::Result<T>) -> String {
    result.expect_err("an error").to_string()
}
