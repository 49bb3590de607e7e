//! `--device cuda` without a GPU: the selma binary loads a stand-in for NVIDIA's driver (`driver/`), which executes the PTX
//! of its kernels and checks what the host does. In a build without CUDA kernels (`SELMA_CUDA_ARCH=none`) only the
//! choice of targets is tested.

#[cfg(cuda_kernels)]
mod calls;
#[cfg(cuda_kernels)]
mod faults;
#[cfg(cuda_kernels)]
mod first_contact;
#[cfg(cuda_kernels)]
mod memory;
#[cfg(cuda_kernels)]
mod selfcheck;
#[cfg(cuda_kernels)]
mod support;
#[cfg(unix)]
mod toolkits;
#[cfg(cuda_kernels)]
mod train;
#[cfg(cuda_kernels)]
mod tuning;
