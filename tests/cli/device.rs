//! What `--device auto` takes, on machines with and without an NVIDIA driver.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use selma::device::gpu::Gpu;
use selma::device::gpu::table::kernels::{FATBINS, PTX};

use crate::{parity, selma};

/// A driver with one GPU, of compute capability MAJOR.0, that nobody can compute on.
const DRIVER: &str = r#"
#include <cstring>
extern "C" {
int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) { *version = 99000; return 0; }
int cuDeviceGetCount(int* count) { *count = 1; return 0; }
int cuDeviceGet(int* device, int) { *device = 0; return 0; }
int cuDeviceGetName(char* name, int, int) { std::strcpy(name, "Painted GPU"); return 0; }
int cuDeviceGetAttribute(int* value, int which, int) { *value = which == 75 ? MAJOR : 0; return 0; }
int cuDevicePrimaryCtxRetain(void** context, int) { *context = nullptr; return 0; }
int cuCtxSetCurrent(void*) { return 0; }
int cuStreamCreate(void** stream, unsigned) { *stream = nullptr; return 0; }
}
"#;

fn driver(dir: &Path, major: u32) -> PathBuf {
    let (source, folder) = (dir.join("driver.cpp"), dir.join(major.to_string()));
    std::fs::write(&source, DRIVER).unwrap();
    std::fs::create_dir(&folder).unwrap();
    let mut compile = Command::new(std::env::var("CXX").unwrap_or("c++".into()));
    compile.args(["-shared", "-fPIC", &format!("-DMAJOR={major}"), "-o"]);
    let compiled = compile.arg(folder.join("libcuda.so.1")).arg(source).status().unwrap();
    assert!(compiled.success());
    folder
}

/// What the command says of the device, having done its work.
fn run(arguments: &[&str], libraries: Option<&Path>) -> String {
    let mut command = selma();
    command.args(arguments);
    if let Some(folder) = libraries {
        command.env("LD_LIBRARY_PATH", folder);
    }
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert!(status.success() && !stdout.is_empty(), "{said}");
    said
}

#[test]
fn auto_takes_a_gpu_that_can_be_used_and_says_why_it_does_not() {
    let dir = tempfile::tempdir().unwrap();
    // Asks for the device, and computes nothing on it.
    let case = parity("cases/tokenizer_sd1");
    let verify = ["verify", case.to_str().unwrap()];
    let (old, new) = (driver(dir.path(), 7), driver(dir.path(), 9));
    let (refused, taken) = match FATBINS.or(PTX) {
        Ok(_) => ("compute capability 7.0", "on Painted GPU"),
        Err(why) => (why, why),
    };
    let said = run(&verify, Some(&old));
    assert!(said.starts_with("on the CPU") && said.contains(refused), "{said}");
    let said = run(&verify, Some(&new));
    assert!(said.contains(taken), "{said}");

    for quiet in [&["--quiet", verify[0], verify[1]][..], &["completions", "bash"]] {
        assert_eq!(run(quiet, Some(&old)), "", "{quiet:?}");
        assert_eq!(run(quiet, Some(&new)), "", "{quiet:?}");
    }
    // The device that is taken is always named.
    assert_eq!(run(&["--device", "cpu", verify[0], verify[1]], Some(&new)), "on the CPU\n");
    if !Gpu::has_driver() {
        assert_eq!(run(&verify, None), "on the CPU\n");
    }
}
