//! Merging as peft and kohya define it, defects included: for reproducing what was made with them.
//!
//! peft is taken as of 0.21. Releases up to 0.20 applied alpha / rank twice in `svd` and the `*_svd` methods; their results
//! come out when every weight is multiplied by alpha / rank first.
//!
//! Sources: peft `tuners/lora/model.py` (`add_weighted_adapter`) and `utils/merge_utils.py`; sd-scripts
//! `networks/merge_lora.py` and `svd_merge_lora.py`.

use faer::Mat;

use super::dense;
use super::expert::LoraFactors;
use super::merge::{self, Method, Options, Term, products};
use super::svd::{self, Cut, Svd};
use crate::error::{Error, Result};

/// One module as peft's `add_weighted_adapter` makes it. A pruning method with `rank` is peft's `*_svd` variant. `rank`
/// is the largest of all adapters, `adapters` their number.
pub(crate) fn peft(
    terms: &[Term],
    options: &Options,
    rank: usize,
    adapters: usize,
    place: &str,
) -> Result<LoraFactors> {
    let shape = terms[0].factors.weight_shape();
    let method = if adapters == 1 { Method::Linear } else { options.method };
    match method {
        Method::Average => Err(Error::Usage("peft has no average; use concat with weights of 1/T".into())),
        Method::Linear => linear(terms, place),
        Method::Concat => {
            let (up, down) = svd::stacked(&products(terms));
            svd::from_matrices(&up, &down, &shape, up.ncols() as f64)
        }
        Method::Svd => {
            let svd = Svd::of_sum(&products(terms))?;
            svd.factors_on_up(svd.keep(Cut::Rank(options.rank.unwrap_or(rank))), &shape)
        }
        _ if options.rank.is_some() => {
            let weights: Vec<f64> = terms.iter().map(|t| t.weight).collect();
            let svd = Svd::of(&merge::sparse(terms, &weights, options, place))?;
            svd.factors_on_up(svd.keep(Cut::Rank(options.rank.unwrap_or(rank))), &shape)
        }
        _ => by_factor(terms, options, place),
    }
}

/// peft's `linear`, also used by the method of that name: `(sum_t sqrt|c_t| B_t)(sum_t sign(c_t) sqrt|c_t| A_t)`, which
/// has cross terms.
///
/// # Errors
/// [`Error::Failed`] if ranks differ.
pub(crate) fn linear(terms: &[Term], place: &str) -> Result<LoraFactors> {
    let (ups, downs) = signed_roots(terms);
    mix(terms, &ups, &downs, place, terms[0].factors.rank() as f64)
}

/// What peft multiplies each B and each A with.
fn signed_roots(terms: &[Term]) -> (Vec<f64>, Vec<f64>) {
    terms
        .iter()
        .map(|t| {
            let c = t.coefficient();
            (c.abs().sqrt(), if c < 0.0 { -c.abs().sqrt() } else { c.sqrt() })
        })
        .unzip()
}

/// `(sum u_t B_t)(sum d_t A_t)` with the given alpha.
fn mix(terms: &[Term], ups: &[f64], downs: &[f64], place: &str, alpha: f64) -> Result<LoraFactors> {
    equal_ranks(terms, place)?;
    let first = terms[0].factors;
    let mut up = Mat::<f64>::zeros(first.outputs(), first.rank());
    let mut down = Mat::<f64>::zeros(first.rank(), first.inputs());
    for ((term, u), d) in terms.iter().zip(ups).zip(downs) {
        up += faer::Scale(*u) * dense::up(term.factors);
        down += faer::Scale(*d) * dense::down(term.factors);
    }
    svd::from_matrices(&up, &down, &first.weight_shape(), alpha)
}

