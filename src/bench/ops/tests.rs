//! What libraries are given, and which order is marked.

use super::*;

/// The libraries are given the FLOPs that an op is credited with, on operands of the op's sizes.
#[test]
fn the_libraries_do_the_same_work() {
    let ops = ops(2, 16);
    assert_eq!(ops.iter().filter(|op| !op.library(true).is_empty()).count(), 3 * 5);
    for op in ops.iter().filter(|op| !op.library(false).is_empty()) {
        for backward in [false, true] {
            let works = op.library(backward);
            let flops = works.iter().map(|work| match work {
                Library::Product(p) => 2.0 * (p.rows * p.columns * p.depth) as f64,
                Library::Convolution(conv, _) => {
                    let [x, weight, y] = work.lens();
                    assert_eq!((x, weight, y), (conv.n * conv.h * conv.w * conv.c_in, weight, x));
                    2.0 * (y * weight / conv.c_out) as f64
                }
            });
            assert_eq!(flops.sum::<f64>(), op.work(backward, DType::F32).flops, "{} {backward}", op.name);
        }
        let [x, weight, _] = op.library(false)[0].lens();
        let len = |i: usize| op.inputs[i].iter().product::<usize>();
        assert_eq!([x, weight], [len(0), len(1)], "{}", op.name);
    }
}

/// In the way of the planner, whichever row it is: auto and one other.
fn chosen(device: &Device, dtype: DType) {
    let all = ops(2, 16);
    for backward in [false, true] {
        for sizes in ["512x320->320", "128x640->640", "32x1280->1280"] {
            let of_sizes = all.iter().filter(|op| op.name.contains(&format!("lora_linear {sizes}")));
            let orders: Vec<_> = of_sizes.filter_map(|op| op.order(backward, device, dtype)).collect();
            assert_eq!(orders.len(), LoraOrder::NAMES.len());
            let (auto, marked) = orders[0];
            assert!(marked && auto != LoraOrder::Auto, "{sizes}");
            let marked: Vec<_> = orders[1..].iter().filter(|(_, chosen)| *chosen).collect();
            assert_eq!(marked, [&(auto, true)], "{sizes} {backward}");
        }
    }
    assert!(all.iter().filter_map(|op| op.order(true, device, dtype)).count() == 15);
}

#[test]
fn one_order_is_the_planners() {
    chosen(&Device::Cpu, DType::F32);
    chosen(&Device::Cpu, DType::Bf16);
}

#[cfg(feature = "simulator")]
#[test]
fn one_order_is_the_planners_on_a_gpu() {
    use crate::device::gpu::{Checks, Gpu, Order};
    let device = Device::Gpu(Gpu::simulator(Checks::Off, Order::Forwards).unwrap());
    chosen(&device, DType::F32);
    chosen(&device, DType::Bf16);
}
