//! The ops, a file each: against PyTorch, against central differences, on every device of the build, and for what must not
//! change a single bit (threads) or only by one rounding (16-bit storage).

mod attention;
mod combine;
mod conv2d;
mod dora;
mod elementwise;
mod functions;
mod geglu;
mod group_norm;
mod layer_norm;
mod linear;
mod lora;
mod loss;
mod matmul;
mod noise;
mod optimizer;
mod optimizers;
mod pool;
mod posterior;
mod rows;
mod support;
mod threads;
