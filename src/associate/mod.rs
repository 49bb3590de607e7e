//! Which text belongs to which image, in small groups: VEGA's association score (Zhou et al. 2024, arXiv:2406.10228).

pub mod ask;
pub mod groups;
pub mod replies;

use serde::Serialize;

use crate::error::{Error, Result};

/// `[image][text]`.
pub type Similarities = Vec<Vec<f64>>;

/// The largest group whose permutations are all tried.
pub const LARGEST: usize = 8;

/// How the images of a group get their texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The permutation with the largest sum of similarities.
    Assignment,
    /// Each image its most similar text, whatever the others get.
    Argmax,
}

impl Rule {
    pub const ALL: [(&str, Self); 2] = [("assignment", Self::Assignment), ("argmax", Self::Argmax)];

    /// The text of every image, from `similarity[image][text]`. Of equal sums the first in lexicographic order, of equal
    /// texts the lowest.
    ///
    /// # Errors
    /// [`Error::Failed`] if the matrix is not square, has more than [`LARGEST`] rows, or holds a NaN.
    pub fn texts(self, similarity: &[Vec<f64>]) -> Result<Vec<usize>> {
        let k = similarity.len();
        if k == 0 || similarity.iter().any(|row| row.len() != k) {
            return Err(Error::Failed("a group's similarities: expected a square matrix, a row an image".into()));
        }
        if similarity.iter().flatten().any(|s| s.is_nan()) {
            return Err(Error::Failed("a group's similarities hold a NaN".into()));
        }
        if self == Self::Argmax {
            return Ok(similarity.iter().map(|row| first_largest(row)).collect());
        }
        if k > LARGEST {
            return Err(Error::Failed(format!("a group of {k} images; expected at most {LARGEST}")));
        }
        let mut best: (f64, Vec<usize>) = (f64::NEG_INFINITY, (0..k).collect());
        permutations(k, &mut Vec::new(), &mut |texts| {
            let sum: f64 = texts.iter().enumerate().map(|(i, &j)| similarity[i][j]).sum();
            if sum > best.0 {
                best = (sum, texts.to_vec());
            }
        });
        Ok(best.1)
    }

    /// What chance alone reaches with groups of `k`: (all right, share of right images).
    pub fn chance(self, k: usize) -> (f64, f64) {
        let exact: f64 = match self {
            Self::Assignment => (1..=k).map(|i| 1.0 / i as f64).product(),
            Self::Argmax => (k as f64).powi(-(k as i32)),
        };
        (exact, 1.0 / k as f64)
    }
}

fn first_largest(row: &[f64]) -> usize {
    (1..row.len()).fold(0, |best, j| if row[j] > row[best] { j } else { best })
}

/// In lexicographic order.
fn permutations(k: usize, begun: &mut Vec<usize>, f: &mut dyn FnMut(&[usize])) {
    if begun.len() == k {
        return f(begun);
    }
    for j in 0..k {
        if !begun.contains(&j) {
            begun.push(j);
            permutations(k, begun, f);
            begun.pop();
        }
    }
}

/// How many groups and images are right.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Score {
    /// Share of groups in which every image has its own text.
    pub exact: f64,
    /// Share of right images.
    #[serde(rename = "per_picture")]
    pub per_image: f64,
    pub groups: usize,
}

/// Over groups of one size, in which the text of image i is text i. `None` without groups.
pub fn score(assignments: &[Vec<usize>]) -> Option<Score> {
    let right = |texts: &Vec<usize>| texts.iter().enumerate().filter(|&(i, &j)| i == j).count();
    let images: usize = assignments.iter().map(Vec::len).sum();
    let groups = assignments.len();
    let exact = assignments.iter().filter(|texts| right(texts) == texts.len()).count();
    (images > 0).then(|| Score {
        exact: exact as f64 / groups as f64,
        per_image: assignments.iter().map(right).sum::<usize>() as f64 / images as f64,
        groups,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_sum_and_the_largest_rows() {
        let mut s = vec![vec![0.3, 0.2, 0.1], vec![0.4, 0.35, 0.1], vec![0.1, 0.2, 0.5]];
        assert_eq!(Rule::Argmax.texts(&s).unwrap(), [0, 0, 2]);
        assert_eq!(Rule::Assignment.texts(&s).unwrap(), [0, 1, 2]);
        s[1][0] = 0.46;
        let swapped = Rule::Assignment.texts(&s).unwrap();
        assert_eq!(swapped, [1, 0, 2]);
        assert_eq!(score(&[swapped]).unwrap(), Score { exact: 0.0, per_image: 1.0 / 3.0, groups: 1 });
        assert!(Rule::Argmax.texts(&[vec![0.0, f64::NAN], vec![0.0, 0.0]]).is_err());
        assert!(Rule::Argmax.texts(&[vec![0.0], vec![0.0]]).is_err());
    }
}
