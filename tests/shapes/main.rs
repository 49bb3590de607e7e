//! The built-in world, from the outside.

mod accuracy;
mod builtin;
mod captions;
mod degraded;
mod drawn;
mod judge;
mod vocabulary;
mod world;

/// Holds a file of the sources to what was measured.
fn documented(file: &str, measured: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let said = std::fs::read_to_string(path).unwrap_or_default();
    assert!(said == measured, "{file} should be:\n{measured}");
}
