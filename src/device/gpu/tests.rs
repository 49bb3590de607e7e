//! The simulator's checks, each against a kernel with that mistake (`kernels/sim/planted.cu`), and the launch builder's.

use super::table::planted::{self as kernels, PLANTED_THREADS as THREADS};
use super::{Buffer, Checks, Gpu, Order};
use crate::dtype::DType;
use crate::error::Result;

/// Runs `launch` in both orders of the threads, on `THREADS` values for x and as many for y.
fn both_orders(launch: impl Fn(&Gpu, &Buffer, &Buffer) -> Result<()>) -> [Result<Vec<f32>>; 2] {
    [Order::Forwards, Order::Backwards].map(|order| {
        let gpu = Gpu::simulator(Checks::On, order)?;
        let x = gpu.upload(&values())?;
        let y = gpu.buffer(DType::F32, THREADS)?;
        launch(&gpu, &y, &x)?;
        y.download()
    })
}

fn values() -> Vec<f32> {
    (0..THREADS).map(|i| i as f32).collect()
}

/// That a launch fails in both orders, saying `expected`.
fn caught(expected: &str, launch: impl Fn(&Gpu, &Buffer, &Buffer) -> Result<()>) {
    for result in both_orders(launch) {
        let message = result.expect_err(expected).to_string();
        assert!(message.contains(expected), "expected {expected:?}, got {message:?}");
    }
}

/// That a launch without a mistake gives these values in both orders.
fn passes(expected: &[f32], launch: impl Fn(&Gpu, &Buffer, &Buffer) -> Result<()>) {
    for result in both_orders(launch) {
        assert_eq!(result.expect("no mistake"), expected);
    }
}

#[test]
fn races_between_barriers_are_caught() {
    let exchange = |bug: usize| {
        move |gpu: &Gpu, y: &Buffer, x: &Buffer| {
            let launch = gpu.kernel(&kernels::PLANTED_BLOCK_EXCHANGE, DType::F32).block(THREADS);
            launch.output(y).input(x).int(bug).launch()
        }
    };
    let reversed: Vec<f32> = values().into_iter().rev().collect();
    passes(&reversed, exchange(0));
    caught("read of uninitialised static shared memory at offset 28", exchange(1));
    // The first thread to run finds what nobody has written yet, or what another thread just has.
    for result in both_orders(exchange(2)) {
        let message = result.expect_err("a race").to_string();
        assert!(message.contains("race: read") || message.contains("uninitialised"), "{message}");
    }
    caught("race: ", exchange(3));
}

#[test]
fn races_inside_a_warp_are_caught() {
    let exchange = |bug: usize| {
        move |gpu: &Gpu, y: &Buffer, x: &Buffer| {
            let launch = gpu.kernel(&kernels::PLANTED_WARP_EXCHANGE, DType::F32).block(THREADS);
            launch.output(y).input(x).int(bug).launch()
        }
    };
    let swapped: Vec<f32> = (0..THREADS).map(|i| (i ^ 1) as f32).collect();
    passes(&swapped, exchange(0));
    for result in both_orders(exchange(1)) {
        let message = result.expect_err("a race").to_string();
        assert!(message.contains("race: read") || message.contains("uninitialised"), "{message}");
    }
    caught("race: ", exchange(2));
}

#[test]
fn wrong_accesses_to_device_memory_are_caught() {
    let copy = |bug: usize| {
        move |gpu: &Gpu, y: &Buffer, x: &Buffer| {
            // One less than there is memory for: the bounds are those of the argument.
            let (y, x) = (y.view(0, THREADS - 1), x.view(0, THREADS - 1));
            let launch = gpu.kernel(&kernels::PLANTED_COPY, DType::F32).block(THREADS);
            launch.output(&y).input(&x).int(THREADS - 1).int(bug).launch()
        }
    };
    for result in both_orders(copy(0)) {
        assert_eq!(result.expect("no mistake")[..THREADS - 1], values()[..THREADS - 1]);
    }
    caught("write of 4 bytes out of bounds: byte 252 of `y`, which has 252", copy(1));
    caught("read of 4 bytes out of bounds: byte -4 of `x`", copy(2));
    caught("leaves byte 248 of the output `y` unwritten", copy(3));
    caught("write to the input `x`", copy(4));
    caught("of `y`, which nothing has written", copy(5));
    caught("misaligned read of 16 bytes", copy(6));
    caught("at an address that no argument covers", copy(7));
}

#[test]
fn memory_that_the_host_never_wrote_is_caught() {
    caught("read of byte 0 of `x`, which nothing has written", |gpu, y, _| {
        let x = gpu.buffer(DType::F32, THREADS)?;
        // One thread, so that both orders begin with the same byte.
        let launch = gpu.kernel(&kernels::PLANTED_COPY, DType::F32).block(THREADS);
        launch.update(y).input(&x).int(1).int(0).launch()
    });
}

