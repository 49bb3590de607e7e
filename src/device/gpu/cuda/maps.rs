//! Tensor maps as the driver encodes them.

use std::ffi::{c_int, c_uint, c_void};

use super::super::tensor_map::{Boxes, TensorMap};
use super::driver::{self, Code, value, written};
use crate::dtype::DType;

/// `CUtensorMap`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Encoded([u64; 16]);

/// Tensors of fewer bytes need another bit where the driver is no newer than this (NVIDIA/cutlass,
/// `cute/atom/copy_traits_sm90_tma.hpp` and `copy_traits_sm90_im2col.hpp`).
const SMALL_TENSOR: u64 = 131_072;
const LAST_WITHOUT: c_int = 13_010;
const SMALL_TENSOR_BIT: u64 = 1 << 21;

/// A map that [`TensorMap::check`] has accepted, of 16-bit floats.
pub fn encoded(map: &TensorMap, address: u64, scalar: DType) -> Result<Encoded, Code> {
    let data_type = if scalar == DType::F16 { value::MAP_OF_F16 } else { value::MAP_OF_BF16 };
    let swizzle: c_uint = match map.span {
        32 => 1,
        64 => 2,
        128 => 3,
        _ => 0,
    };
    let (rank, start) = (map.rank as c_uint, address as *mut c_void);
    let (sizes, strides, steps) = (map.sizes.as_ptr(), map.strides.as_ptr(), map.steps.as_ptr());
    let (interleave, l2, fill) = (0, value::MAP_L2_256, 0);
    let mut encoded = written(Encoded([0; 16]), |to| {
        let to = to.cast::<c_void>();
        match &map.boxes {
            // SAFETY: `to` has the size and alignment of a map; the lists have at least `rank` entries.
            Boxes::Tiled(boxes) => unsafe {
                let boxes = boxes.as_ptr();
                driver::encode_tiled(
                    to, data_type, rank, start, sizes, strides, boxes, steps, interleave, swizzle, l2, fill,
                )
            },
            Boxes::Patches { channels, pixels, lower, upper } => {
                let (lower, upper) = (lower.as_ptr(), upper.as_ptr());
                let (channels, pixels) = (*channels, *pixels);
                // SAFETY: as above; corners of four dimensions are two each.
                unsafe {
                    driver::encode_patches(
                        to, data_type, rank, start, sizes, strides, lower, upper, channels, pixels, steps, interleave,
                        swizzle, l2, fill,
                    )
                }
            }
        }
    })?;
    if map.extent() < SMALL_TENSOR {
        // SAFETY: writes one number.
        let version = written(0, |version| unsafe { driver::driver_version(version) })?;
        if version <= LAST_WITHOUT {
            encoded.0[1] &= !SMALL_TENSOR_BIT;
        }
    }
    Ok(encoded)
}
