//! The driver's own rules, on its functions as a program finds them.

use std::ffi::{CString, c_char, c_int, c_void};

use crate::support::driver;

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

macro_rules! call {
    ($library:expr, $name:literal $(, $argument:expr => $type:ty)*) => {{
        let name = CString::new($name).unwrap();
        // SAFETY: the types are those of `driver.cpp`.
        unsafe {
            let function = dlsym($library, name.as_ptr());
            assert!(!function.is_null(), $name);
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($type),*) -> c_int>(function)($($argument),*)
        }
    }};
}

const COPY: &str = ".version 8.0
.target sm_80
.address_size 64
.visible .entry twice(.param .u64 twice_0, .param .u32 twice_1)
.maxntid 32, 1, 1
{
.reg .pred %p<2>;
.reg .b32 %r<5>;
.reg .b64 %rd<4>;
ld.param.u64 %rd1, [twice_0];
ld.param.u32 %r1, [twice_1];
mov.u32 %r2, %tid.x;
setp.ge.u32 %p1, %r2, %r1;
@%p1 bra $END;
mul.wide.u32 %rd2, %r2, 4;
add.s64 %rd3, %rd1, %rd2;
ld.global.u32 %r3, [%rd3];
add.s32 %r4, %r3, %r3;
st.global.u32 [%rd3], %r4;
$END:
ret;
}
";