fn equal_ranks(terms: &[Term], place: &str) -> Result<()> {
    let ranks: Vec<usize> = terms.iter().map(|t| t.factors.rank()).collect();
    if ranks.iter().all(|r| *r == ranks[0]) {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "{place} has ranks {ranks:?}: this method mixes factors entry by entry and needs equal ones; use concat or svd"
    )))
}

/// peft's pruning methods without SVD: on all A and on all B apart.
fn by_factor(terms: &[Term], options: &Options, place: &str) -> Result<LoraFactors> {
    equal_ranks(terms, place)?;
    let (ups, downs) = signed_roots(terms);
    let first = terms[0].factors;
    let merged = |list: Vec<Vec<f64>>, weights: &[f64], side: &str, rows: usize, columns: usize| {
        let flat = merge::sparse_flat(list, weights, options, &format!("{place}.{side}"));
        Mat::from_fn(rows, columns, |i, j| flat[i * columns + j])
    };
    let values = |tensor: fn(&LoraFactors) -> &crate::tensor::Tensor| {
        let all = terms.iter().map(|t| tensor(t.factors).reals::<f64>().into_owned());
        all.collect::<Vec<Vec<f64>>>()
    };
    let up = merged(values(|f| &f.b), &ups, "lora_B", first.outputs(), first.rank());
    let down = merged(values(|f| &f.a), &downs, "lora_A", first.rank(), first.inputs());
    svd::from_matrices(&up, &down, &first.weight_shape(), first.rank() as f64)
}

/// One module as kohya's scripts make it: `linear` (`merge_lora.py`), `concat` (`--concat`), `svd` (`svd_merge_lora.py`).
pub(crate) fn kohya(terms: &[Term], options: &Options, rank: usize, place: &str) -> Result<LoraFactors> {
    let shape = terms[0].factors.weight_shape();
    let alpha = terms[0].factors.alpha;
    // Defect: the weight goes into both factors, so it is squared.
    let downs: Vec<f64> = terms.iter().map(|t| (t.factors.alpha / alpha).sqrt() * t.weight).collect();
    let ups: Vec<f64> = downs.iter().map(|f| f.abs()).collect();
    match options.method {
        Method::Linear => mix(terms, &ups, &downs, place, alpha),
        Method::Concat => {
            let squared: Vec<_> = terms.iter().zip(&downs).map(|(t, f)| (f * f.abs(), t.factors)).collect();
            let (up, down) = svd::stacked(&squared);
            // Defect: alpha stays while the rank grows.
            svd::from_matrices(&up, &down, &shape, alpha)
        }
        Method::Svd => {
            let k = options.rank.unwrap_or(rank).min(shape[0]).min(shape[1]);
            let svd = Svd::of_sum(&products(terms))?;
            let k = svd.keep(Cut::Rank(k));
            clamp(&svd.factors_on_up(k, &shape)?, 0.99)
        }
        _ => {
            Err(Error::Usage("kohya's scripts have linear, concat and svd; leave --compat out for this method".into()))
        }
    }
}

/// Defect: both factors are cut off at a quantile of their signed values (torch's linear interpolation).
fn clamp(factors: &LoraFactors, quantile: f64) -> Result<LoraFactors> {
    let (mut up, mut down) = (factors.b.reals::<f64>().into_owned(), factors.a.reals::<f64>().into_owned());
    let mut all: Vec<f64> = up.iter().chain(&down).copied().collect();
    all.sort_by(f64::total_cmp);
    let at = quantile * (all.len() - 1) as f64;
    let (low, high) = (all[at.floor() as usize], all[at.ceil() as usize]);
    let limit = (low + (high - low) * at.fract()).abs();
    for x in up.iter_mut().chain(&mut down) {
        *x = x.clamp(-limit, limit);
    }
    let tensor = |v, shape: &[usize]| crate::tensor::Tensor::from_reals::<f64>(v, shape, crate::tensor::DType::F32);
    LoraFactors::new(tensor(down, factors.a.shape()), tensor(up, factors.b.shape()), factors.alpha)
}
