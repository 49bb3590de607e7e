//! The operations of the engine. How an op lies here, and how to add one:
//!
//! 1. An op is a folder, `ops/NAME/`, or an op of a family of small ones in one: `mod.rs`, `cpu.rs`, `gpu.rs`.
//! 2. `mod.rs` has the public function: the tape first, then the tensors, then the numbers. Its docs give shapes and dtypes.
//! 3. `Shape::check` refuses what does not fit, in one place; both bodies may take the shape for granted.
//! 4. [`device_of`](crate::tensor) says where the tensors are, and `on!` calls the body of that device: functions of the
//!    same names and signatures in `cpu.rs` and `gpu.rs`, which speak [`Tensor`](crate::tensor::Tensor).
//! 5. One [`Tape::record`](crate::autograd::Tape::record) for all devices: the closure gets the gradient of the result and
//!    which gradients are wanted, calls `on!(device, backward(..))`, and owns what that reads: inputs, and what the forward
//!    body returned beside the result, as tensors.
//! 6. `cpu.rs` is the definition, over `T: Real` with [`dispatch!`](crate::dispatch): f32 arithmetic, rounded once by
//!    `Tensor::from_reals`; sums in an order that no number of threads changes.
//! 7. `gpu.rs` launches `kernels/NAME.cu`: results by `x.empty_like()` or `x.new_empty(shape, dtype)`, then
//!    `x.kernel(&kernels::NAME)?.grid(..).block(..).output(&y).input(x).launch()?`; the builder checks each argument.
//! 8. A fusion that only a GPU has is a branch in `mod.rs`, with the reason beside it.
//! 9. `tests/ops/NAME.rs` compares with PyTorch, with differences, over threads, and every device with the CPU.
//! 10. `pub use` below, the test in `tests/ops/main.rs`, and a row in `src/selfcheck/` that runs the kernels on any device. The
//!     build finds `kernels/NAME.cu` itself; `.ci/ptx` makes its PTX.

/// Calls `cpu::f` or `gpu::f` of the op's own modules, by where its tensors are.
macro_rules! on {
    ($device:expr, $f:ident($($argument:expr),* $(,)?)) => {
        match $device {
            $crate::device::Device::Cpu => cpu::$f($($argument),*),
            $crate::device::Device::Gpu(_) => gpu::$f($($argument),*),
        }
    };
}

mod attention;
mod combine;
mod conv2d;
mod dora;
mod elementwise;
mod geglu;
mod group_norm;
mod layer_norm;
mod linear;
mod lora;
mod loss;
mod matmul;
pub mod noise;
pub mod optimizer;
mod pool;
mod posterior;
mod rows;
mod sums;

/// Products in slices of k whether or not that pays, for the checks of their kernels.
pub(crate) mod in_slices {
    #[cfg(all(test, feature = "simulator"))]
    pub use super::attention::{gradients_on_gpu as attention_gradients, on_gpu as attention};
    pub use super::conv2d::gpu::{forward_in_slices, transposed_in_slices};
    #[cfg(all(test, feature = "simulator"))]
    pub use super::matmul::gpu::products;
    pub use super::matmul::gpu::{Epilogue, Layout, products_in_slices};
}

/// By the kernels for compute capability 9.0, whether or not they have proved themselves.
pub(crate) mod hopper {
    pub use super::attention::delta_on_gpu as attention_delta;
    pub use super::attention::hopper::{attention, attention_gradients};
    pub use super::conv2d::hopper::{forward, transposed};
    pub use super::matmul::hopper::products;
}

/// What several kernels can do, for the proof that they do the same.
pub(crate) mod several {
    pub use super::conv2d::gpu::{forward, transposed, weight_gradient};
    pub use super::geglu::gpu::products_geglu;
    pub use super::matmul::gpu::{Epilogue, Layout, matmul_transposed, products};
    pub use super::matmul::gpu_group::products_group;
}

pub use attention::attention;
pub(crate) use combine::evaluate;
pub use combine::{Combination, clamp, combine};
pub use conv2d::{Epilogue, Padding, conv2d, conv2d_epilogue, upsample_conv2d};
pub use dora::{dora, dora_norm};
pub use elementwise::{add, add_channel_bias, cast, gelu, quick_gelu, scale, silu};
pub use geglu::{gated_feed_forward, geglu, linear_geglu};
pub use group_norm::{group_norm, group_norm_concat};
pub use layer_norm::layer_norm;
pub use linear::{LinearLayer, linear, linear_group, linear_residual};
pub use lora::{LoraLayer, LoraOrder, LoraSizes, lora_linear};
pub use loss::{Distance, weighted_distance, weighted_mse};
pub use matmul::matmul;
pub use pool::{Window, avg_pool2d, max_pool2d};
pub use posterior::{LOG_VARIANCE, kl_divergence, posterior_sample};
pub use rows::{
    concat_channels, embedding, reshape, select_numbered_rows, select_rows, slice_channels, timestep_embedding,
    upsample_nearest,
};
