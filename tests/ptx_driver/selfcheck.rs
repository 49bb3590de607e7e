//! `selma selfcheck` with every kernel of the build.

use crate::support::selma;

/// Every kernel at small shapes: in both orders of warps, and as the two compilers made them. A driver that knows no newer
/// CUDA than 12.0 gets the shipped PTX.
#[test]
fn every_kernel_gives_what_the_cpu_gives() {
    for variables in [
        [("PTX_DRIVER_VERSION", "13000"), ("PTX_DRIVER_BACKWARDS", "1")],
        [("PTX_DRIVER_VERSION", "12000"), ("PTX_DRIVER_MMA", "hopper")],
    ] {
        let mut command = selma();
        command.args(["selfcheck", "--device", "cuda", "--small", "--json"]).envs(variables);
        let output = command.assert().success();
        let rows = String::from_utf8(output.get_output().stdout.clone()).unwrap();
        let rows: Vec<serde_json::Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
        assert!(rows.len() > 100 && rows.iter().all(|row| row["ok"] == true));
        let mut kernels: Vec<_> =
            rows.iter().flat_map(|row| row["kernels"].as_array().unwrap()).map(|kernel| kernel.as_str()).collect();
        kernels.sort_unstable();
        kernels.dedup();
        let listed = selma().args(["kernels", "--json"]).assert().success();
        let mut listed: Vec<serde_json::Value> = serde_json::from_slice(&listed.get_output().stdout).unwrap();
        // The stand-in makes no tensor maps, which these need.
        listed.retain(|kernel| !kernel["file"].as_str().unwrap().ends_with("_hopper.cu"));
        assert_eq!(kernels.len(), listed.len(), "{kernels:?}");
    }
}

/// The sizes that a card is checked at, with sums rounded as on Hopper. Takes minutes:
/// `cargo test --test ptx_driver -- --ignored`.
#[test]
#[ignore = "takes minutes"]
fn every_kernel_at_full_size() {
    for variables in [
        [("PTX_DRIVER_MMA", "hopper"), ("PTX_DRIVER_BACKWARDS", "1")],
        [("PTX_DRIVER_MMA", "ampere"), ("PTX_DRIVER_EAGER", "1")],
    ] {
        selma().args(["selfcheck", "--device", "cuda"]).envs(variables).assert().success();
    }
}
