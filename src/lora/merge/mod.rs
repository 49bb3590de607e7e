//! Merging experts. The wanted update of a module is the sum of `w_t * alpha_t / r_t * up_t @ down_t`; weights are used
//! as given, and what is written is compared with what was wanted.

mod options;

use std::collections::BTreeMap;

use faer::Mat;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::lora::expert::{Expert, LoraFactors};
use crate::lora::prune::{self, Draws};
use crate::lora::svd::{self, Svd};
use crate::lora::{compat, dense};
use crate::tensor::{DType, Tensor};

pub use options::{Compat, Method, Options};

/// What came out.
#[derive(Debug)]
pub struct Merged {
    pub expert: Expert,
    /// `||written - wanted|| / ||wanted||` over all modules; wanted is the weighted sum, or what a pruning method defines.
    pub relative_error: f64,
    /// The same against the plain weighted sum: for a pruning method how much it changes it.
    pub distance_to_sum: f64,
}

/// One expert's share in a module: its weight, its place among the inputs, its factors.
#[derive(Clone, Copy)]
pub(crate) struct Term<'a> {
    pub weight: f64,
    pub input: usize,
    pub factors: &'a LoraFactors,
}

impl Term<'_> {
    /// What its product is multiplied by: weight * alpha / rank.
    pub fn coefficient(&self) -> f64 {
        self.weight * self.factors.scale()
    }
}

/// Merges `inputs`, pairs of an expert and its weight. `Average` takes 1/T whatever the weights are.
///
/// # Errors
/// [`Error::Usage`] for options that do not go together or a weight that is not finite; [`Error::Failed`] where experts
/// are of different families, or a method needs equal ranks.
pub fn merge(inputs: &[(&Expert, f64)], options: &Options) -> Result<Merged> {
    options.check()?;
    if inputs.is_empty() {
        return Err(Error::Usage("there is nothing to merge: give at least one --lora".into()));
    }
    let weights: Vec<f64> = match options.method {
        Method::Average => vec![1.0 / inputs.len() as f64; inputs.len()],
        _ => inputs.iter().map(|(_, weight)| *weight).collect(),
    };
    if let Some(bad) = weights.iter().find(|w| !w.is_finite()) {
        return Err(Error::Usage(format!("a weight is {bad}; weights are finite numbers")));
    }
    if let Some(at) = inputs.iter().position(|(expert, _)| expert.is_decomposed()) {
        return Err(Error::Failed(format!(
            "LoRA {} is DoRA, whose change is no sum of products: it can be merged into a model (--into), not into a LoRA",
            at + 1
        )));
    }
    let modules = align(inputs, &weights)?;
    let rank = inputs.iter().map(|(e, _)| e.max_rank()).max().unwrap_or(1);
    let done: Vec<Result<Module>> = modules
        .into_par_iter()
        .map(|((component, module), terms)| {
            let place = format!("{component}.{module}");
            let (factors, wanted) = match options.compat {
                None => one_module(&terms, options, &place)?,
                Some(Compat::Peft) => (compat::peft(&terms, options, rank, inputs.len(), &place)?, None),
                Some(Compat::Kohya) => (compat::kohya(&terms, options, rank, &place)?, None),
            };
            Ok(Module::compare(component, module, factors, wanted, &terms))
        })
        .collect();

    let mut expert = Expert { vectors: vectors(inputs, &weights)?, ..Expert::default() };
    let mut squares = [0.0; 4];
    for module in done {
        let module = module?;
        expert.insert(&module.component, &module.module, module.factors);
        for (sum, square) in squares.iter_mut().zip(module.squares) {
            *sum += square;
        }
    }
    let [error, wanted, distance, sum] = squares.map(f64::sqrt);
    Ok(Merged { expert, relative_error: ratio(error, wanted), distance_to_sum: ratio(distance, sum) })
}

/// The weighted sum of what is added to norms and biases, whatever the method.
fn vectors(inputs: &[(&Expert, f64)], weights: &[f64]) -> Result<BTreeMap<String, BTreeMap<String, Tensor>>> {
    let mut sums: BTreeMap<String, BTreeMap<String, Tensor>> = BTreeMap::new();
    for ((expert, _), &weight) in inputs.iter().zip(weights) {
        for (component, name, vector) in expert.vectors() {
            let mut sum: Vec<f64> = vector.reals::<f64>().iter().map(|x| weight * x).collect();
            let place = sums.entry(component.into()).or_default();
            if let Some(before) = place.get(name) {
                if before.len() != sum.len() {
                    let message = format!("{component}.{name} has {} and {} values", before.len(), sum.len());
                    return Err(Error::Failed(format!("{message}: the LoRAs are of different model families")));
                }
                sum.iter_mut().zip(before.reals::<f64>().iter()).for_each(|(sum, x)| *sum += x);
            }
            place.insert(name.into(), Tensor::from_reals::<f64>(sum, vector.shape(), DType::F32));
        }
    }
    Ok(sums)
}

fn ratio(error: f64, norm: f64) -> f64 {
    if norm == 0.0 { error } else { error / norm }
}

