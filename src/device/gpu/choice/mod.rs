//! Operations that several kernels can do: which one does, and who decides. Where nobody does, the cost model of `tile.rs`
//! decides, by the sizes alone. `crate::tuning` decides by what has proved itself on a device.

mod case;

use std::any::Any;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};

use super::Gpu;
use super::tile::Tile;
use crate::error::{Error, Result};
pub use case::{Added, Case, Family, Operation};

/// A tile, and the slices of the sum that are made side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Choice {
    pub(crate) tile: Tile,
    pub(crate) slices: usize,
}

/// Who decides on a device.
pub trait Chooser: Send + Sync {
    /// The choice for `case`; `model` is that of the cost model.
    ///
    /// # Errors
    /// Where a choice cannot be written down.
    fn choose(&self, case: &Case, model: Choice) -> Result<Choice>;

    /// Writes what is chosen into the file `record` until what is returned is dropped, and obeys what is there already; with
    /// `anew` nothing is. None where there is nothing to write down.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Usage`] where the record is of a run that chose in another way.
    fn keep(&self, _record: &Path, _anew: bool) -> Result<Option<Kept>> {
        Ok(None)
    }
}

/// A record that is kept for as long as this lives.
pub type Kept = Box<dyn Any + Send + Sync>;

impl Gpu {
    /// Lets `chooser` decide on this device from now on.
    pub fn set_chooser(&self, chooser: Arc<dyn Chooser>) {
        *self.0.chooser.write().unwrap_or_else(PoisonError::into_inner) = Some(chooser);
    }

    /// [`Chooser::keep`] of who decides here.
    ///
    /// # Errors
    /// As there.
    pub fn keep_choices(&self, record: &Path, anew: bool) -> Result<Option<Kept>> {
        self.chooser().map_or(Ok(None), |chooser| chooser.keep(record, anew))
    }

    pub fn has_chooser(&self) -> bool {
        self.chooser().is_some()
    }

    fn chooser(&self) -> Option<Arc<dyn Chooser>> {
        self.0.chooser.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The tile and the number of slices for an operation, whose operands the kernels of large and small tiles take where
    /// they `fit`; the cost model's where nobody else decides.
    pub(crate) fn choose(
        &self,
        fits: bool,
        case: impl FnOnce() -> Case,
        model: impl FnOnce() -> (Tile, usize),
    ) -> Result<(Tile, usize)> {
        let (tile, slices) = model();
        let model = Choice { tile: tile.if_fits(fits), slices };
        let chosen = match self.chooser() {
            None => model,
            Some(chooser) => chooser.choose(&Case { any: !fits, ..case() }, model)?,
        };
        Ok((chosen.tile.if_fits(fits), chosen.slices))
    }
}

/// `large`, or `large x 4` in four slices.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.tile.name())?;
        if self.slices > 1 { write!(f, " x {}", self.slices) } else { Ok(()) }
    }
}

impl FromStr for Choice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown =
            || Error::Usage(format!("kernel {text}: expected hopper, tall, large, small or any, such as `large x 4`"));
        let (name, slices) = text.split_once(" x ").unwrap_or((text, "1"));
        let tiles = Tile::ALL.into_iter().chain([Tile::SMALL.if_fits(false), Tile::HOPPER]);
        let tile = tiles.into_iter().find(|tile| tile.name() == name).ok_or_else(unknown)?;
        let slices = slices.parse().ok().filter(|&slices| slices > 0).ok_or_else(unknown)?;
        Ok(Self { tile, slices })
    }
}

impl TryFrom<String> for Choice {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Choice> for String {
    fn from(choice: Choice) -> Self {
        choice.to_string()
    }
}
