//! Grids of images: one for each value of an axis, or for each pair of values of two, with everything else the same, the noise
//! included; and one sheet of all, with labels.

mod sheet;

pub use sheet::sheet;

use std::path::Path;

use serde_json::Value;

use super::loras::Strength;
use crate::data::prompts::Prompt;
use crate::error::{Error, Result};

/// What differs along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Lora,
    Scale,
    Seed,
    Steps,
    Guidance,
    Scheduler,
}

const KEYS: [(&str, Key); 6] = [
    ("lora", Key::Lora),
    ("scale", Key::Scale),
    ("seed", Key::Seed),
    ("steps", Key::Steps),
    ("guidance", Key::Guidance),
    ("scheduler", Key::Scheduler),
];
/// Cells of one prompt's sheet, and values of one axis.
const MOST: usize = 1024;

/// One axis and its values, as they were given.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    name: &'static str,
    key: Key,
    values: Vec<String>,
}

/// One image of a grid: its prompt with the settings of its place, and the LoRAs of its place.
pub struct Cell {
    pub prompt: Prompt,
    pub loras: Vec<Strength>,
}

/// Columns, and rows where there are two axes.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    columns: Axis,
    rows: Option<Axis>,
}

impl Axis {
    /// Reads `NAME=VALUE,VALUE`.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the part that is not understood.
    pub fn parse(text: &str) -> Result<Self> {
        let names = KEYS.map(|(name, _)| name).join(", ");
        let refuse = |why: String| Error::Usage(format!("--grid {text}: {why}"));
        let (name, values) =
            text.split_once('=').ok_or_else(|| refuse(format!("expected AXIS=VALUE,VALUE,... of {names}")))?;
        let (name, key) = KEYS
            .into_iter()
            .find(|(own, _)| *own == name.trim())
            .ok_or_else(|| refuse(format!("there is no axis {name:?}; expected one of {names}")))?;
        let values: Vec<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
        if values.iter().any(String::is_empty) || values.len() > MOST {
            return Err(refuse(format!("expected 1 to {MOST} values with commas between them")));
        }
        let (fits, expected): (fn(&str) -> bool, _) = match key {
            Key::Seed | Key::Steps => (|value| value.parse::<u64>().is_ok(), "a whole number"),
            Key::Scale | Key::Guidance => (|value| value.parse::<f64>().is_ok_and(f64::is_finite), "a number"),
            Key::Lora | Key::Scheduler => (|_| true, "a name"),
        };
        match values.iter().find(|value| !fits(value)) {
            None => Ok(Self { name, key, values }),
            Some(value) => Err(refuse(format!("{value:?} is not {expected}"))),
        }
    }

    fn label(&self, value: &str) -> String {
        match self.key {
            Key::Lora => {
                let (path, scale) = value.rsplit_once(':').map_or((value, None), |(path, scale)| (path, Some(scale)));
                let name = Path::new(path).file_stem().unwrap_or_default().to_string_lossy().into_owned();
                scale.map_or(name.clone(), |scale| format!("{name}:{scale}"))
            }
            Key::Scheduler => value.into(),
            _ => format!("{} {value}", self.name),
        }
    }
}

impl Grid {
    /// # Errors
    /// [`Error::Usage`] for more than two axes, one given twice, or too many cells.
    pub fn new(axes: &[String]) -> Result<Option<Self>> {
        let mut axes: Vec<Axis> = axes.iter().map(|text| Axis::parse(text)).collect::<Result<_>>()?;
        if axes.len() > 2 {
            return Err(Error::Usage("--grid can be given twice, for columns and for rows".into()));
        }
        let rows = if axes.len() == 2 { axes.pop() } else { None };
        let Some(columns) = axes.pop() else { return Ok(None) };
        let grid = Self { columns, rows };
        if grid.rows.as_ref().is_some_and(|rows| rows.key == grid.columns.key) {
            return Err(Error::Usage(format!("--grid {} is given twice; give another axis", grid.columns.name)));
        }
        match grid.cells_of_prompt() {
            0..=MOST => Ok(Some(grid)),
            many => Err(Error::Usage(format!("--grid: {many} images a prompt; expected at most {MOST}"))),
        }
    }

    fn axes(&self) -> impl Iterator<Item = &Axis> {
        std::iter::once(&self.columns).chain(&self.rows)
    }

    fn has(&self, key: Key) -> bool {
        self.axes().any(|axis| axis.key == key)
    }

    /// Images of one prompt.
    pub fn cells_of_prompt(&self) -> usize {
        self.axes().map(|axis| axis.values.len()).product()
    }

    /// The values that name LoRAs, `none` left out.
    pub fn loras(&self) -> Vec<String> {
        let axis = self.axes().find(|axis| axis.key == Key::Lora);
        let values = axis.into_iter().flat_map(|axis| &axis.values);
        values.filter(|value| *value != "none").cloned().collect()
    }

    /// Whether the LoRAs of the command get the strengths of an axis.
    pub fn scales_given(&self) -> bool {
        self.has(Key::Scale) && !self.has(Key::Lora)
    }

