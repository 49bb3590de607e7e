//! The commands of README.md and docs/*.md, as a reader types them. Every fenced block that begins with ```` ```sh run ````
//! is run by bash, the blocks of one page in order in one new folder, with this build's `selma` on the PATH. The folder
//! holds `photos/`: six small images with captions.

mod containerfile;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const FENCE: &str = "```sh run";

/// The blocks of a page that are to be run, in order, with the line each begins at.
fn blocks(text: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        match &mut open {
            None if line == FENCE => open = Some((number, String::new())),
            None => {}
            Some(_) if line == "```" => blocks.extend(open.take()),
            Some((_, block)) => {
                block.push_str(line);
                block.push('\n');
            }
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// Six images of two colours, with a caption beside each.
fn photos(folder: &Path) {
    fs::create_dir(folder).unwrap();
    for i in 0..6_u8 {
        let colour =
            |x: u32, y: u32| if (x / 16 + y / 16).is_multiple_of(2) { [200, 30 * i, 40] } else { [250, 250, 250] };
        let image = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb(colour(x, y)));
        image.save(folder.join(format!("{i}.png"))).unwrap();
        fs::write(folder.join(format!("{i}.txt")), "a checkered red square\n").unwrap();
    }
}

fn run(block: &str, folder: &Path) -> Output {
    let bin = Path::new(env!("CARGO_BIN_EXE_selma")).parent().unwrap();
    let path = std::env::join_paths(
        [bin.to_path_buf()].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", block]).current_dir(folder);
    bash.env("PATH", path.unwrap()).env("XDG_CACHE_HOME", folder.join(".cache")).output().unwrap()
}

/// The page's blocks, in a folder of their own.
fn page(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let blocks = blocks(&fs::read_to_string(&path).unwrap());
    assert!(!blocks.is_empty(), "{name} has no block that begins with {FENCE}");
    let folder = tempfile::tempdir().unwrap();
    photos(&folder.path().join("photos"));
    for (line, block) in blocks {
        let output = run(&block, folder.path());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{name}:{line}: {}\n{block}\nstdout:\n{}\nstderr:\n{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        );
    }
}

#[test]
fn readme() {
    page("README.md");
}

/// Every page is either run or has no command that claims to be.
#[test]
fn pages() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut pages: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.retain(|path| path.extension().is_some_and(|e| e == "md"));
    pages.sort();
    assert!(!pages.is_empty());
    for path in pages {
        let runs = fs::read_to_string(&path).unwrap().lines().any(|line| line == FENCE);
        if runs {
            page(&format!("docs/{}", path.file_name().unwrap().to_str().unwrap()));
        }
    }
}
