//! The recorded models of judges. Of tables with a row a token, the fixtures hold the rows that their cases use; here they are
//! tables again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use half::f16;
use selma::formats::safetensors::{self, Safetensors};
use selma::tensor::Tensor;

/// Of `rows of TABLE`: the number of rows of the table, and which of them there are.
const ROWS: &str = "rows of ";

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity")
}

/// A folder with whole models, and everything else linked.
pub fn root() -> &'static Path {
    static ROOT: OnceLock<tempfile::TempDir> = OnceLock::new();
    ROOT.get_or_init(|| {
        let root = tempfile::tempdir().unwrap();
        for name in ["images", "clip_vocab"] {
            std::os::unix::fs::symlink(fixtures().join(name), root.path().join(name)).unwrap();
        }
        let models = std::fs::read_dir(fixtures().join("models")).unwrap().map(|entry| entry.unwrap().path());
        for model in models.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("judge-")) {
            let to = root.path().join("models").join(model.file_name().unwrap());
            std::fs::create_dir_all(&to).unwrap();
            for file in std::fs::read_dir(&model).unwrap().map(|entry| entry.unwrap().path()) {
                let target = to.join(file.file_name().unwrap());
                match file.extension().is_some_and(|ending| ending == "compact") {
                    true => expand(&file, &target.with_extension("safetensors")),
                    false => drop(std::fs::copy(&file, &target).unwrap()),
                }
            }
            let name = to.file_name().unwrap().to_str().unwrap();
            if name.contains("blip") || name.contains("reward") {
                // The tiny models know the first 4000 pieces.
                let vocabulary = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/bert/vocab.txt");
                let text = std::fs::read_to_string(vocabulary).unwrap();
                let lines: Vec<&str> = text.lines().take(4000).collect();
                std::fs::write(to.join("vocab.txt"), lines.join("\n") + "\n").unwrap();
            }
        }
        root
    })
    .path()
}

fn expand(from: &Path, to: &Path) {
    let file = Safetensors::open(from).unwrap();
    let mut tensors = Vec::new();
    for name in file.names().filter(|name| !name.starts_with(ROWS)) {
        let tensor = file.tensor(name).unwrap();
        let rows = format!("{ROWS}{name}");
        tensors.push((
            name.to_owned(),
            if file.contains(&rows) { table(&tensor, &file.tensor(&rows).unwrap()) } else { tensor },
        ));
    }
    safetensors::write(to, &tensors, &BTreeMap::new()).unwrap();
}

/// Zeros where no case looks.
fn table(rows: &Tensor, places: &Tensor) -> Tensor {
    let width = rows.shape()[1];
    let (count, places) = places.data::<i64>().split_first().unwrap();
    let mut values = vec![f16::ZERO; *count as usize * width];
    for (place, row) in places.iter().zip(rows.data::<f16>().chunks_exact(width)) {
        values[*place as usize * width..][..width].copy_from_slice(row);
    }
    Tensor::new(values, &[*count as usize, width])
}
