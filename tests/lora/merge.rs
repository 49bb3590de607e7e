//! peft's merges as recorded, and what must hold of selma's own.

use selma::lora::merge::{Compat, Method, Options, merge};
use selma::lora::prune::MajoritySign;
use selma::lora::svd::Svd;
use selma::lora::{self, Expert, base};
use selma::tensor::Tensor;

use crate::support::{assert_same, cases, relative_error, sample_expert};

#[test]
fn merges_through_peft_are_as_recorded() {
    for case in cases("merge") {
        let base = base::modules(&case.model()).unwrap();
        let inputs = case.json["inputs"].as_array().unwrap();
        let load = |input: &serde_json::Value| {
            let path = case.dir.join(input["file"].as_str().unwrap());
            lora::load(&path, Some(&base), false).unwrap().expert
        };
        let experts: Vec<Expert> = inputs.iter().map(load).collect();
        let weights = case.json["weights"].as_array().unwrap().iter().map(|w| w.as_f64().unwrap());
        let pairs: Vec<(&Expert, f64)> = experts.iter().zip(weights).collect();

        let name = case.json["method"].as_str().unwrap();
        let svd = name.ends_with("svd");
        let mut options = Options::new(match name.trim_end_matches("_svd") {
            "linear" => Method::Linear,
            "cat" => Method::Concat,
            "svd" => Method::Svd,
            "ties" => Method::Ties,
            "magnitude_prune" => Method::MagnitudePrune,
            other => panic!("{other}"),
        });
        options.compat = Some(Compat::Peft);
        options.density = case.json["density"].as_f64();
        options.rank = svd.then(|| match case.json["svd_rank"].as_u64() {
            Some(rank) => rank as usize,
            None => experts.iter().map(Expert::max_rank).max().unwrap(),
        });
        if case.json["majority_sign_method"] == "frequency" {
            options.majority_sign = MajoritySign::Frequency;
        }
        let merged = merge(&pairs, &options).unwrap().expert;
        let tolerance = if svd { 5e-5 } else { 2e-6 };
        let expected = case.outputs("out.delta.");
        assert_eq!(merged.len(), expected.len(), "{}", case.name);
        for (module, delta) in &expected {
            let error = relative_error(&merged.get("unet", module).expect("it is merged").delta(), delta);
            assert!(error <= tolerance, "{} {module}: {error:e}", case.name);
        }
    }
}

fn options(method: Method) -> Options {
    Options::new(method)
}

fn sparse(method: Method, density: f64) -> Options {
    Options { density: Some(density), ..Options::new(method) }
}

fn exact_options() -> Vec<Options> {
    let svd = Options { rank: Some(1000), ..options(Method::Svd) };
    vec![options(Method::Concat), svd, sparse(Method::DareLinear, 1.0), sparse(Method::MagnitudePrune, 1.0)]
}

/// The sum of weighted deltas, computed apart from the code under test.
fn wanted(inputs: &[(&Expert, f64)], component: &str, module: &str) -> Tensor {
    let mut sum: Option<(Vec<f64>, Vec<usize>)> = None;
    for (expert, weight) in inputs {
        if let Some(factors) = expert.get(component, module) {
            let (up, down) = (factors.b.reals::<f64>(), factors.a.reals::<f64>());
            let (r, columns) = (factors.rank(), factors.inputs());
            let (values, _) =
                sum.get_or_insert_with(|| (vec![0.0; factors.outputs() * columns], factors.weight_shape()));
            for (at, value) in values.iter_mut().enumerate() {
                let dot: f64 = (0..r).map(|j| up[at / columns * r + j] * down[j * columns + at % columns]).sum();
                *value += weight * factors.alpha / r as f64 * dot;
            }
        }
    }
    let (values, shape) = sum.expect("some expert has the module");
    Tensor::new(values, &shape)
}

#[test]
fn exact_methods_give_the_weighted_sum() {
    let (_, a) = sample_expert("tiny-sd1", 0, 1);
    let (_, b) = sample_expert("tiny-sd1", 3, 2);
    let (_, mut c) = sample_expert("tiny-sd1", 2, 3);
    c.components.remove("text_encoder");
    let inputs = [(&a, 0.7), (&b, -1.3), (&c, 2.0)];
    for options in exact_options() {
        let merged = merge(&inputs, &options).unwrap();
        assert!(merged.relative_error < 1e-6, "{:?}: {:e}", options.method, merged.relative_error);
        for (component, module, factors) in merged.expert.iter() {
            let error = relative_error(&factors.delta(), &wanted(&inputs, component, module));
            assert!(error < 1e-6, "{:?} {component}.{module}: {error:e}", options.method);
        }
    }
}

