//! What a candidate has to show, on the shape that it is for, and how long it takes.

use std::sync::Arc;

use super::numbers::Numbers;
use super::replica::{Part, Place, places, run};
use crate::device::Device;
use crate::device::gpu::choice::{Case, Choice, Chooser};
use crate::device::gpu::{Buffer, Gpu};
use crate::error::Result;
use crate::tensor::{DType, Tensor};

/// Runs that are timed.
const RUNS: usize = 7;
/// Bytes that are written before each, so that it finds nothing in the cache.
const FLUSHED_BYTES: usize = 256 << 20;

/// The reference of a case, and what it gave.
pub struct Proof<'a> {
    gpu: &'a Gpu,
    case: &'a Case,
    places: Vec<Place>,
    exact: Vec<(Numbers, Tensor)>,
    random: Tensor,
    /// On absolute values.
    absolute: Tensor,
    seconds: Option<f64>,
}

/// One choice for all.
struct Fixed(Choice);

impl Chooser for Fixed {
    fn choose(&self, _: &Case, _: Choice) -> Result<Choice> {
        Ok(self.0)
    }
}

/// What came of one run: the result, or what the kernel did beside it.
type Outcome = std::result::Result<Tensor, String>;

impl<'a> Proof<'a> {
    /// Runs the reference.
    ///
    /// # Errors
    /// What the device says.
    pub fn new(gpu: &'a Gpu, case: &'a Case) -> Result<std::result::Result<Self, String>> {
        let places = places(case);
        let has_second = places.iter().any(|place| matches!(place.part, Part::Lines { second: true, .. }));
        let rounds = if has_second { 3 } else { 2 };
        let exact = std::iter::once(Numbers::Thin).chain((0..rounds).map(Numbers::OneHot));
        let reference = case.reference();
        let result = |numbers| outcome(gpu, case, &places, reference, numbers, 0);
        let mut results = Vec::new();
        for numbers in exact.chain([Numbers::Random, Numbers::Absolute]) {
            match result(numbers)? {
                Ok(result) => results.push((numbers, result)),
                Err(why) => return Ok(Err(why)),
            }
        }
        let (_, absolute) = results.pop().expect("the last one");
        let (_, random) = results.pop().expect("the one before");
        Ok(Ok(Self { gpu, case, places, exact: results, random, absolute, seconds: None }))
    }

    /// Why the candidate is refused; none where it has proved itself. `stage` gets what it is about to do.
    ///
    /// # Errors
    /// What the device says.
    pub fn objection(&self, candidate: Choice, mut stage: impl FnMut(&str) -> Result<()>) -> Result<Option<String>> {
        let result = |numbers, seed| outcome(self.gpu, self.case, &self.places, candidate, numbers, seed);
        for (round, (numbers, expected)) in (1..).zip(&self.exact) {
            stage(numbers.name())?;
            let said = match result(*numbers, round)? {
                Ok(there) => other_bytes(&there, expected),
                Err(why) => Some(why),
            };
            if let Some(why) = said {
                return Ok(Some(format!("{}: {why}", numbers.name())));
            }
        }
        let name = Numbers::Random.name();
        stage(name)?;
        let mut first: Option<Tensor> = None;
        for seed in [100, 101] {
            let there = match result(Numbers::Random, seed)? {
                Ok(there) => there,
                Err(why) => return Ok(Some(format!("{name}: {why}"))),
            };
            let said = match &first {
                None => self.too_far(&there),
                Some(first) => other_bytes(&there, first)
                    .map(|why| format!("with other garbage in free memory the result is another: {why}")),
            };
            if let Some(why) = said {
                return Ok(Some(format!("{name}: {why}")));
            }
            first = Some(there);
        }
        Ok(None)
    }

    /// Where the result is further from the reference's than rounding explains.
    fn too_far(&self, there: &Tensor) -> Option<String> {
        // Two neighbours of the sum in the type of the result.
        let unit = match there.dtype() {
            DType::Bf16 => -7,
            DType::F16 => -10,
            _ => -23,
        };
        let unit = 2_f64.powi(unit);
        let order = 4.0 * (self.case.depth() as f64).sqrt() * 2_f64.powi(-23);
        let (there, here, absolute) = (there.reals::<f64>(), self.random.reals::<f64>(), self.absolute.reals::<f64>());
        let bound = |at: usize| unit * here[at].abs() + order * absolute[at];
        // NaN is never within a bound.
        let within = |at: usize| (there[at] - here[at]).abs() <= bound(at);
        let at = (0..here.len()).find(|&at| !within(at))?;
        let place = position(at, self.random.shape());
        let (is, should) = (number(there[at]), number(here[at]));
        Some(format!("element {place} is {is}, the reference's {should}; allowed are {:.1e} more or less", bound(at)))
    }

