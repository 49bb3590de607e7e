//! Where the model is from.

use super::{generate, one, refuses};
use crate::{parity, says, selma};

#[test]
fn another_vae_is_used_where_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let plain = one(generate(&out).args(["--prompt", "a cat"]), &out);
    let own = parity("models/tiny-sd1");
    let other = parity("models/tiny-sd2");
    for (path, same) in [(own.join("vae"), true), (own, true), (other.join("vae"), false), (other, false)] {
        let now = one(generate(&out).args(["--prompt", "a cat", "--vae"]).arg(&path), &out);
        assert_eq!(now == plain, same, "{}", path.display());
    }
    refuses(generate(&out).args(["--overwrite", "--prompt", "a", "--vae"]).arg(dir.path()), 1, &["no VAE"]);
}

#[test]
fn a_model_of_the_hub_is_found_in_the_shared_cache() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("hub/models--org--tiny");
    std::fs::create_dir_all(root.join("snapshots")).unwrap();
    std::fs::create_dir_all(root.join("refs")).unwrap();
    std::fs::write(root.join("refs/main"), "c0ffee").unwrap();
    std::os::unix::fs::symlink(parity("models/tiny-sd1"), root.join("snapshots/c0ffee")).unwrap();
    let generate = |id: &str, out: &str| {
        let mut command = selma();
        command.env("HF_HOME", dir.path()).env_remove("HF_HUB_CACHE").current_dir(dir.path());
        command.args(["generate", "--model", id, "--prompt", "a cat", "--steps", "1", "--offline", "--out", out]);
        command.arg("--vocab").arg(parity("clip_vocab"));
        command
    };
    generate("org/tiny", "images").assert().success();
    assert!(dir.path().join("images/00000.png").is_file());
    says(generate("org/other", "images"), 1, &["org/other", "--offline"]);
}
