//! Compiles `kernels/*.cu` for GPUs (feature `cuda`, nvcc) and for the simulator (feature `simulator`, the host's C++
//! compiler), and writes the table through which the launch code knows each kernel's parameters. Needs no GPU; a build
//! without one of the compilers says so at run time.

#[path = "src/device/gpu/kind.rs"]
mod kind;
#[path = "build/nvcc.rs"]
mod nvcc;
#[path = "build/ptx.rs"]
mod ptx;
#[path = "build/scan.rs"]
mod scan;
#[path = "build/simulator.rs"]
mod simulator;
#[path = "build/table.rs"]
mod table;
#[path = "build/targets.rs"]
mod targets;
#[path = "build/work.rs"]
mod work;

use std::path::{Path, PathBuf};
use std::{env, fs};

/// The storage types that kernel files are compiled for, those for compute capability 9.0 alone not for f32: Rust's name and
/// `scalar_t`.
const SCALARS: [(&str, &str); 3] = [("f32", "float"), ("bf16", "bf16"), ("f16", "f16")];

fn main() {
    println!("cargo:rerun-if-changed=kernels");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let kernels = root.join("kernels");
    let headers: Vec<scan::Source> = sources(&kernels, "h").iter().map(|path| read(path, &[])).collect();
    let files: Vec<scan::Source> = sources(&kernels, "cu").iter().map(|path| read(path, &headers)).collect();
    let planted = sources(&kernels.join("sim"), "cu").iter().map(|path| read(path, &headers)).collect::<Vec<_>>();
    let enabled = |feature: &str| env::var_os(format!("CARGO_FEATURE_{feature}")).is_some();

    let simulator = if enabled("SIMULATOR") {
        simulator::compile(&kernels, &out, &files, &planted)
    } else {
        Err("this build of selma is without the feature `simulator`".into())
    };
    let without =
        if enabled("CUDA") { nvcc::unwanted() } else { Some("it was built without the feature `cuda`".into()) };
    let (cuda, shipped) = match without {
        Some(why) => (Err(why.clone()), Err(why)),
        None => (nvcc::compile(&kernels, &out, &files), ptx::shipped(&kernels, &files)),
    };
    // For tests that need kernels for GPUs.
    println!("cargo:rustc-check-cfg=cfg(cuda_kernels)");
    if cuda.is_ok() || shipped.is_ok() {
        println!("cargo:rustc-cfg=cuda_kernels");
    }
    let kernels = table::kernels(&headers, &simulator) + &table::kernels(&files, &simulator) + &table::all(&files);
    let table = kernels + &table::runtime(&simulator) + &table::cuda(&cuda, &shipped);
    write(&out.join("kernels.rs"), &table);
    write(&out.join("planted.rs"), &table::kernels(&planted, &simulator));
}

/// The files of the folder with this extension, in the order of their names.
fn sources(kernels: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(kernels).unwrap_or_else(|e| panic!("{}: {e}", kernels.display()));
    let paths = entries.map(|entry| entry.expect("a readable folder").path());
    let mut sources: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    sources.sort();
    sources
}

fn read(path: &Path, headers: &[scan::Source]) -> scan::Source {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    scan::scan(path, &text, headers).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}
