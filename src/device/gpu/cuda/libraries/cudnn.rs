//! Convolutions by cuDNN, NHWC like ours: the first choice of its heuristics that fits.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;

use cudarc::cudnn::result::{self, CudnnError};
use cudarc::cudnn::sys;

use super::{Owned, Queue, WORKSPACE_BYTES, missing, said, workspace};
use crate::device::conv_shape::{ConvShape, Padding};
use crate::device::gpu::Buffer;
use crate::device::gpu::library::{Call, Pass};
use crate::dtype::DType;
use crate::error::{Error, Result};

const NAME: &str = "cuDNN";
/// Choices that the heuristics are asked for.
const CHOICES: usize = 8;

pub struct Cudnn {
    queue: Arc<Queue>,
    handle: Owned<sys::cudnnHandle_t, CudnnError>,
}

/// A convolution that is ready. Descriptors live as long as it does.
pub struct Convolution<'a> {
    library: &'a Cudnn,
    shape: Shape,
    algorithm: Algorithm,
    x: Buffer,
    weight: Buffer,
    y: Buffer,
    workspace: Option<Buffer>,
}

/// Its descriptors.
struct Shape {
    x: Owned<sys::cudnnTensorDescriptor_t, CudnnError>,
    y: Owned<sys::cudnnTensorDescriptor_t, CudnnError>,
    weight: Owned<sys::cudnnFilterDescriptor_t, CudnnError>,
    convolution: Owned<sys::cudnnConvolutionDescriptor_t, CudnnError>,
}

#[derive(Clone, Copy)]
enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    Dgrad(sys::cudnnConvolutionBwdDataAlgo_t),
    Wgrad(sys::cudnnConvolutionBwdFilterAlgo_t),
}

/// One choice of the heuristics, whatever the pass.
struct Choice {
    algorithm: Algorithm,
    status: sys::cudnnStatus_t,
    bytes: usize,
    math: sys::cudnnMathType_t,
}

impl Cudnn {
    pub fn open(queue: &Arc<Queue>) -> Result<Self, String> {
        let failed = |e: CudnnError| said(NAME, "beginning")(&e).to_string();
        // SAFETY: looks for a library, whose initialisers are NVIDIA's. What is found here is found again: cudarc panics
        // where it finds nothing.
        if !unsafe { sys::is_culib_present() } {
            return Err(missing(NAME, "libcudnn"));
        }
        let handle = result::create_handle().map_err(failed)?;
        // SAFETY: just created; the stream lives as long as the process.
        let handle = unsafe { Owned::new(handle, result::destroy_handle) };
        // SAFETY: as above.
        unsafe { result::set_stream(handle.handle, queue.stream.cast()) }.map_err(failed)?;
        Ok(Self { queue: queue.clone(), handle })
    }

    pub fn prepare(&self, conv: &ConvShape, pass: Pass, [x, weight, y]: [&Buffer; 3]) -> Result<Convolution<'_>> {
        let what = format!("{pass:?} of {conv:?}");
        let failed = said(NAME, &what);
        let failed = |e: CudnnError| failed(&e);
        let dtype = y.dtype();
        let shape = Shape::new(conv, dtype, &what, &failed)?;
        let choices = self.choices(&shape, pass).map_err(failed)?;
        use sys::cudnnMathType_t::{CUDNN_DEFAULT_MATH as DEFAULT, CUDNN_FMA_MATH as FMA};
        let fits = |choice: &&Choice| {
            // In f32 tensor cores would take TF32, which is other work.
            let exact = dtype != DType::F32 || [DEFAULT, FMA].contains(&choice.math);
            choice.status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS && exact && choice.bytes <= WORKSPACE_BYTES
        };
        let nothing = || Error::Failed(format!("{NAME}: {what}: the library has nothing for it"));
        let choice = choices.iter().find(fits).ok_or_else(nothing)?;
        // A choice is an algorithm and its math; f32 stays with what its descriptor says.
        if dtype != DType::F32 {
            // SAFETY: the descriptor lives.
            unsafe { result::set_convolution_math_type(shape.convolution.handle, choice.math) }.map_err(failed)?;
        }
        Ok(Convolution {
            library: self,
            workspace: workspace(y, choice.bytes)?,
            algorithm: choice.algorithm,
            shape,
            x: x.clone(),
            weight: weight.clone(),
            y: y.clone(),
        })
    }

    /// The best first.
    fn choices(&self, shape: &Shape, pass: Pass) -> Result<Vec<Choice>, CudnnError> {
        let handle = self.handle.handle;
        let (x, y) = (shape.x.handle, shape.y.handle);
        let (weight, convolution) = (shape.weight.handle, shape.convolution.handle);
        /// Asks `$ask` and puts what it finds into choices.
        macro_rules! choices {
            ($algorithm:path, $ask:path, $($descriptor:expr),*) => {{
                let mut found = Vec::with_capacity(CHOICES);
                let mut count: c_int = 0;
                // SAFETY: the descriptors live, and there is room for as many as are asked for, of which so many are written.
                unsafe {
                    $ask(handle, $($descriptor,)* CHOICES as c_int, &raw mut count, found.as_mut_ptr())?;
                    found.set_len(usize::try_from(count).unwrap_or(0).min(CHOICES));
                }
                let choices = found.into_iter().map(|found| Choice {
                    algorithm: $algorithm(found.algo),
                    status: found.status,
                    bytes: found.memory,
                    math: found.mathType,
                });
                choices.collect()
            }};
        }
        Ok(match pass {
            Pass::Forward => {
                choices!(Algorithm::Forward, result::get_convolution_forward_algorithm, x, weight, convolution, y)
            }
            Pass::Dgrad => {
                choices!(Algorithm::Dgrad, result::get_convolution_backward_data_algorithm, weight, y, convolution, x)
            }
            Pass::Wgrad => {
                choices!(Algorithm::Wgrad, result::get_convolution_backward_filter_algorithm, x, y, convolution, weight)
            }
        })
    }
}

