//! The GPU kernels, run by the simulator with every access checked, against the CPU ops: at awkward sizes, in each
//! storage type, with the threads in both orders.

mod diffusion;
mod support;
