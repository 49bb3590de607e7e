//! Training data and the records of a run, from the outside.

mod cache;
mod config;
mod dataset;
mod examples;
mod loader;
mod preprocess;
mod prompts;
mod records;
mod schedule;
mod tokenizer;

/// The message of an error.
fn message<T: std::fmt::Debug>(result: selma::Result<T>) -> String {
    result.expect_err("an error").to_string()
}