#[test]
fn one_expert_at_weight_one_stays_itself() {
    let (_, a) = sample_expert("tiny-sd2", 0, 1);
    let mut all = exact_options();
    all.push(options(Method::Average));
    all.push(options(Method::Linear));
    for options in all {
        assert_same(&a, &merge(&[(&a, 1.0)], &options).unwrap().expert, 1e-6);
    }
}

#[test]
fn the_order_of_inputs_does_not_matter() {
    let (_, a) = sample_expert("tiny-sd1", 3, 1);
    let (_, b) = sample_expert("tiny-sd1", 3, 2);
    let mut all = exact_options();
    all.extend([options(Method::Average), options(Method::Linear)]);
    all.extend([Method::Ties, Method::DareLinear, Method::DareTies, Method::MagnitudePrune].map(|m| sparse(m, 0.4)));
    for options in all {
        let there = merge(&[(&a, 0.6), (&b, -0.5)], &options).unwrap().expert;
        let back = merge(&[(&b, -0.5), (&a, 0.6)], &options).unwrap().expert;
        assert_same(&there, &back, 2e-6);
    }
}

#[test]
fn opposite_weights_cancel() {
    let (_, a) = sample_expert("tiny-sd1", 3, 1);
    let merged = merge(&[(&a, 1.5), (&a, -1.5)], &options(Method::Concat)).unwrap();
    for (component, module, factors) in merged.expert.iter() {
        assert!(factors.delta().reals::<f64>().iter().all(|x| x.abs() < 1e-6), "{component}.{module}");
    }
}

#[test]
fn a_cut_costs_exactly_the_values_it_leaves_out() {
    let (_, a) = sample_expert("tiny-sd1", 3, 1);
    let (_, b) = sample_expert("tiny-sd1", 4, 2);
    for (component, module, factors) in a.iter() {
        let terms = [(factors.scale(), factors), (0.5, b.get(component, module).unwrap())];
        let svd = Svd::of_sum(&terms).unwrap();
        let whole = wanted(&[(&a, 1.0), (&b, 0.5 / b.get(component, module).unwrap().scale())], component, module);
        let cut = svd.factors(4, &factors.weight_shape()).unwrap().delta();
        let norm = |s: &[f64]| s.iter().map(|s| s * s).sum::<f64>().sqrt();
        let expected = norm(&svd.s[4..]) / norm(&svd.s);
        let error = relative_error(&cut, &whole);
        assert!((error - expected).abs() < 1e-6, "{module}: {error} {expected}");
    }
    let mut options = options(Method::Svd);
    options.max_error = Some(0.3);
    let merged = merge(&[(&a, 1.0), (&b, 1.0)], &options).unwrap();
    assert!(merged.relative_error <= 0.3 && merged.expert.max_rank() < 7, "{}", merged.relative_error);
}

#[test]
fn linear_has_its_cross_terms_and_says_so() {
    let (_, a) = sample_expert("tiny-sd1", 3, 1);
    let (_, b) = sample_expert("tiny-sd1", 3, 2);
    let merged = merge(&[(&a, 0.5), (&b, -0.5)], &options(Method::Linear)).unwrap();
    assert!(merged.relative_error > 0.5, "{}", merged.relative_error);
}

#[test]
fn what_cannot_be_merged_is_refused() {
    let (_, a) = sample_expert("tiny-sd1", 3, 1);
    let (_, b) = sample_expert("tiny-sd2", 3, 1);
    let (_, c) = sample_expert("tiny-sd1", 2, 1);
    let refused = |inputs: &[(&Expert, f64)], options: &Options| merge(inputs, options).unwrap_err().to_string();
    assert!(refused(&[(&a, 1.0), (&b, 1.0)], &options(Method::Concat)).contains("families"));
    assert!(refused(&[(&a, 1.0), (&c, 1.0)], &options(Method::Linear)).contains("ranks"));
    assert!(refused(&[(&a, f64::NAN)], &options(Method::Concat)).contains("NaN"));
    assert!(refused(&[(&a, 1.0)], &options(Method::Ties)).contains("--density"));
    assert!(refused(&[(&a, 1.0)], &sparse(Method::Ties, 1.5)).contains("--density"));
    assert!(refused(&[(&a, 1.0)], &options(Method::Svd)).contains("--rank"));
}
