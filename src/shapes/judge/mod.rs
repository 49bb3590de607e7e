//! Looks at an image and says what is in it.
//!
//! [`View::of`] fits the background, splits the rest into regions by colour, and names each region's shape by its
//! moments; it knows nothing of how the image was made. [`questions()`] asks what a caption claims; [`judge()`] answers.
//!
//! A shape is known by how far its area reaches, how round, wide and symmetric it is, and how strongly it repeats three,
//! four and five times around its centre. Upright shapes only: this world turns none, and a triangle on its tip is none.
//!
//! How often it is right, with confusion matrices: `accuracy.md` in this folder on rendered images, as they are and made
//! worse; `drawn.md` on 200 images that models drew, against labels by eye, with false names and missing ones. Tests hold
//! both files to what they measure.

mod answer;
mod background;
mod classify;
mod colour;
mod features;
mod questions;
mod segment;
mod taught;
mod view;

pub use answer::{Verdict, answer, gate, judge};
pub use classify::Naming;
pub use questions::{Ask, Noun, Question, questions};
pub use taught::Taught;
pub use view::{Found, View};
