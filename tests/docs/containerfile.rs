//! `examples/Containerfile` without a program that builds images: its steps are read, and what they need is looked for.
//! `tests/clusters/containerfile.sh` runs them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Each instruction with what follows it, comments left out and continued lines joined.
fn steps() -> Vec<(String, String)> {
    let text = text("examples/Containerfile").replace("\\\n", " ");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let step = |line: &str| {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        (name.to_owned(), rest.trim().to_owned())
    };
    lines.map(step).collect()
}

fn of<'a>(steps: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = &'a str> {
    steps.iter().filter(move |(other, _)| other == name).map(|(_, rest)| rest.as_str())
}

/// Every file that the library and the build script read while they are compiled.
fn included(folder: &Path, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            included(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            for start in ["include_str!(\"", "include_bytes!(\""] {
                let names = text.split(start).skip(1).filter_map(|rest| rest.split('"').next());
                // What only tests read is with the tests.
                let names = names.filter(|name| !name.contains("fixtures"));
                found.extend(names.map(|name| folder.join(name)));
            }
        }
    }
}

#[test]
fn what_the_image_is_built_from_is_there() {
    let steps = steps();
    for (name, _) in &steps {
        assert!(["FROM", "WORKDIR", "COPY", "RUN", "ENV", "VOLUME", "CMD"].contains(&name.as_str()), "{name}");
    }
    // The compiler that the package asks for, and one release of Debian for what is built and what runs.
    let bases: Vec<&str> = of(&steps, "FROM").collect();
    let manifest = text("Cargo.toml");
    let version = manifest.split("rust-version = \"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(
        bases,
        [&format!("docker.io/library/rust:{version}-bookworm AS build"), "docker.io/library/debian:bookworm-slim"]
    );
    assert!(text("tests/clusters/containerfile.sh").contains("debootstrap --variant=minbase bookworm "));

    // All is copied but what is ignored: nothing that the build reads may be.
    let copies: Vec<&str> = of(&steps, "COPY").collect();
    assert_eq!(copies, [". .", "--from=build /src/target/release/selma /usr/local/bin/selma"]);
    let ignored: Vec<String> =
        text(".dockerignore").lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    assert!(ignored.contains(&"/target".to_owned()) && ignored.contains(&"/.git".to_owned()));
    assert!(ignored.iter().all(|line| line.starts_with('/') && !line.contains('*')), "{ignored:?}");
    let mut needed: Vec<PathBuf> =
        ["Cargo.toml", "Cargo.lock", "build.rs", "kernels", "kernels/ptx", "build"].map(PathBuf::from).into();
    included(&root().join("src"), &mut needed);
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--offline", "--locked", "--format-version", "1"]);
    let output = cargo.current_dir(root()).output().unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let targets = metadata["packages"][0]["targets"].as_array().unwrap();
    needed.extend(targets.iter().map(|target| PathBuf::from(target["src_path"].as_str().unwrap())));
    assert!(needed.len() > 20, "{needed:?}");
    for path in needed {
        let path = root().join(path).canonicalize().unwrap_or_else(|e| panic!("it is missing: {e}"));
        let inside = path.strip_prefix(root().canonicalize().unwrap()).unwrap();
        let from_root = format!("/{}", inside.display());
        assert!(!ignored.iter().any(|line| from_root.starts_with(&format!("{line}/"))), "{from_root} is left out");
    }
}

#[test]
fn what_it_runs_is_what_this_program_has() {
    let steps = steps();
    let runs: Vec<&str> = of(&steps, "RUN").collect();
    // How README and CONTRIBUTING say it is built, with the kernels as PTX.
    let build = runs[0].strip_prefix("SELMA_CUDA_ARCH=ptx ").expect("kernels as PTX");
    assert_eq!(build, "cargo build --locked --release");
    assert!(text("CONTRIBUTING.md").contains("cargo build --release"));
    assert!(text("build/nvcc.rs").contains("SELMA_CUDA_ARCH") && text("build/nvcc.rs").contains("\"ptx\""));
    // What is run in the image works with this build too; folders are made where nobody else's are.
    let dir = tempfile::tempdir().unwrap();
    let local = runs[1].replace(" /models", &format!(" {}/models", dir.path().display()));
    let local = local.replace(" /run/selma", &format!(" {}/run/selma", dir.path().display()));
    let bin = Path::new(env!("CARGO_BIN_EXE_selma")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let command: Vec<String> = serde_json::from_str(of(&steps, "CMD").next().unwrap()).unwrap();
    for line in [local, command.join(" ")] {
        let output = Command::new("sh").args(["-euc", &line]).env("PATH", &path).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // The name that the jobs ask for, and the folder of models that the volume is.
    let comment = text("examples/Containerfile");
    let image = comment.split(" -t ").nth(1).unwrap().split_whitespace().next().unwrap();
    let jobs = text("examples/kubernetes.yaml");
    let asked: Vec<&str> = jobs.lines().filter_map(|line| line.trim().strip_prefix("image: ")).collect();
    assert!(!asked.is_empty() && asked.iter().all(|name| *name == image), "{asked:?} and {image}");
    let folder = of(&steps, "VOLUME").next().unwrap();
    assert!(of(&steps, "ENV").any(|all| all.split(' ').any(|one| one == format!("HF_HOME={folder}"))));
}
