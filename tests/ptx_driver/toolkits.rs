//! Which targets are compiled by an nvcc of another age. The toolkits are scripts that list what the real ones list.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

#[path = "../../build/targets.rs"]
mod targets;

fn toolkit(dir: &Path, lists: &[u32]) -> PathBuf {
    let path = dir.join("nvcc");
    let lines: Vec<String> = lists.iter().map(|number| format!("sm_{number}")).collect();
    std::fs::write(&path, format!("#!/bin/sh\n[ \"$1\" = --list-gpu-code ] && echo '{}'\n", lines.join("\n"))).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// CUDA 12.4 knows no 12.0, CUDA 11.5 no 9.0 either; 13.0 knows all.
#[test]
fn targets_that_an_older_nvcc_does_not_know_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let ampere = "-gencode=arch=compute_80,code=[sm_80,compute_80]";
    let hopper = "-gencode=arch=compute_90a,code=sm_90a";
    let blackwell = "-gencode=arch=compute_120,code=[sm_120,compute_120]";
    let of_11_5 = toolkit(dir.path(), &[35, 52, 60, 70, 75, 80, 86, 87]);
    assert_eq!(targets::known(&of_11_5, targets::ALL), [ampere]);
    let of_12_4 = toolkit(dir.path(), &[50, 52, 60, 70, 75, 80, 86, 87, 89, 90]);
    assert_eq!(targets::known(&of_12_4, targets::ALL), [ampere, hopper]);
    let of_13_0 = toolkit(dir.path(), &[75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121]);
    assert_eq!(targets::known(&of_13_0, targets::ALL), [ampere, hopper, blackwell]);
}

/// An nvcc that cannot list them (an option of CUDA 11.5 and later) is asked for all.
#[test]
fn an_nvcc_that_lists_nothing_is_asked_for_all_targets() {
    let dir = tempfile::tempdir().unwrap();
    let silent = dir.path().join("nvcc");
    std::fs::write(&silent, "#!/bin/sh\nexit 1\n").unwrap();
    std::fs::set_permissions(&silent, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(targets::known(&silent, targets::ALL).len(), 3);
}

#[test]
#[should_panic(expected = "knows none of the targets 120")]
fn a_build_for_targets_that_nvcc_does_not_know_says_so() {
    let dir = tempfile::tempdir().unwrap();
    targets::known(&toolkit(dir.path(), &[80, 90]), "120");
}

#[test]
#[should_panic(expected = "`75` is no target; expected `none`, `ptx` or a list like 80+ptx,90a,120+ptx, 80 and later")]
fn a_target_that_no_kernel_supports_is_named() {
    let dir = tempfile::tempdir().unwrap();
    targets::known(&toolkit(dir.path(), &[75, 80]), "75");
}
