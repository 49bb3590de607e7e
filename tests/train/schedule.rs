//! Learning rates against the formulas of diffusers 0.42.1's `get_scheduler`, worked out by hand.

use clap::ValueEnum;
use selma::train::lr_schedule::{LrSchedule, Shape};

fn assert_rates(schedule: LrSchedule, expected: &[(u64, f64)]) {
    for &(step, rate) in expected {
        let got = schedule.at(step);
        assert!((got - rate).abs() <= 1e-15, "{:?} step {step}: {got}, expected {rate}", schedule.shape);
    }
}

#[test]
fn rates_follow_the_formulas() {
    let new = |shape| LrSchedule::new(shape, 1e-3, 10, 110);
    for &shape in Shape::value_variants() {
        assert_rates(new(shape), &[(0, 0.0), (5, 5e-4), (10, 1e-3)]);
    }
    assert_rates(new(Shape::Constant), &[(60, 1e-3), (110, 1e-3)]);
    assert_rates(new(Shape::Linear), &[(35, 7.5e-4), (60, 5e-4), (110, 0.0), (200, 0.0)]);
    let quarter = 0.5 * (1.0 + 0.5f64.sqrt());
    assert_rates(new(Shape::Cosine), &[(35, 1e-3 * quarter), (60, 5e-4), (110, 0.0)]);
    let restarts = LrSchedule { cycles: 2.0, ..new(Shape::CosineRestarts) };
    assert_rates(restarts, &[(35, 5e-4), (60, 1e-3), (85, 5e-4), (110, 0.0)]);
    let polynomial = LrSchedule { power: 2.0, ..new(Shape::Polynomial) };
    let range = 1e-3 - 1e-7;
    assert_rates(polynomial, &[(60, range * 0.25 + 1e-7), (110, 1e-7), (111, 1e-7)]);
}

#[test]
fn degenerate_lengths_give_finite_rates() {
    for &shape in Shape::value_variants() {
        for (warmup, steps) in [(0, 1), (1, 1), (5, 5), (0, 0), (9, 3)] {
            let schedule = LrSchedule::new(shape, 1e-3, warmup, steps);
            for step in 0..=steps {
                let rate = schedule.at(step);
                assert!((0.0..=1e-3).contains(&rate), "{shape:?} {warmup}/{steps} step {step}: {rate}");
            }
        }
    }
}

/// The list that a GPU looks rates up in: its last rate stands for all that follow.
#[test]
fn a_list_has_every_rate_of_a_run() {
    for &shape in Shape::value_variants() {
        for (warmup, steps) in [(0, 1), (3, 20), (5, 5), (0, 0), (9, 3)] {
            let schedule = LrSchedule::new(shape, 1e-3, warmup, steps);
            let rates = schedule.rates();
            for step in 0..steps {
                let listed = rates[(step as usize).min(rates.len() - 1)];
                assert_eq!(listed, schedule.at(step), "{shape:?} {warmup}/{steps} step {step}");
            }
            assert!(!rates.is_empty() && (shape != Shape::Constant || rates.len() as u64 <= warmup + 1));
        }
    }
}

#[test]
fn names_of_diffusers_are_understood() {
    assert_eq!(Shape::parse("cosine_with_restarts").unwrap(), Shape::CosineRestarts);
    assert_eq!(Shape::parse("constant_with_warmup").unwrap(), Shape::Constant);
    let error = crate::message(Shape::parse("cosin"));
    assert!(error.contains("`cosin`") && error.contains("cosine-restarts"), "{error}");
}

/// Values of `diffusers.get_scheduler` 0.42.1 with `num_cycles=2` and `power=2`.
#[test]
fn cycles_and_power_are_settings() {
    let config =
        |text: &str| selma::train::config::TrainConfig::from_toml(&format!("lr = 1\nsteps = 10\n{text}")).unwrap();
    let restarts = config("lr-schedule = 'cosine-restarts'\nlr_scheduler_num_cycles = 2").schedule();
    for (step, expected) in [(0, 1.0), (3, 0.345_491_502_812_526_3), (5, 1.0), (9, 0.095_491_502_812_526_27)] {
        assert!((restarts.at(step) - expected).abs() < 1e-12, "step {step}: {}", restarts.at(step));
    }
    let polynomial = config("lr-schedule = 'polynomial'\nlr-scheduler-power = 2").schedule();
    assert!((polynomial.at(5) - ((1.0 - 1e-7) * 0.25 + 1e-7)).abs() < 1e-12);
}