/// One merged module, and the squared norms of: its error, what was wanted, its distance to the sum, the sum.
struct Module {
    component: String,
    module: String,
    factors: LoraFactors,
    squares: [f64; 4],
}

impl Module {
    fn compare(
        component: String,
        module: String,
        factors: LoraFactors,
        wanted: Option<Mat<f64>>,
        terms: &[Term],
    ) -> Self {
        let written = dense::product(&[(factors.scale(), &factors)]);
        let sum = dense::product(&products(terms));
        let square = |m: &Mat<f64>| dense::norm(m).powi(2);
        let distance = [square(&(&written - &sum)), square(&sum)];
        let error = wanted.map_or(distance, |wanted| [square(&(&written - &wanted)), square(&wanted)]);
        Self { component, module, factors, squares: [error[0], error[1], distance[0], distance[1]] }
    }
}

/// (coefficient, factors) of every term.
pub(crate) fn products<'a>(terms: &[Term<'a>]) -> Vec<(f64, &'a LoraFactors)> {
    terms.iter().map(|t| (t.coefficient(), t.factors)).collect()
}

/// For each module of any expert the terms of those that have it; one that lacks it adds nothing there.
fn align<'a>(inputs: &[(&'a Expert, f64)], weights: &[f64]) -> Result<BTreeMap<(String, String), Vec<Term<'a>>>> {
    let mut modules: BTreeMap<(String, String), Vec<Term>> = BTreeMap::new();
    for (input, ((expert, _), &weight)) in inputs.iter().zip(weights).enumerate() {
        for (component, module, factors) in expert.iter() {
            let terms = modules.entry((component.into(), module.into())).or_default();
            if let Some(first) = terms.first()
                && (first.factors.outputs(), first.factors.inputs()) != (factors.outputs(), factors.inputs())
            {
                return Err(Error::Failed(format!(
                    "{component}.{module} has shape {:?} in LoRA {} and {:?} in LoRA {}: they are of different model \
                     families and cannot be merged",
                    first.factors.weight_shape(),
                    first.input + 1,
                    factors.weight_shape(),
                    input + 1
                )));
            }
            terms.push(Term { weight, input, factors });
        }
    }
    Ok(modules)
}

/// The weighted sum of a module's products, without loss: factors stacked, the scale 1.
///
/// # Errors
/// [`Error::Shape`] where they do not fit each other.
pub(crate) fn weighted_sum(terms: &[Term]) -> Result<LoraFactors> {
    let (up, down) = svd::stacked(&products(terms));
    svd::from_matrices(&up, &down, &terms[0].factors.weight_shape(), up.ncols() as f64)
}

/// The factors of one merged module; where it is not the plain sum, also what the method wanted.
fn one_module(terms: &[Term], options: &Options, place: &str) -> Result<(LoraFactors, Option<Mat<f64>>)> {
    let shape = terms[0].factors.weight_shape();
    match options.method {
        Method::Average | Method::Concat => Ok((weighted_sum(terms)?, None)),
        Method::Svd => {
            let svd = Svd::of_sum(&products(terms))?;
            Ok((svd.factors(svd.keep(options.cut()), &shape)?, None))
        }
        Method::Linear => Ok((compat::linear(terms, place)?, None)),
        Method::Ties | Method::DareLinear | Method::DareTies | Method::MagnitudePrune => {
            let weights: Vec<f64> = terms.iter().map(|t| t.weight).collect();
            let merged = sparse(terms, &weights, options, place);
            let svd = Svd::of(&merged)?;
            Ok((svd.factors(svd.keep(options.cut()), &shape)?, Some(merged)))
        }
    }
}

/// A pruning method on the dense deltas, as its paper defines it for each tensor.
pub(crate) fn sparse(terms: &[Term], weights: &[f64], options: &Options, place: &str) -> Mat<f64> {
    let deltas = terms.iter().map(|t| dense::rows(&dense::product(&[(t.factors.scale(), t.factors)]))).collect();
    let columns = terms[0].factors.inputs();
    let merged = sparse_flat(deltas, weights, options, place);
    Mat::from_fn(terms[0].factors.outputs(), columns, |i, j| merged[i * columns + j])
}

/// The same on flat lists.
pub(crate) fn sparse_flat(list: Vec<Vec<f64>>, weights: &[f64], options: &Options, place: &str) -> Vec<f64> {
    let density = options.density.unwrap_or(1.0);
    let random = matches!(options.method, Method::DareLinear | Method::DareTies);
    let pruned: Vec<Vec<f64>> = (0..list.len())
        .map(|at| {
            if !random {
                return prune::by_magnitude(&list[at], density);
            }
            let copy = list[..at].iter().filter(|x| **x == list[at]).count() as u64;
            let draws = Draws::new(options.seed, place, &list[at], copy);
            prune::at_random(&list[at], density, &draws)
        })
        .collect();
    match options.method {
        Method::Ties | Method::DareTies => prune::disjoint_merge(&pruned, weights, options.majority_sign),
        _ => prune::weighted_sum(&pruned, weights),
    }
}
