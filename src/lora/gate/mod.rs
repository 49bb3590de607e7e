//! The gated merge: how much of each expert a prompt gets, from the mean of its text states.
//! The idea is VersaT2I's (Guo et al. 2024, arXiv:2403.18493), which gives no formula: gate, balance and file are selma's own.

mod file;
mod mixture;

pub use file::{GateFile, Gates, Origin};
pub use mixture::{MixedLayer, Mixture, Rows};

use crate::error::{Error, Result};
use crate::tensor::{DType, Tensor};

/// `softmax(W h + b)` over T experts.
#[derive(Clone, Debug)]
pub struct Gate {
    /// `[T, width]`.
    weight: Vec<f64>,
    bias: Vec<f64>,
    width: usize,
}

impl Gate {
    /// `weight` `[T, width]`, `bias` `[T]`.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub fn new(weight: &Tensor, bias: &Tensor) -> Result<Self> {
        let [experts, width] = weight.dims("gate")?;
        if bias.shape() != [experts] || experts == 0 {
            let message =
                format!("weight {:?} and bias {:?}; expected [T, width] and [T]", weight.shape(), bias.shape());
            return Err(Error::shape("gate", message));
        }
        let (weight, bias) = (weight.reals::<f64>().into_owned(), bias.reals::<f64>().into_owned());
        Ok(Self { weight, bias, width })
    }

    /// A gate that gives every one of `experts` the same share, whatever the text.
    pub fn uniform(experts: usize, width: usize) -> Self {
        Self { weight: vec![0.0; experts * width], bias: vec![0.0; experts], width }
    }

    /// From `[T, width + 1]` values: a row an expert, its bias last.
    ///
    /// # Panics
    /// If there are not as many values.
    pub fn from_rows(values: &[f32], experts: usize, width: usize) -> Self {
        assert_eq!(values.len(), experts * (width + 1), "a row and a bias for each expert");
        let rows = || values.chunks_exact(width + 1);
        Self {
            weight: rows().flat_map(|row| row[..width].iter().map(|&x| f64::from(x))).collect(),
            bias: rows().map(|row| f64::from(row[width])).collect(),
            width,
        }
    }

    pub fn experts(&self) -> usize {
        self.bias.len()
    }

    /// Length of a pooled text state.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Weight `[T, width]` and bias `[T]`, f32.
    pub fn tensors(&self) -> [Tensor; 2] {
        let experts = self.experts();
        [
            Tensor::from_reals(self.weight.clone(), &[experts, self.width], DType::F32),
            Tensor::from_reals(self.bias.clone(), &[experts], DType::F32),
        ]
    }

    /// The gradient of a loss for the `[T, width + 1]` values of [`Gate::from_rows`], from that for the `shares` of `h`.
    pub fn gradient(&self, h: &[f64], shares: &[f64], of_shares: &[f64]) -> Vec<f64> {
        let mean: f64 = shares.iter().zip(of_shares).map(|(g, d)| g * d).sum();
        let logits = shares.iter().zip(of_shares).map(|(g, d)| g * (d - mean));
        logits.flat_map(|d| h.iter().map(move |x| d * x).chain([d])).collect()
    }

    /// The share of each expert for the pooled state `h` `[width]`. They sum to 1.
    ///
    /// # Panics
    /// If `h` has another width.
    pub fn shares(&self, h: &[f64]) -> Vec<f64> {
        assert_eq!(h.len(), self.width, "a pooled text state");
        let logit = |(row, b): (&[f64], &f64)| row.iter().zip(h).map(|(w, x)| w * x).sum::<f64>() + b;
        let logits: Vec<f64> = self.weight.chunks_exact(self.width).zip(&self.bias).map(logit).collect();
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let powers: Vec<f64> = logits.iter().map(|x| (x - largest).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.into_iter().map(|x| x / sum).collect()
    }
}

/// `T sum mean(g)^2 - 1` over a batch: 0 where all experts are used alike, T - 1 where one takes all.
pub fn balance(shares: &[Vec<f64>]) -> f64 {
    let experts = shares.first().map_or(0, Vec::len);
    let mean = |t: usize| shares.iter().map(|g| g[t]).sum::<f64>() / shares.len() as f64;
    experts as f64 * (0..experts).map(|t| mean(t) * mean(t)).sum::<f64>() - 1.0
}

