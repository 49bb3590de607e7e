//! What a set of images is like: its distance to a reference set, its diversity, and one image against another.
//! Pure functions of features `[n, d]` and of images, in f64; the networks that make the features are in
//! [`crate::judges`].

pub mod cmmd;
pub mod diversity;
pub mod features;
pub mod fid;
pub mod kid;
pub mod measure;
pub mod page;
pub mod report;
pub mod similarity;
pub mod statistics;

pub use features::Features;
