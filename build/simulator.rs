//! Compiles the kernels and the simulator's runtime with the host's C++ compiler into one static library.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::scan::Source;
use crate::work::{self, Job};

/// Each kernel is compiled as it is, for speed, and with a call before every load and store, for the checks.
pub const VARIANTS: [&str; 2] = ["plain", "checked"];

/// The symbol of one compilation of a kernel.
pub fn symbol(variant: &str, scalar: &str, kernel: &str) -> String {
    format!("sim_{variant}_{scalar}_{kernel}")
}

/// Prints what cargo must link.
///
/// # Errors
/// A sentence on what is missing.
///
/// # Panics
/// Where a kernel does not compile.
pub fn compile(kernels: &Path, out: &Path, files: &[Source], planted: &[Source]) -> Result<(), String> {
    println!("cargo:rerun-if-env-changed=CXX");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").opt_level(2).include(kernels).extra_warnings(true).warnings(true);
    // Vectors of the models of tensor cores; the processor is checked when a simulator is opened.
    for flag in ["-mavx2", "-mfma", "-mf16c"] {
        build.flag(flag);
    }
    for flag in ["-ffp-contract=off", "-fno-math-errno", "-fno-strict-aliasing", "-fno-exceptions"] {
        build.flag(flag);
    }
    for flag in
        ["-Wno-unknown-pragmas", "-Wno-unused-function", "-Wno-unused-parameter", "-Wno-sign-compare", "-Wno-psabi"]
    {
        build.flag(flag);
    }
    let compiler = build.try_get_compiler().map_err(|e| missing(&e.to_string()))?;
    let version = suitable(&compiler)?;

    let job = |sources: Vec<PathBuf>, name: &str, flags: &[String]| {
        let output = out.join(format!("{name}.o"));
        let mut command = compiler.to_command();
        command.args(flags).arg("-c");
        Job { command, compiler: version.clone(), sources, output }
    };
    let mut jobs = Vec::new();
    for runtime in work::files_below(&kernels.join("sim"), &["cpp"]) {
        let name = runtime.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        jobs.push(job(vec![runtime], &format!("sim_{name}"), &[]));
    }
    for variant in VARIANTS {
        for file in files.iter().chain(planted) {
            for (scalar, scalar_t) in file.scalars().into_iter().flatten() {
                let wrapper = wrapper(out, file, variant, scalar);
                let mut flags = vec![format!("-Dscalar_t={scalar_t}")];
                if variant == "checked" {
                    // Our own hooks are linked, not the sanitizer's.
                    flags.push("-fsanitize=thread".into());
                    flags.push("--param=tsan-instrument-func-entry-exit=0".into());
                    // A load through a pointer that is read once stays in the kernel, where it is checked.
                    flags.push("-fno-ipa-sra".into());
                }
                jobs.push(job(vec![wrapper, file.path.clone()], &format!("{variant}_{scalar}_{}", file.stem), &flags));
            }
        }
    }
    let objects: Vec<PathBuf> = jobs.iter().map(|job| job.output.clone()).collect();
    work::run(jobs, &work::files_below(kernels, &["h"]), &work::cache(out))
        .unwrap_or_else(|e| panic!("the simulator does not compile: {e}"));
    for object in &objects {
        build.object(object);
    }
    build.compile("selma_simulator");
    Ok(())
}

fn missing(why: &str) -> String {
    format!("this build of selma is without the simulator, which needs g++ 12 or later (CXX): {why}")
}

/// The compiler's name and version. The hooks of the checked kernels and `_Float16` came with GCC 12.
fn suitable(compiler: &cc::Tool) -> Result<String, String> {
    let mut command = compiler.to_command();
    let named = format!("{:?}", command.get_program());
    let version = command.arg("-dumpfullversion").output().map_err(|e| missing(&format!("{named}: {e}")))?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if compiler.is_like_clang() || major.is_none_or(|major| major < 12) {
        return Err(missing(&format!("{named} is version {version:?} of another compiler or too old")));
    }
    Ok(format!("{named} {version}"))
}

/// A source that includes the kernel file and exports its kernels.
fn wrapper(out: &Path, file: &Source, variant: &str, scalar: &str) -> PathBuf {
    let mut text = format!("#include {:?}\n", file.path);
    for kernel in &file.kernels {
        let sizes: Vec<String> = kernel.parameters.iter().map(|p| p.kind.size().to_string()).collect();
        let symbol = symbol(variant, scalar, &kernel.name);
        let _ = writeln!(text, "SIM_EXPORT({}, {symbol}, {})", kernel.name, sizes.join(", "));
    }
    let path = out.join(format!("{variant}_{scalar}_{}.cpp", file.stem));
    crate::write(&path, &text);
    path
}
