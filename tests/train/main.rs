//! The settings, schedules and records of training runs, from the outside.

mod config;
mod records;
mod schedule;

/// The message of an error.
fn message<T: std::fmt::Debug>(result: selma::Result<T>) -> String {
    result.expect_err("an error").to_string()
}
