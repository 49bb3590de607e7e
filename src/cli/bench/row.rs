//! A line of `selma bench`.

use serde_json::{Value, json};

use crate::bench::ops::Work;
use crate::ops::LoraOrder;

/// What was timed, and what stands beside it.
pub struct Row<'a> {
    pub case: &'a str,
    /// The least first.
    pub times_ms: &'a [f64],
    pub work: Option<Work>,
    pub limits: Limits,
    /// One of NVIDIA's libraries on the same work, and its median where it could be timed.
    pub library: Option<(&'static str, Option<f64>)>,
    /// The order of a LoRA layer's products, and whether it is the planner's choice.
    pub order: Option<(LoraOrder, bool)>,
}

/// What the device can do, where that is known.
#[derive(Clone, Copy, Default)]
pub struct Limits {
    /// TFLOP/s.
    pub peak: Option<f64>,
    /// GB/s.
    pub bandwidth: Option<f64>,
}

impl Row<'_> {
    fn median(&self) -> f64 {
        self.times_ms[self.times_ms.len() / 2]
    }

    /// TFLOP/s and GB/s.
    fn rates(&self) -> Option<[f64; 2]> {
        let median = self.median();
        self.work.map(|work| [work.flops / median / 1e9, work.bytes / median / 1e6])
    }

    /// Percent of the speed that arithmetic and bytes allow.
    fn share(&self) -> Option<f64> {
        let [tflops, gbs] = self.rates()?;
        // An op takes at least as long as its arithmetic and as its bytes, whichever is longer.
        let of_peak = if tflops > 0.0 { tflops / self.limits.peak? } else { 0.0 };
        Some(100.0 * of_peak.max(gbs / self.limits.bandwidth?))
    }

    pub fn json(&self) -> Value {
        let (median, min, runs) = (self.median(), self.times_ms[0], self.times_ms.len());
        let mut row = json!({ "case": self.case, "median_ms": median, "min_ms": min, "runs": runs });
        if let Some([tflops, gbs]) = self.rates() {
            row["tflops"] = tflops.into();
            row["gbs"] = gbs.into();
            row["percent_of_floor"] = self.share().into();
        }
        if let Some((name, ms)) = self.library {
            row["library"] = name.into();
            row["library_ms"] = ms.into();
        }
        if let Some((order, chosen)) = self.order {
            row["order"] = order.name().into();
            row["chosen"] = chosen.into();
        }
        row
    }

    pub fn text(&self) -> String {
        let (case, median, min, runs) = (self.case, self.median(), self.times_ms[0], self.times_ms.len());
        let mut line = format!("{case:<44} median {median:>9.3} ms  min {min:>9.3} ms  {runs} runs");
        if let Some([tflops, gbs]) = self.rates() {
            line += &format!("  {tflops:>8.3} TFLOP/s  {gbs:>7.1} GB/s");
        }
        if let Some(share) = self.share() {
            line += &format!("  {share:>5.1} % of the floor");
        }
        match self.library {
            Some((name, Some(ms))) => line += &format!("  {name} {ms:.3} ms"),
            Some((name, None)) => line += &format!("  {name} -"),
            None => {}
        }
        if let Some((order, true)) = self.order {
            line += &format!("  the planner's choice: {}", order.name());
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(library: Option<(&'static str, Option<f64>)>) -> Row<'static> {
        Row {
            case: "linear 2x3->4 forward",
            times_ms: &[1.0, 2.0, 4.0],
            work: Some(Work { flops: 4e9, bytes: 1e6 }),
            limits: Limits { peak: Some(4.0), bandwidth: Some(1000.0) },
            library,
            order: None,
        }
    }

    #[test]
    fn a_library_stands_beside_what_it_does_too() {
        let timed = row(Some(("cuBLASLt", Some(1.5))));
        assert_eq!(timed.json()["library"], "cuBLASLt");
        assert_eq!(timed.json()["library_ms"], 1.5);
        assert!(timed.text().ends_with("50.0 % of the floor  cuBLASLt 1.500 ms"), "{}", timed.text());
        let missing = row(Some(("cuDNN", None)));
        assert!(missing.json()["library_ms"].is_null() && missing.json()["library"] == "cuDNN");
        assert!(missing.text().ends_with("  cuDNN -"), "{}", missing.text());
        let other = row(None);
        assert!(other.json().get("library").is_none() && other.text().ends_with("floor"));
        assert_eq!(other.json()["tflops"], 2.0);
    }

    #[test]
    fn the_planners_choice_is_marked() {
        let mut chosen = row(None);
        chosen.order = Some((LoraOrder::MergedProjected, true));
        assert!(chosen.text().ends_with("  the planner's choice: merged-projected"));
        assert_eq!((&chosen.json()["order"], &chosen.json()["chosen"]), (&"merged-projected".into(), &true.into()));
        let mut other = row(None);
        other.order = Some((LoraOrder::Factored, false));
        assert_eq!(other.text(), row(None).text());
        assert_eq!((&other.json()["order"], &other.json()["chosen"]), (&"factored".into(), &false.into()));
    }
}
