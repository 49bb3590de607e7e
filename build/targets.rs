//! The GPUs that kernels are compiled for, and which of them an nvcc knows. Tests read this file too.

use std::path::Path;
use std::process::Command;

/// Machine code for 8.0 (which runs on 8.6 and 8.9 too), 9.0 with its own instructions, and 12.0; with intermediate code
/// of 8.0 for what lies between.
pub const ALL: &str = "80+ptx,90a,120+ptx";

/// The targets as options of nvcc. One that this nvcc is too old for is left out, with a warning.
///
/// # Panics
/// Where a target is no target, or none is left.
pub fn known(nvcc: &Path, targets: &str) -> Vec<String> {
    let listed = Command::new(nvcc).arg("--list-gpu-code").output();
    let listed = listed.unwrap_or_else(|e| panic!("{}: {e}", nvcc.display())).stdout;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let known = |target: &&str| {
        // The list has 90 and not 90a, which is the same GPU with its own instructions.
        let number = target.trim().trim_end_matches("+ptx").trim_end_matches('a');
        let known = listed.lines().any(|line| line.trim() == format!("sm_{number}"));
        if !known {
            println!("cargo:warning={} has no target {number}: its kernels are left out", nvcc.display());
        }
        known
    };
    let all: Vec<(&str, String)> = targets.split(',').map(|target| (target, gencode(target))).collect();
    let gencodes: Vec<String> =
        all.into_iter().filter(|(target, _)| listed.is_empty() || known(target)).map(|(_, gencode)| gencode).collect();
    assert!(!gencodes.is_empty(), "{} knows none of the targets {targets}", nvcc.display());
    gencodes
}

/// `90a` or `80+ptx` as an option of nvcc.
fn gencode(target: &str) -> String {
    let (number, ptx) = match target.trim().strip_suffix("+ptx") {
        Some(number) => (number, true),
        None => (target.trim(), false),
    };
    assert!(
        number.trim_end_matches('a').parse::<u32>().is_ok_and(|n| n >= 80),
        "SELMA_CUDA_ARCH: `{target}` is no target; expected `none`, `ptx` or a list like {ALL}, 80 and later"
    );
    if ptx {
        format!("-gencode=arch=compute_{number},code=[sm_{number},compute_{number}]")
    } else {
        format!("-gencode=arch=compute_{number},code=sm_{number}")
    }
}
