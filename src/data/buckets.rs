//! Aspect-ratio buckets: images are scaled to about the same number of pixels and cropped as little as steps of 64 allow.
//! The sizes are those of kohya's scripts. Source: sd-scripts `library/train_util.py` (`BucketManager.select_bucket`) and
//! `library/model_util.py` (`make_bucket_resolutions`).

/// The sizes that images of a run are brought to. All pairs are (width, height) in pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct Buckets {
    area: u64,
    steps: u32,
    /// The sizes to choose from where small images are enlarged; otherwise sizes follow from the images.
    sizes: Vec<(u32, u32)>,
}

/// What becomes of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fit {
    /// The size before the crop.
    pub resized: (u32, u32),
    /// The size after it.
    pub bucket: (u32, u32),
}

impl Buckets {
    /// Buckets of at most `side`² pixels, whose sides are multiples of `steps`. With `upscale` they lie between
    /// `shortest` and `longest`, and small images are enlarged.
    pub fn new(side: u32, steps: u32, upscale: bool, shortest: u32, longest: u32) -> Self {
        let area = u64::from(side) * u64::from(side);
        let mut sizes = Vec::new();
        if upscale {
            let square = side / steps * steps;
            sizes.push((square, square));
            for width in (shortest..=longest).step_by(steps as usize) {
                let height = (area / u64::from(width)) as u32 / steps * steps;
                let height = height.min(longest);
                if height >= shortest {
                    sizes.extend([(width, height), (height, width)]);
                }
            }
            sizes.sort_unstable();
            sizes.dedup();
        }
        Self { area, steps, sizes }
    }

    /// The bucket of an image; none where it is smaller than the smallest.
    pub fn fit(&self, (width, height): (u32, u32)) -> Option<Fit> {
        let ratio = f64::from(width) / f64::from(height);
        let rounded = |x: f64| (x + 0.5) as u32;
        if !self.sizes.is_empty() {
            let error = |&(w, h): &(u32, u32)| (f64::from(w) / f64::from(h) - ratio).abs();
            // Of equally near ones the first.
            let nearest = self.sizes.iter().copied().min_by(|a, b| error(a).total_cmp(&error(b)))?;
            let bucket = if self.sizes.contains(&(width, height)) { (width, height) } else { nearest };
            let scale = match ratio > f64::from(bucket.0) / f64::from(bucket.1) {
                true => f64::from(bucket.1) / f64::from(height),
                false => f64::from(bucket.0) / f64::from(width),
            };
            let resized = (rounded(f64::from(width) * scale), rounded(f64::from(height) * scale));
            return Some(Fit { resized, bucket });
        }
        let down = |x: u32| x - x % self.steps;
        let resized = if u64::from(width) * u64::from(height) > self.area {
            let wide = (self.area as f64 * ratio).sqrt();
            let high = self.area as f64 / wide;
            // One side becomes a multiple of the step; the one that keeps the proportions better.
            let by_width = down(rounded(wide));
            let by_height = down(rounded(high));
            let off = |w: u32, h: u32| (f64::from(w) / f64::from(h) - ratio).abs();
            let other_height = down(rounded(f64::from(by_width) / ratio));
            let other_width = down(rounded(f64::from(by_height) * ratio));
            match off(by_width, other_height) < off(other_width, by_height) {
                true => (by_width, rounded(f64::from(by_width) / ratio)),
                false => (rounded(f64::from(by_height) * ratio), by_height),
            }
        } else {
            (width, height)
        };
        let bucket = (down(resized.0), down(resized.1));
        (bucket.0 > 0 && bucket.1 > 0).then_some(Fit { resized, bucket })
    }
}