/// The gradient of [`balance`] for the shares of each text of the batch, given their mean.
pub fn balance_gradient(mean: &[f64], texts: usize) -> Vec<f64> {
    mean.iter().map(|g| 2.0 * mean.len() as f64 * g / texts as f64).collect()
}

/// The mean of text states `[t, width]` over the tokens of the text: those after the start token up to the first end token,
/// that included. `ids` has a row for each window of the text, whose states follow one another; what follows them is not of
/// the text.
///
/// # Panics
/// If there are fewer states than ids.
pub fn pooled(states: &[f64], width: usize, ids: &[Vec<i64>], end: i64) -> Vec<f64> {
    let (mut sum, mut count, mut first) = (vec![0.0; width], 0, 0);
    for window in ids {
        let last = window.iter().position(|&id| id == end).unwrap_or(window.len() - 1).max(1);
        for row in states[(first + 1) * width..(first + last + 1) * width].chunks_exact(width) {
            sum.iter_mut().zip(row).for_each(|(s, x)| *s += x);
        }
        count += last;
        first += window.len();
    }
    sum.iter_mut().for_each(|s| *s /= count as f64);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balance_of_known_shares() {
        let third = 1.0 / 3.0;
        for (shares, value) in [([third; 3], 0.0), ([0.5, 0.5, 0.0], 0.5), ([1.0, 0.0, 0.0], 2.0)] {
            assert!((balance(&[shares.to_vec()]) - value).abs() < 1e-12);
        }
        let gate = Gate::new(
            &Tensor::new(vec![0.0f64; 6], &[3, 2]),
            &Tensor::new(vec![std::f64::consts::LN_2, 0.0, 0.0], &[3]),
        );
        let shares = gate.unwrap().shares(&[5.0, -3.0]);
        assert!((shares[0] - 0.5).abs() < 1e-12 && (shares[1] - 0.25).abs() < 1e-12);
        assert!((balance(&[shares]) - 0.125).abs() < 1e-12);
    }

    #[test]
    fn padding_and_the_start_token_are_not_pooled() {
        let states = [9.0, 1.0, 3.0, 50.0];
        let ids = vec![49_406, 5, 49_407, 49_407];
        assert_eq!(pooled(&states, 1, std::slice::from_ref(&ids), 49_407), [2.0]);
        let longer = [9.0, 1.0, 3.0, 50.0, 8.0, 4.0, 12.0, 51.0];
        assert_eq!(pooled(&longer, 1, &[ids.clone(), ids], 49_407), [5.0]);
    }

    #[test]
    fn gradients_are_those_of_central_differences() {
        let (experts, width, h) = (3, 2, [0.7, -1.3]);
        let values: Vec<f32> = vec![0.3, -0.2, 0.1, 0.5, 0.4, -0.6, -0.1, 0.2, 0.05];
        // Any function of the shares: their balance and a weighted sum.
        let loss = |values: &[f32]| {
            let shares = Gate::from_rows(values, experts, width).shares(&h);
            balance(std::slice::from_ref(&shares))
                + shares.iter().zip([0.5, -2.0, 1.0]).map(|(g, w)| g * w).sum::<f64>()
        };
        let gate = Gate::from_rows(&values, experts, width);
        let shares = gate.shares(&h);
        let of_balance = balance_gradient(&shares, 1);
        let of_shares: Vec<f64> = of_balance.iter().zip([0.5, -2.0, 1.0]).map(|(a, b)| a + b).collect();
        let gradient = gate.gradient(&h, &shares, &of_shares);
        for (i, ours) in gradient.iter().enumerate() {
            const STEP: f32 = 1.0 / 256.0;
            let moved = |by: f32| {
                let mut values = values.clone();
                values[i] += by;
                loss(&values)
            };
            let difference = (moved(STEP) - moved(-STEP)) / (2.0 * f64::from(STEP));
            // The third derivative of these smooth functions times STEP^2.
            assert!((ours - difference).abs() < 1e-3, "{i}: {ours} and {difference}");
        }
    }
}
