//! The optimizer, elementary functions, and what no number of threads may change.

mod functions;
mod invariance;
mod optimizer;
mod pytorch;
mod support;