#[test]
fn asynchronous_copies_are_waited_for() {
    let copy = |bug: usize| {
        move |gpu: &Gpu, y: &Buffer, x: &Buffer| {
            let launch = gpu.kernel(&kernels::PLANTED_ASYNC_COPY, DType::F32).block(THREADS);
            let launch = launch.dynamic_shared(THREADS * size_of::<f32>());
            launch.output(y).input(x).int(bug).launch()
        }
    };
    passes(&values(), copy(0));
    caught("asynchronous copy of thread", copy(1));
    caught("exits with 1 asynchronous copies not waited for", copy(2));
    caught("shared memory at offset", copy(3));
    caught("has not been waited for", copy(4));
}

#[test]
fn shared_memory_ends_where_the_launch_says() {
    let through = |bytes: usize, shift: usize| {
        move |gpu: &Gpu, y: &Buffer, x: &Buffer| {
            let launch = gpu.kernel(&kernels::PLANTED_DYNAMIC, DType::F32).block(THREADS);
            launch.dynamic_shared(bytes).output(y).input(x).int(shift).launch()
        }
    };
    let needed = THREADS * size_of::<f32>();
    passes(&values(), through(needed, 0));
    passes(&values(), through(needed + 16, 4));
    caught("bytes out of bounds", through(needed, 1));
    caught("of which the launch gives none", through(0, 0));
    caught("expected a multiple of 16 up to 101376", through(100 << 10, 0));
    caught("expected a multiple of 16", through(needed + 4, 0));
}

#[test]
fn threads_that_part_ways_are_caught() {
    let diverge = |bug: usize| {
        move |gpu: &Gpu, y: &Buffer, _: &Buffer| {
            let launch = gpu.kernel(&kernels::PLANTED_DIVERGENCE, DType::F32).block(THREADS);
            launch.output(y).int(bug).launch()
        }
    };
    passes(&[32.0; THREADS], diverge(0));
    caught("deadlock", diverge(1));
    caught("waits at the barrier in line", diverge(2));
    caught("warp_sum needs all 32 lanes", diverge(3));
    caught("the lanes of its warp do different things", diverge(4));
    caught("no shared memory left for `large`", diverge(5));
}

/// After a failure the same host thread runs the next launch as if nothing had been.
#[test]
fn a_failed_launch_leaves_no_trace() {
    let gpu = Gpu::simulator(Checks::On, Order::Forwards).expect("a simulator");
    let x = gpu.upload(&values()).expect("memory");
    let y = gpu.buffer(DType::F32, THREADS).expect("memory");
    for bug in [2, 0, 3, 0, 1, 0] {
        let launch = gpu.kernel(&kernels::PLANTED_BLOCK_EXCHANGE, DType::F32).block(THREADS);
        let result = launch.output(&y).input(&x).int(bug).launch();
        assert_eq!(result.is_ok(), bug == 0, "{result:?}");
    }
}

#[test]
fn the_builder_refuses_what_does_not_fit() {
    let gpu = Gpu::simulator(Checks::Off, Order::Forwards).expect("a simulator");
    let buffer = |dtype| gpu.buffer(dtype, THREADS).expect("memory");
    let (y, x, half) = (buffer(DType::F32), buffer(DType::F32), buffer(DType::Bf16));
    let builder = || gpu.kernel(&kernels::PLANTED_COPY, DType::F32).block(THREADS);
    let launches = [
        ("`n` and what follows are missing", builder().output(&y).input(&x)),
        ("`y` is an input; expected Mutable", builder().input(&y).input(&x).int(1).int(0)),
        ("`x` is an output; expected Const", builder().output(&y).output(&x).int(1).int(0)),
        ("`x` holds bf16; expected f32", builder().output(&y).input(&half).int(1).int(0)),
        ("`n` is a float; expected Int", builder().output(&y).input(&x).float(1.0).int(0)),
        ("`n` is 3000000000, more than", builder().output(&y).input(&x).int(3_000_000_000).int(0)),
        ("has fewer parameters", builder().output(&y).input(&x).int(1).int(0).int(0)),
        ("share memory that is written", builder().output(&y).input(&y).int(1).int(0)),
        ("expected a multiple of 32 up to 64", builder().block(48).output(&y).input(&x).int(1).int(0)),
        ("expected a multiple of 32 up to 64", builder().block(96).output(&y).input(&x).int(1).int(0)),
        ("is too large", builder().grid([1, 1 << 16, 1]).output(&y).input(&x).int(1).int(0)),
    ];
    for (expected, launch) in launches {
        let message = launch.launch().expect_err(expected).to_string();
        assert!(message.contains("planted_copy") && message.contains(expected), "{message}");
    }
    let unknown = gpu.kernel(&kernels::PLANTED_COPY, DType::F64).launch();
    assert!(unknown.expect_err("f64").to_string().contains("not compiled for f64"));
}

/// Without a driver, or without nvcc when this was built, asking for a GPU is an error that says which.
#[test]
fn a_missing_gpu_is_told() {
    let Err(error) = Gpu::cuda(0) else { return };
    let message = error.to_string();
    assert!(message.starts_with("--device cuda: "), "{message}");
    let reasons = ["driver", "this build", "capability"];
    assert!(reasons.iter().any(|reason| message.contains(reason)), "{message}");
    assert_eq!(error.exit_code(), 2);
}
