//! Whole LoRA training steps, the ones of `selma bench`: `cargo bench --bench train_step`. Where there is an NVIDIA GPU, also
//! the one that GPUs are compared by, timed by the device's clock. `benches/peers` times the same steps in PyTorch.

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use selma::bench::{CASES, GPU_CASE, TrainStep};
use selma::device::Device;
use selma::device::gpu::Gpu;
use selma::tensor::DType;

fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("train_step");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    for case in CASES {
        // Made when it is first run: a case that the filter leaves out costs nothing.
        let mut step = None;
        group.bench_function(case, |b| {
            let step = step
                .get_or_insert_with(|| TrainStep::new(case, &Device::Cpu, DType::F32).expect("a case of this name"));
            b.iter(|| step.run().expect("a step that fits"));
        });
    }
    if let Ok(gpu) = Gpu::cuda(0) {
        let device = Device::Gpu(gpu);
        let mut step = None;
        group.bench_function(format!("{GPU_CASE} on the GPU"), |b| {
            let step =
                step.get_or_insert_with(|| TrainStep::new(GPU_CASE, &device, DType::Bf16).expect("room for the case"));
            b.iter_custom(|n| (0..n).map(|_| Duration::from_secs_f64(step.seconds().expect("a step"))).sum());
        });
    }
    group.finish();
}

fn threads(_: &mut Criterion) {
    selma::cli::use_threads(None).expect("the first use of the pool");
}

criterion_group!(benches, threads, steps);
criterion_main!(benches);
