//! What a merge is asked for.

use crate::error::{Error, Result};
use crate::lora::prune::MajoritySign;
use crate::lora::svd::Cut;

/// How experts become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Method {
    /// The mean of the products: every weight is 1/T.
    Average,
    /// The weighted sum of the products; ranks add up.
    #[value(alias = "cat")]
    Concat,
    /// The best approximation of that sum at a rank or an error.
    Svd,
    /// Trim by magnitude, elect signs, merge what agrees.
    Ties,
    /// Drop at random and rescale, then sum.
    #[value(alias = "dare_linear")]
    DareLinear,
    /// Drop at random and rescale, elect signs, merge what agrees.
    #[value(alias = "dare_ties")]
    DareTies,
    /// Trim by magnitude, then sum.
    #[value(alias = "magnitude_prune")]
    MagnitudePrune,
    /// Mixes the factors apart: wrong by cross terms.
    Linear,
}

/// The tools whose definitions can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Compat {
    Peft,
    Kohya,
}

/// All that a merge depends on besides the experts.
#[derive(Clone, Debug)]
pub struct Options {
    pub method: Method,
    pub rank: Option<usize>,
    pub max_error: Option<f64>,
    pub density: Option<f64>,
    pub majority_sign: MajoritySign,
    pub seed: u64,
    pub compat: Option<Compat>,
}

impl Options {
    pub fn new(method: Method) -> Self {
        Self {
            method,
            rank: None,
            max_error: None,
            density: None,
            majority_sign: MajoritySign::Total,
            seed: 42,
            compat: None,
        }
    }

    fn prunes(&self) -> bool {
        use Method::*;
        matches!(self.method, Ties | DareLinear | DareTies | MagnitudePrune)
    }

    /// # Errors
    /// [`Error::Usage`] naming the option that is missing or out of range.
    pub(super) fn check(&self) -> Result<()> {
        let usage = |message: &str| Err(Error::Usage(message.into()));
        match self.density {
            None if self.prunes() => return usage("this method needs --density, the share of entries to keep"),
            Some(d) if !(d > 0.0 && d <= 1.0) => return usage("--density must be above 0 and at most 1"),
            Some(_) if !self.prunes() => return usage("--density belongs to ties, dare-* and magnitude-prune"),
            _ => {}
        }
        if self.rank == Some(0) {
            return usage("--rank must be at least 1");
        }
        if self.max_error.is_some_and(|x| !(x > 0.0 && x < 1.0)) {
            return usage("--max-error must be between 0 and 1");
        }
        if self.rank.is_some() && self.max_error.is_some() {
            return usage("give --rank or --max-error, not both");
        }
        let cuts = self.prunes() || self.method == Method::Svd;
        if (self.rank.is_some() || self.max_error.is_some()) && !cuts {
            return usage("--rank and --max-error belong to svd, ties, dare-* and magnitude-prune");
        }
        if self.method == Method::Svd && self.cut() == Cut::Exact && self.compat.is_none() {
            return usage("svd needs --rank or --max-error (concat keeps everything)");
        }
        if self.max_error.is_some() && self.compat.is_some() {
            return usage("--max-error does not go with --compat: those tools know ranks only");
        }
        Ok(())
    }

    pub(super) fn cut(&self) -> Cut {
        match (self.rank, self.max_error) {
            (Some(k), _) => Cut::Rank(k),
            (None, Some(x)) => Cut::MaxError(x),
            (None, None) => Cut::Exact,
        }
    }
}
