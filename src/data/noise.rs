//! The noise of a training sample, where it is not plain normal noise: offset noise, noise of many resolutions, and another noise
//! for what the network sees than for what it is to predict.

use crate::tensor::random::{self, Stream};

/// What is drawn beside the plain noise; numbers of two of them never coincide.
const OFFSETS: u64 = 1;
const PERTURBATION: u64 = 2;
const FACTORS: u64 = 3;
/// And one more for each level.
const LEVELS: u64 = 4;

/// How noise is made.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NoiseSettings {
    pub seed: u64,
    /// One number a channel is added, this strong (crosslabs.org, "Diffusion With Offset Noise", 2023).
    pub offset: f64,
    /// Levels of lower resolution that are added at most, and what each is multiplied by, compared with the one before
    /// (wandb.ai, J. Whitaker, "Multi-Resolution Noise for Diffusion Model Training", 2023).
    pub multires: Option<(usize, f64)>,
    /// The network sees noise that is perturbed so strongly (Ning et al. 2023, arXiv:2301.11706).
    pub perturbation: f64,
}

impl NoiseSettings {
    /// Whether it is the plain noise, which a GPU draws by itself.
    pub fn is_plain(&self) -> bool {
        self.offset == 0.0 && self.multires.is_none() && self.perturbation == 0.0
    }

    /// The noise of a sample `[h, w, c]` at `position` of the run: what is to be predicted, and what is added to the latents.
    pub fn draw(&self, shape: [usize; 3], position: u64) -> [Vec<f32>; 2] {
        let [_, _, channels] = shape;
        let draw = |which: u64, len: usize| random::normals(self.seed, Stream::Noise, position, which, len);
        let mut noise = draw(0, shape.iter().product());
        if self.offset != 0.0 {
            let (strength, offsets) = (self.offset as f32, draw(OFFSETS, channels));
            for pixel in noise.chunks_mut(channels) {
                pixel.iter_mut().zip(&offsets).for_each(|(x, offset)| *x += strength * offset);
            }
        }
        if let Some((levels, discount)) = self.multires {
            let factors = random::uniform(self.seed, Stream::Noise, position, FACTORS, levels);
            let sizes = level_sizes([shape[0], shape[1]], &factors);
            let levels = sizes.into_iter().enumerate().map(|(i, size)| {
                let len = size[0] * size[1] * channels;
                (size, draw(LEVELS + i as u64, len))
            });
            add_levels(&mut noise, shape, levels, discount);
        }
        let mut seen = noise.clone();
        if self.perturbation != 0.0 {
            let strength = self.perturbation as f32;
            let more = draw(PERTURBATION, noise.len());
            seen.iter_mut().zip(&more).for_each(|(x, more)| *x += strength * more);
        }
        [noise, seen]
    }
}

/// Heights and widths of the levels: level i is smaller by r^i, with another r of 2 to 4 for each; one of a single row or column
/// is the last.
fn level_sizes([h, w]: [usize; 2], factors: &[f32]) -> Vec<[usize; 2]> {
    let mut sizes = Vec::new();
    for (i, factor) in factors.iter().enumerate() {
        let by = f64::from(2.0 + 2.0 * factor).powi(i as i32);
        let size = [h, w].map(|side| ((side as f64 / by) as usize).max(1));
        sizes.push(size);
        if size.contains(&1) {
            break;
        }
    }
    sizes
}

/// Adds levels, scaled up bilinearly as PyTorch's `Upsample` does, the i-th times `discount`^i, and scales the sum to a standard
/// deviation of 1, as sd-scripts' `pyramid_noise_like` does for a batch of one.
pub fn add_levels(
    noise: &mut [f32],
    [h, w, c]: [usize; 3],
    levels: impl Iterator<Item = ([usize; 2], Vec<f32>)>,
    discount: f64,
) {
    for (i, ([rows, columns], level)) in levels.enumerate() {
        let strength = discount.powi(i as i32) as f32;
        // The two neighbours of a pixel on the level, and how much of the second.
        let around = |at: usize, small: usize, large: usize| {
            let place = ((at as f32 + 0.5) * (small as f32 / large as f32) - 0.5).max(0.0);
            let first = place as usize;
            (first, (first + 1).min(small - 1), place - first as f32)
        };
        for y in 0..h {
            let (top, bottom, down) = around(y, rows, h);
            for x in 0..w {
                let (left, right, over) = around(x, columns, w);
                for channel in 0..c {
                    let at = |row: usize, column: usize| level[(row * columns + column) * c + channel];
                    let upper = at(top, left) * (1.0 - over) + at(top, right) * over;
                    let lower = at(bottom, left) * (1.0 - over) + at(bottom, right) * over;
                    noise[(y * w + x) * c + channel] += strength * (upper * (1.0 - down) + lower * down);
                }
            }
        }
    }
    let count = noise.len() as f64;
    let mean = noise.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let squares: f64 = noise.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
    let deviation = (squares / (count - 1.0)).sqrt();
    noise.iter_mut().for_each(|x| *x = (f64::from(*x) / deviation) as f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_shrink_to_a_pixel() {
        // 2 and 4 times smaller a level: 8, 4, 8 / 16 = 0, which is 1.
        assert_eq!(level_sizes([8, 12], &[0.5, 0.0, 1.0, 0.0]), [[8, 12], [4, 6], [1, 1]]);
    }

    #[test]
    fn what_is_seen_and_what_is_predicted() {
        let shape = [6, 4, 4];
        let plain = NoiseSettings { seed: 3, ..NoiseSettings::default() };
        let [noise, seen] = plain.draw(shape, 5);
        assert!(plain.is_plain() && noise == seen);
        let [same, perturbed] = NoiseSettings { perturbation: 0.1, ..plain }.draw(shape, 5);
        let differences: Vec<f32> = perturbed.iter().zip(&same).map(|(a, b)| a - b).collect();
        let size = (differences.iter().map(|x| x * x).sum::<f32>() / differences.len() as f32).sqrt();
        assert!(same == noise && (0.07..0.13).contains(&size), "{size}");
        let [many, _] = NoiseSettings { multires: Some((6, 0.4)), ..plain }.draw(shape, 5);
        assert!(many != noise);
        // Another position, another noise.
        assert_ne!(NoiseSettings { multires: Some((6, 0.4)), ..plain }.draw(shape, 6)[0], many);
    }
}
