//! Matrix products by cuBLASLt: the first choice of its heuristics.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys;

use super::{Owned, Queue, WORKSPACE_BYTES, missing, said, workspace};
use crate::device::gpu::Buffer;
use crate::device::gpu::library::{Added, Call, Product, Stored};
use crate::dtype::DType;
use crate::error::{Error, Result};

const NAME: &str = "cuBLASLt";

pub struct CublasLt {
    queue: Arc<Queue>,
    handle: Owned<sys::cublasLtHandle_t, CublasError>,
}

/// A product that is ready. Descriptors live as long as it does.
pub struct Matmul<'a> {
    library: &'a CublasLt,
    product: Product,
    descriptor: Owned<sys::cublasLtMatmulDesc_t, CublasError>,
    a: Layout,
    b: Layout,
    d: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
    left: Buffer,
    right: Buffer,
    y: Buffer,
    /// Which the descriptor points at.
    _bias: Option<Buffer>,
    workspace: Option<Buffer>,
}

type Layout = Owned<sys::cublasLtMatrixLayout_t, CublasError>;

impl CublasLt {
    pub fn open(queue: &Arc<Queue>) -> Result<Self, String> {
        // SAFETY: looks for a library, whose initialisers are NVIDIA's. What is found here is found again: cudarc panics
        // where it finds nothing.
        if !unsafe { sys::is_culib_present() } {
            return Err(missing(NAME, "libcublasLt"));
        }
        let handle = result::create_handle().map_err(|e| said(NAME, "beginning")(&e).to_string())?;
        Ok(Self {
            queue: queue.clone(),
            // SAFETY: just created.
            handle: unsafe { Owned::new(handle, result::destroy_handle) },
        })
    }

    pub fn prepare(&self, product: &Product, [left, right, y]: [&Buffer; 3]) -> Result<Matmul<'_>> {
        let shape = product.column_major();
        let what = format!("a product of m {}, n {}, k {}", shape.m, shape.n, shape.k);
        let failed = said(NAME, &what);
        let failed = |e: CublasError| failed(&e);
        let dtype = y.dtype();
        let scalar = match dtype {
            DType::F32 => sys::cudaDataType_t::CUDA_R_32F,
            DType::Bf16 => sys::cudaDataType_t::CUDA_R_16BF,
            DType::F16 => sys::cudaDataType_t::CUDA_R_16F,
            _ => return Err(Error::Failed(format!("{NAME}: {what}: in {}", dtype.name()))),
        };
        // Sums in f32; its fast variants, which may take TF32, have other names.
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let descriptor = result::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F).map_err(failed)?;
        // SAFETY: just created.
        let descriptor = unsafe { Owned::new(descriptor, result::destroy_matmul_desc) };
        let set = |attribute, value: *const c_void, bytes| {
            // SAFETY: the descriptor lives, and the value has so many bytes.
            unsafe { result::set_matmul_desc_attribute(descriptor.handle, attribute, value, bytes) }.map_err(failed)
        };
        use sys::cublasLtMatmulDescAttributes_t::{
            CUBLASLT_MATMUL_DESC_BIAS_POINTER as BIAS, CUBLASLT_MATMUL_DESC_EPILOGUE as EPILOGUE,
            CUBLASLT_MATMUL_DESC_TRANSA as TRANSPOSES_A, CUBLASLT_MATMUL_DESC_TRANSB as TRANSPOSES_B,
        };
        for (attribute, stored) in [(TRANSPOSES_A, shape.a), (TRANSPOSES_B, shape.b)] {
            // CUBLAS_OP_N and CUBLAS_OP_T of `cublasOperation_t`, an int.
            let operation = i32::from(stored.transposed);
            set(attribute, (&raw const operation).cast(), size_of_val(&operation))?;
        }
        let bias = match product.added {
            // In the type of y, as the library takes it.
            Added::Bias => Some(y.gpu().buffer(dtype, product.columns)?),
            Added::Nothing | Added::Y => None,
        };
        if let Some(bias) = &bias {
            bias.clear()?;
            let (epilogue, address) = (sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS, bias.address());
            set(EPILOGUE, (&raw const epilogue).cast(), size_of_val(&epilogue))?;
            set(BIAS, (&raw const address).cast(), size_of_val(&address))?;
        }
        let layout = |Stored { rows, columns, .. }: Stored| {
            let layout = result::create_matrix_layout(scalar, rows as u64, columns as u64, rows as i64);
            // SAFETY: just created.
            layout.map(|layout| unsafe { Owned::new(layout, result::destroy_matrix_layout) })
        };
        let (a, b) = (layout(shape.a).map_err(failed)?, layout(shape.b).map_err(failed)?);
        let d = layout(shape.d).map_err(failed)?;
        let preference = result::create_matmul_pref().map_err(failed)?;
        // SAFETY: just created.
        let preference = unsafe { Owned::new(preference, result::destroy_matmul_pref) };
        let most = WORKSPACE_BYTES;
        let attribute = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: all of them live; the value is a `size_t`, as the attribute is. Addresses are multiples of 256, as the
        // heuristics take for granted.
        let found = unsafe {
            let (value, bytes) = ((&raw const most).cast(), size_of_val(&most));
            result::set_matmul_pref_attribute(preference.handle, attribute, value, bytes).map_err(failed)?;
            let (handle, descriptor) = (self.handle.handle, descriptor.handle);
            let (a, b, d) = (a.handle, b.handle, d.handle);
            result::get_matmul_algo_heuristic(handle, descriptor, a, b, d, d, preference.handle).map_err(failed)?
        };
        Ok(Matmul {
            library: self,
            product: *product,
            descriptor,
            a,
            b,
            d,
            algorithm: found.algo,
            workspace: workspace(y, found.workspaceSize)?,
            left: left.clone(),
            right: right.clone(),
            y: y.clone(),
            _bias: bias,
        })
    }
}

impl Call for Matmul<'_> {
    fn queue(&self) -> Result<()> {
        let library = self.library;
        let beta = if self.product.added == Added::Y { 1_f32 } else { 0.0 };
        let alpha = 1_f32;
        let (alpha, beta) = ((&raw const alpha).cast(), (&raw const beta).cast());
        let pointer = |buffer: &Buffer| buffer.address() as *mut c_void;
        let (memory, bytes) =
            self.workspace.as_ref().map_or((ptr::null_mut(), 0), |buffer| (pointer(buffer), buffer.byte_len()));
        library.queue.call("queueing a product", || Ok(()))?;
        // SAFETY: everything lives as long as this, and the operands have as many elements as their layouts.
        unsafe {
            result::matmul(
                library.handle.handle,
                self.descriptor.handle,
                alpha,
                beta,
                // Right comes first: see `Product::column_major`.
                pointer(&self.right),
                self.a.handle,
                pointer(&self.left),
                self.b.handle,
                pointer(&self.y),
                self.d.handle,
                pointer(&self.y),
                self.d.handle,
                &raw const self.algorithm,
                memory,
                bytes,
                library.queue.stream.cast(),
            )
        }
        .map_err(|e| said(NAME, "a product")(&e))
    }
}
