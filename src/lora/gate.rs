//! The gated merge: how much of each expert a prompt gets, from the mean of its text states.

use crate::error::{Error, Result};
use crate::tensor::Tensor;

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

    pub fn experts(&self) -> usize {
        self.bias.len()
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

/// The mean of text states `[t, width]` over the tokens of the text: those after the start token up to the first end token,
/// that included.
///
/// # Panics
/// If there are not as many states as ids.
pub fn pooled(states: &[f64], width: usize, ids: &[i64], end: i64) -> Vec<f64> {
    assert_eq!(states.len(), ids.len() * width, "a state for each id");
    let last = ids.iter().position(|&id| id == end).unwrap_or(ids.len() - 1).max(1);
    let mut mean = vec![0.0; width];
    for row in states.chunks_exact(width).take(last + 1).skip(1) {
        mean.iter_mut().zip(row).for_each(|(m, x)| *m += x / last as f64);
    }
    mean
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
        assert_eq!(pooled(&states, 1, &[49_406, 5, 49_407, 49_407], 49_407), [2.0]);
    }
}
