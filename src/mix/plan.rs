//! Which images are drawn: classes of a data set, and tasks drawn over them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::meta::directory;
use crate::error::{Error, Result};
use crate::random::{self, Stream};

/// A folder of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    pub name: String,
    /// In the order of their names.
    pub images: Vec<PathBuf>,
}

/// Where images come from and go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// From an image of one class towards any class.
    Mix,
    /// From an image towards its own class.
    Aug,
    /// From noise to a class.
    Gen,
}

/// One image to draw.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    pub number: usize,
    /// Index of the class; that of the target where nothing is started from.
    pub source: usize,
    pub target: usize,
    /// Index of the image in the source class.
    pub image: usize,
    pub strength: f64,
}

/// The classes of a data set: its folders with images, in the order of their names.
///
/// # Errors
/// [`Error::Io`]; [`Error::File`] where there is no class, a folder without images, a name that cannot be written into a
/// path or a table, or two names that become one path.
pub fn classes(data: &Path) -> Result<Vec<Class>> {
    const ENDINGS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];
    let list = |dir: &Path| -> Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))?;
        let mut paths = Vec::new();
        for entry in entries {
            paths.push(entry.map_err(|e| Error::io(dir, e))?.path());
        }
        paths.sort();
        Ok(paths)
    };
    let mut classes = Vec::new();
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for folder in list(data)?.into_iter().filter(|path| path.is_dir()) {
        let name = folder.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let name = name.filter(|name| !name.chars().any(char::is_control));
        let name = name.ok_or_else(|| {
            Error::file(&folder, "a class is named by its folder: expected UTF-8 without control characters")
        })?;
        if let Some(other) = known.insert(directory(&name), name.clone()) {
            let message =
                format!("the classes `{other}` and `{name}` have one path, `{}`; rename one", directory(&name));
            return Err(Error::file(data, message));
        }
        let is_image = |path: &PathBuf| {
            let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
            ENDINGS.contains(&&*ending)
        };
        let images: Vec<PathBuf> = list(&folder)?.into_iter().filter(is_image).collect();
        if images.is_empty() {
            return Err(Error::file(&folder, "a class without images; expected .png, .jpg, .webp or .bmp files"));
        }
        classes.push(Class { name, images });
    }
    match classes.is_empty() {
        true => Err(Error::file(data, "no class in it; expected a folder of images for each class")),
        false => Ok(classes),
    }
}

/// `multiplier` times as many tasks as there are images; source and target are drawn independently over classes, and the
/// strength from `strengths`.
pub fn tasks(classes: &[Class], mode: Mode, multiplier: usize, strengths: &[f64], seed: u64) -> Vec<Task> {
    let images: usize = classes.iter().map(|class| class.images.len()).sum();
    let task = |number: usize| {
        let draw = |step: u64, n: usize| random::below(seed, Stream::Choice, number as u64, step, n as u32) as usize;
        let target = draw(0, classes.len());
        let source = if mode == Mode::Mix { draw(1, classes.len()) } else { target };
        let strength = if mode == Mode::Gen { 1.0 } else { strengths[draw(2, strengths.len())] };
        Task { number, source, target, image: draw(3, classes[source].images.len()), strength }
    };
    (0..multiplier * images).map(task).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("1.png"), "").unwrap();
        }
        dir
    }

    #[test]
    fn tasks_reach_every_class_and_keep_to_their_mode() {
        let dir = data(&["red fox", "wolf", "coyote"]);
        let classes = classes(dir.path()).unwrap();
        let names: Vec<&str> = classes.iter().map(|class| class.name.as_str()).collect();
        assert_eq!(names, ["coyote", "red fox", "wolf"]);
        let mixed = tasks(&classes, Mode::Mix, 20, &[0.5, 0.7], 1);
        assert_eq!(mixed.len(), 60);
        for class in 0..3 {
            assert!(mixed.iter().any(|task| task.source == class) && mixed.iter().any(|task| task.target == class));
        }
        // As in Diff-Mix's code, a class may meet itself: of three, in a third of the pairs.
        let own = mixed.iter().filter(|task| task.source == task.target).count();
        assert!((10..=30).contains(&own), "{own} of 60");
        assert!(mixed.iter().any(|task| task.strength == 0.5) && mixed.iter().any(|task| task.strength == 0.7));
        assert!(tasks(&classes, Mode::Aug, 5, &[0.5], 1).iter().all(|task| task.source == task.target));
        assert!(tasks(&classes, Mode::Gen, 5, &[0.5], 1).iter().all(|task| task.strength == 1.0));
    }

    #[test]
    fn classes_that_cannot_be_told_apart_are_refused() {
        let refusal = |names: &[&str]| classes(data(names).path()).unwrap_err().to_string();
        assert!(refusal(&["red fox", "red_fox"]).contains("have one path, `red_fox`"));
        assert!(refusal(&[]).contains("no class in it"));
        let dir = data(&["a"]);
        std::fs::create_dir(dir.path().join("b")).unwrap();
        assert!(classes(dir.path()).unwrap_err().to_string().contains("without images"));
    }
}
