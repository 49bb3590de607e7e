//! The ops that are not matrix products: against PyTorch, against central differences, and for what must not change a
//! single bit (threads) or only by one rounding (16-bit storage).

mod differences;
mod functions;
mod invariance;
mod optimizer;
mod pytorch;
mod support;
