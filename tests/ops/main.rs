//! Linear layers and convolutions: against PyTorch, against central differences, and for what must not change a single
//! bit (threads) or only by one rounding (16-bit storage).

mod conv2d;
mod linear;
mod support;
