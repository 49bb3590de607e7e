//! Embeds images by a CLIP model whenever a line comes in, and prints how many milliseconds that took: for
//! `benches/peers/clip.py`, which takes turns with PyTorch.
//!
//! ```sh
//! cargo run --release --example judge_rate -- /tmp/clip-l14 4 2    # MODEL IMAGES THREADS
//! ```

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Instant;

use selma::Result;
use selma::device::Device;
use selma::judges::clip::Clip;
use selma::tensor::{DType, Tensor};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers = arguments.get(1).zip(arguments.get(2)).map(|(a, b)| (a.parse(), b.parse()));
    let (3, Some((Ok(images), Ok(threads)))) = (arguments.len(), numbers) else {
        eprintln!("usage: judge_rate MODEL IMAGES THREADS");
        std::process::exit(2);
    };
    if let Err(error) = answer(Path::new(&arguments[0]), images, threads) {
        eprintln!("judge_rate: {error}");
        std::process::exit(1);
    }
}

fn answer(model: &Path, images: usize, threads: usize) -> Result<()> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    pool.map_err(|e| selma::Error::Failed(e.to_string()))?;
    let clip = Clip::load(model, &Device::Cpu, DType::F32)?;
    let size = clip.model.image_size();
    // The same numbers as in the script.
    let values = (0..images * size * size * 3).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect();
    let pixels = Tensor::new(values, &[images, size, size, 3]);
    let first = clip.image_embeds(&pixels)?;
    println!("{:?}", first.concat());
    for line in std::io::stdin().lock().lines() {
        line.map_err(|e| selma::Error::io("stdin", e))?;
        let begin = Instant::now();
        clip.image_embeds(&pixels)?;
        println!("{}", begin.elapsed().as_secs_f64() * 1000.0);
        std::io::stdout().flush().map_err(|e| selma::Error::io("stdout", e))?;
    }
    Ok(())
}