    /// Seconds of the reference and of the candidate, medians.
    ///
    /// # Errors
    /// What the device says.
    pub fn seconds(&mut self, candidate: Choice) -> Result<[f64; 2]> {
        let device = Device::Gpu(self.gpu.clone());
        let operands = self.places.iter().enumerate();
        let operands = operands.map(|(index, place)| Numbers::Random.fill(self.case, index, place).to(&device));
        let operands: Vec<Tensor> = operands.collect::<Result<_>>()?;
        // A device without room for it is timed as it is.
        let real = !self.gpu.is_simulated();
        let flushed = real.then(|| self.gpu.buffer(DType::F32, FLUSHED_BYTES / DType::F32.size()).ok()).flatten();
        let median = |choice| {
            self.gpu.set_chooser(Arc::new(Fixed(choice)));
            let once = || run(self.case, &operands).map(drop);
            once()?;
            let timed = || {
                flushed.as_ref().map_or(Ok(()), Buffer::clear)?;
                self.gpu.seconds(once)
            };
            let mut times: Vec<f64> = (0..RUNS).map(|_| timed()).collect::<Result<_>>()?;
            times.sort_by(f64::total_cmp);
            Ok(times[RUNS / 2])
        };
        let reference = match self.seconds {
            Some(known) => known,
            None => median(self.case.reference())?,
        };
        self.seconds = Some(reference);
        Ok([reference, median(candidate)?])
    }
}

/// One run on a device whose free memory holds garbage by `seed`.
fn outcome(gpu: &Gpu, case: &Case, places: &[Place], choice: Choice, numbers: Numbers, seed: u64) -> Result<Outcome> {
    let (guarded, guards) = gpu.guarded(seed);
    guarded.set_chooser(Arc::new(Fixed(choice)));
    let device = Device::Gpu(guarded);
    let here: Vec<Tensor> = places.iter().enumerate().map(|(i, place)| numbers.fill(case, i, place)).collect();
    let there: Vec<Tensor> = here.iter().map(|x| x.to(&device)).collect::<Result<_>>()?;
    let result = run(case, &there)?.to_cpu()?;
    if let Some(why) = guards.broken()? {
        return Ok(Err(why));
    }
    for (number, (here, there)) in here.iter().zip(&there).enumerate() {
        if here.bytes() != there.to_cpu()?.bytes() {
            return Ok(Err(format!("changes its operand {number}")));
        }
    }
    Ok(Ok(result))
}

/// The first element whose bytes differ.
fn other_bytes(there: &Tensor, expected: &Tensor) -> Option<String> {
    let size = expected.dtype().size();
    let (a, b) = (there.bytes(), expected.bytes());
    let at = a.chunks_exact(size).zip(b.chunks_exact(size)).position(|(a, b)| a != b)?;
    let (is, should) = (there.reals::<f64>()[at], expected.reals::<f64>()[at]);
    Some(format!("element {} is {} and should be {should}", position(at, expected.shape()), number(is)))
}

/// What may be garbage, in few digits.
fn number(x: f64) -> String {
    if x == 0.0 || (1e-3..1e6).contains(&x.abs()) { format!("{x}") } else { format!("{x:.1e}") }
}

/// Where the element number `at` is, such as `[1, 2, 3]`.
fn position(at: usize, shape: &[usize]) -> String {
    let mut rest = at;
    let mut position = vec![0; shape.len()];
    for (index, &side) in position.iter_mut().zip(shape).rev() {
        (*index, rest) = (rest % side.max(1), rest / side.max(1));
    }
    format!("{position:?}")
}

#[cfg(test)]
mod tests {
    use super::position;

    #[test]
    fn elements_are_named_by_row_and_column() {
        assert_eq!(position(0, &[2, 3]), "[0, 0]");
        assert_eq!(position(5, &[2, 3]), "[1, 2]");
        assert_eq!(position(59, &[3, 4, 5]), "[2, 3, 4]");
    }
}