    /// The cells of all prompts, row by row. `given` are the LoRAs of the command; `read` reads one that an axis names.
    ///
    /// # Errors
    /// [`Error::Usage`] for strengths of no LoRA; those of `read`.
    pub fn cells(
        &self,
        prompts: &[Prompt],
        seed: u64,
        given: &[Strength],
        read: &dyn Fn(&str) -> Result<Strength>,
    ) -> Result<Vec<Cell>> {
        if self.scales_given() && given.is_empty() {
            return Err(Error::Usage(
                "--grid scale: there is no LoRA; give one by --lora or --grid lora=FILE,...".into(),
            ));
        }
        let rows: Vec<Option<&str>> = match &self.rows {
            Some(rows) => rows.values.iter().map(|value| Some(value.as_str())).collect(),
            None => vec![None],
        };
        let mut cells = Vec::new();
        for prompt in prompts {
            for row in &rows {
                for column in &self.columns.values {
                    let mut cell = Cell { prompt: prompt.clone(), loras: Vec::new() };
                    // All cells begin with the same noise.
                    cell.prompt.rest.entry("seed").or_insert(seed.into());
                    if self.scales_given() {
                        cell.loras = given.to_vec();
                    }
                    let own = self.rows.as_ref().zip(*row);
                    let mut places: Vec<(&Axis, &str)> =
                        std::iter::once((&self.columns, column.as_str())).chain(own).collect();
                    // Which LoRA it is comes before its strength.
                    places.sort_by_key(|(axis, _)| axis.key == Key::Scale);
                    for (axis, value) in places {
                        cell.put(axis.key, value, read)?;
                    }
                    cells.push(cell);
                }
            }
        }
        Ok(cells)
    }

    /// The labels of columns and of rows.
    pub fn labels(&self) -> (Vec<String>, Vec<String>) {
        let of = |axis: &Axis| axis.values.iter().map(|value| axis.label(value)).collect();
        (of(&self.columns), self.rows.as_ref().map(of).unwrap_or_default())
    }
}

impl Cell {
    fn put(&mut self, key: Key, value: &str, read: &dyn Fn(&str) -> Result<Strength>) -> Result<()> {
        let number = || value.parse::<u64>().map_or(Value::Null, Value::from);
        let setting = match key {
            Key::Lora => {
                self.loras = if value == "none" { Vec::new() } else { vec![read(value)?] };
                return Ok(());
            }
            Key::Scale => {
                let scale = value.parse().unwrap_or(1.0);
                self.loras.iter_mut().for_each(|lora| lora.scale = scale);
                return Ok(());
            }
            Key::Seed => ("seed", number()),
            Key::Steps => ("steps", number()),
            Key::Guidance => ("guidance", value.parse::<f64>().map_or(Value::Null, Value::from)),
            Key::Scheduler => ("scheduler", value.into()),
        };
        self.prompt.rest.insert(setting.0.into(), setting.1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(axes: &[&str]) -> Result<Option<Grid>> {
        Grid::new(&axes.iter().map(|axis| (*axis).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn cells_are_all_pairs_row_by_row_with_one_seed() {
        let grid = grid(&["steps=5,10", "lora=none,dir/a.safetensors:0.5"]).unwrap().unwrap();
        let read = |text: &str| Ok(Strength { path: text.into(), scale: 0.5 });
        let cells = grid.cells(&[Prompt::new("a cat")], 7, &[], &read).unwrap();
        let steps: Vec<u64> = cells.iter().map(|cell| cell.prompt.rest["steps"].as_u64().unwrap()).collect();
        assert_eq!(steps, [5, 10, 5, 10]);
        assert!(cells.iter().all(|cell| cell.prompt.rest["seed"] == 7));
        assert_eq!(cells.iter().map(|cell| cell.loras.len()).collect::<Vec<_>>(), [0, 0, 1, 1]);
        assert_eq!(grid.labels(), (vec!["steps 5".into(), "steps 10".into()], vec!["none".into(), "a:0.5".into()]));
        assert_eq!(grid.loras(), ["dir/a.safetensors:0.5"]);
    }

    #[test]
    fn strengths_are_those_of_the_axis_or_of_the_command() {
        let read = |text: &str| Ok(Strength { path: text.into(), scale: 1.0 });
        let given = [Strength { path: "own".into(), scale: 0.3 }];
        let scales = |axes: &[&str]| {
            let cells = grid(axes).unwrap().unwrap().cells(&[Prompt::new("a")], 0, &given, &read).unwrap();
            cells.iter().map(|cell| cell.loras[0].scale).collect::<Vec<_>>()
        };
        assert_eq!(scales(&["scale=0,0.5,1"]), [0.0, 0.5, 1.0]);
        assert_eq!(scales(&["scale=0.2,2", "lora=a,b"]), [0.2, 2.0, 0.2, 2.0]);
        assert!(grid(&["scale=1"]).unwrap().unwrap().cells(&[Prompt::new("a")], 0, &[], &read).is_err());
    }

    #[test]
    fn what_is_no_axis_is_refused() {
        for axes in
            [&["steps"][..], &["stepz=1"], &["steps=1,x"], &["seed=1,,2"], &["steps=1", "steps=2"], &["scale=nan"]]
        {
            assert!(grid(axes).is_err(), "{axes:?}");
        }
        assert!(grid(&["steps=1", "seed=1", "scale=1"]).is_err());
        assert!(grid(&[]).unwrap().is_none());
    }
}