/// All in one test: the driver's state is the process's.
#[test]
fn the_driver_keeps_its_rules() {
    let path = CString::new(driver().join("libcuda.so.1").to_str().unwrap()).unwrap();
    // SAFETY: a library that this test has built.
    let cuda = unsafe { dlopen(path.as_ptr(), 2) };
    assert!(!cuda.is_null());
    let (mut context, mut stream, mut other) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
    let (mut address, mut graph, mut executable) = (0_u64, std::ptr::null_mut(), std::ptr::null_mut());
    let (mut module, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
    type Out = *mut *mut c_void;

    // No call without a context.
    assert_eq!(call!(cuda, "cuInit", 0 => u32), 0);
    assert_eq!(call!(cuda, "cuMemAlloc_v2", &raw mut address => *mut u64, 128 => usize), 201);
    assert_eq!(call!(cuda, "cuDevicePrimaryCtxRetain", &raw mut context => Out, 0 => c_int), 0);
    assert_eq!(call!(cuda, "cuCtxSetCurrent", context => *mut c_void), 0);
    assert_eq!(call!(cuda, "cuMemAlloc_v2", &raw mut address => *mut u64, 128 => usize), 0);
    assert_eq!(call!(cuda, "cuStreamCreate", &raw mut stream => Out, 1 => u32), 0);
    assert_eq!(call!(cuda, "cuStreamCreate", &raw mut other => Out, 1 => u32), 0);

    // A program that it does not know is refused, and said to be.
    let unknown = CString::new(COPY.replace("add.s32", "frobnicate.s32")).unwrap();
    let name = CString::new("twice").unwrap();
    let (out, image) = (&raw mut module, unknown.as_ptr().cast::<c_void>());
    assert_eq!(call!(cuda, "cuModuleLoadData", out => Out, image => *const c_void), 0);
    let find = |module, function: &mut *mut c_void| {
        let name = name.as_ptr();
        call!(cuda, "cuModuleGetFunction", &raw mut *function => Out, module => *mut c_void, name => *const c_char)
    };
    assert_eq!(find(module, &mut function), 200);
    let known = CString::new(COPY).unwrap();
    let (out, image) = (&raw mut module, known.as_ptr().cast::<c_void>());
    assert_eq!(call!(cuda, "cuModuleLoadData", out => Out, image => *const c_void), 0);
    assert_eq!(find(module, &mut function), 0);

    // Limits of a launch: a grid of nothing, more threads than the kernel allows, shared memory that was not asked for.
    let launch = |function, grid: u32, block: u32, shared: u32, address: u64, count: u32| {
        let (mut address, mut count) = (address, count);
        let mut arguments: [*mut c_void; 2] = [(&raw mut address).cast(), (&raw mut count).cast()];
        let (arguments, null) = (arguments.as_mut_ptr(), std::ptr::null_mut());
        call!(cuda, "cuLaunchKernel", function => *mut c_void, grid => u32, 1 => u32, 1 => u32, block => u32, 1 => u32,
            1 => u32, shared => u32, stream => *mut c_void, arguments => Out, null => Out)
    };
    for (grid, block, shared) in [(0, 32, 0), (1, 33, 0), (1, 0, 0), (1, 32, 64 << 10)] {
        assert_eq!(launch(function, grid, block, shared, address, 32), 1, "{grid} {block} {shared}");
    }
    let opt_in = |bytes: c_int| call!(cuda, "cuFuncSetAttribute", function => *mut c_void, 8 => c_int, bytes => c_int);
    assert_eq!((opt_in(228 << 10), opt_in(64 << 10)), (1, 0));
    assert_eq!(launch(function, 1, 32, 64 << 10, address, 0), 0);

    // Work waits for its end to be asked for.
    let wait = |stream| call!(cuda, "cuStreamSynchronize", stream => *mut c_void);
    let ones = [1_u32; 32];
    let mut back = [0_u32; 32];
    let from: *const c_void = ones.as_ptr().cast();
    let put = || call!(cuda, "cuMemcpyHtoDAsync_v2", address => u64, from => *const c_void, 128 => usize, stream => *mut c_void);
    assert_eq!(put(), 0);
    assert_eq!(launch(function, 1, 32, 0, address, 32), 0);
    let mut get = |on: *mut c_void| {
        let to: *mut c_void = back.as_mut_ptr().cast();
        assert_eq!(
            call!(cuda, "cuMemcpyDtoHAsync_v2", to => *mut c_void, address => u64, 128 => usize, on => *mut c_void),
            0
        );
        back[31]
    };
    assert_eq!(get(other), u32::MAX, "another stream sees what was there before");
    assert_eq!(get(stream), 2);

    // What a capture allows, and what spoils it.
    let begin = || call!(cuda, "cuStreamBeginCapture_v2", stream => *mut c_void, 1 => c_int);
    let end =
        |graph: &mut *mut c_void| call!(cuda, "cuStreamEndCapture", stream => *mut c_void, &raw mut *graph => Out);
    let copy = || call!(cuda, "cuMemcpyHtoD_v2", address => u64, from => *const c_void, 128 => usize);
    let spoil: [(&str, &dyn Fn() -> c_int, c_int); 3] = [
        ("a copy from the host", &copy, 906),
        ("waiting", &|| wait(stream), 900),
        ("an allocation", &|| call!(cuda, "cuMemAlloc_v2", &mut 0 => *mut u64, 128 => usize), 900),
    ];
    for (what, spoil, code) in spoil {
        assert_eq!((begin(), spoil(), end(&mut graph)), (0, code, 901), "{what}");
        assert!(graph.is_null(), "{what}");
    }
    assert_eq!((begin(), launch(function, 1, 32, 0, address, 32), end(&mut graph)), (0, 0, 0));
    let out = &raw mut executable;
    assert_eq!(call!(cuda, "cuGraphInstantiateWithFlags", out => Out, graph => *mut c_void, 0 => u64), 0);
    assert_eq!(get(stream), 2, "what is captured is not done");
    for expected in [4, 8] {
        assert_eq!(call!(cuda, "cuGraphLaunch", executable => *mut c_void, stream => *mut c_void), 0);
        assert_eq!(get(stream), expected);
    }

    // Bounds: the failure comes with a later call, and with every one that follows.
    assert_eq!(launch(function, 1, 32, 0, address + 4, 32), 0);
    assert_eq!((wait(stream), wait(other)), (700, 700));
}