impl Shape {
    fn new(conv: &ConvShape, dtype: DType, what: &str, failed: &dyn Fn(CudnnError) -> Error) -> Result<Self> {
        let refused = |why: &str| Error::Failed(format!("{NAME}: {what}: {why}"));
        let scalar = match dtype {
            DType::F32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
            DType::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
            DType::F16 => sys::cudnnDataType_t::CUDNN_DATA_HALF,
            _ => return Err(refused(dtype.name())),
        };
        let Padding { top, left, bottom, right } = conv.padding;
        if (top, left) != (bottom, right) {
            return Err(refused("the library has no such convolution"));
        }
        let ConvShape { ho, wo, .. } = *conv;
        // Dimensions are told in the order n, c, h, w whatever the layout; a filter's as c_out, c_in, kh, kw, and NHWC
        // there means `[c_out, kh, kw, c_in]` in memory.
        let layout = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        let dims = |dims: [usize; 4]| dims.map(|d| d as c_int);
        let tensor = |shape: [usize; 4]| {
            let tensor = result::create_tensor_descriptor()?;
            // SAFETY: just created, here and below.
            let tensor = unsafe { Owned::new(tensor, result::destroy_tensor_descriptor) };
            // SAFETY: as above.
            unsafe { result::set_tensor4d_descriptor(tensor.handle, layout, scalar, dims(shape)) }.map(|()| tensor)
        };
        let weight = result::create_filter_descriptor().map_err(failed)?;
        // SAFETY: as above.
        let weight = unsafe { Owned::new(weight, result::destroy_filter_descriptor) };
        let shape = dims([conv.c_out, conv.c_in, conv.kh, conv.kw]);
        // SAFETY: as above.
        unsafe { result::set_filter4d_descriptor(weight.handle, scalar, layout, shape) }.map_err(failed)?;
        let convolution = result::create_convolution_descriptor().map_err(failed)?;
        // SAFETY: as above.
        let convolution = unsafe { Owned::new(convolution, result::destroy_convolution_descriptor) };
        let [top, left, stride, _] = dims([top, left, conv.stride, 0]);
        // Sums in f32. The default math of f32 takes TF32; 16 bits go through tensor cores.
        let (mode, sums) =
            (sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION, sys::cudnnDataType_t::CUDNN_DATA_FLOAT);
        let math = match dtype {
            DType::F32 => sys::cudnnMathType_t::CUDNN_FMA_MATH,
            _ => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        };
        // SAFETY: as above.
        unsafe {
            let descriptor = convolution.handle;
            result::set_convolution2d_descriptor(descriptor, top, left, stride, stride, 1, 1, mode, sums)
                .and_then(|()| result::set_convolution_math_type(descriptor, math))
        }
        .map_err(failed)?;
        Ok(Self {
            x: tensor([conv.n, conv.c_in, conv.h, conv.w]).map_err(failed)?,
            y: tensor([conv.n, conv.c_out, ho, wo]).map_err(failed)?,
            weight,
            convolution,
        })
    }
}

impl Call for Convolution<'_> {
    fn queue(&self) -> Result<()> {
        let library = self.library;
        library.queue.call("queueing a convolution", || Ok(()))?;
        let pointer = |buffer: &Buffer| buffer.address() as *mut c_void;
        let (x, weight, y) = (pointer(&self.x), pointer(&self.weight), pointer(&self.y));
        let (memory, bytes) =
            self.workspace.as_ref().map_or((ptr::null_mut(), 0), |buffer| (pointer(buffer), buffer.byte_len()));
        let Shape { x: x_is, y: y_is, weight: weight_is, convolution } = &self.shape;
        let (x_is, y_is, weight_is, convolution) = (x_is.handle, y_is.handle, weight_is.handle, convolution.handle);
        let (one, zero) = (1_f32, 0_f32);
        let (one, zero) = ((&raw const one).cast(), (&raw const zero).cast());
        let handle = library.handle.handle;
        // SAFETY: everything lives as long as this, and the operands have as many elements as their descriptors.
        unsafe {
            match self.algorithm {
                Algorithm::Forward(algorithm) => result::convolution_forward(
                    handle,
                    one,
                    x_is,
                    x,
                    weight_is,
                    weight,
                    convolution,
                    algorithm,
                    memory,
                    bytes,
                    zero,
                    y_is,
                    y,
                ),
                Algorithm::Dgrad(algorithm) => result::convolution_backward_data(
                    handle,
                    one,
                    weight_is,
                    weight,
                    y_is,
                    y,
                    convolution,
                    algorithm,
                    memory,
                    bytes,
                    zero,
                    x_is,
                    x,
                ),
                Algorithm::Wgrad(algorithm) => result::convolution_backward_filter(
                    handle,
                    one,
                    x_is,
                    x,
                    y_is,
                    y,
                    convolution,
                    algorithm,
                    memory,
                    bytes,
                    zero,
                    weight_is,
                    weight,
                ),
            }
        }
        .map_err(|e| said(NAME, "a convolution")(&e))
    }
}
