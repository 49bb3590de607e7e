//! What all options of a list of settings have in common on the command line.

use std::any::TypeId;

use clap::Arg;
use clap::builder::StyledStr;
use serde::Serialize;

/// Appends the value in `defaults` to an option's help, takes a flag's value after `=`, and leaves negative numbers and
/// the case of names to the checks of the values.
pub fn present<T: Serialize>(defaults: &T) -> impl Fn(Arg) -> Arg + use<T> {
    let defaults = toml::Table::try_from(defaults).expect("settings are a table");
    move |arg| {
        let Some(default) = defaults.get(&arg.get_id().as_str().replace('_', "-")) else {
            return with_type(arg);
        };
        let help = arg.get_help().map_or(String::new(), StyledStr::to_string);
        let default = display(default);
        match default.is_empty() || help.contains("[default") {
            true => with_type(arg),
            false => with_type(arg).help(format!("{} [default: {default}]", help.trim_end_matches('.'))),
        }
    }
}

fn with_type(arg: Arg) -> Arg {
    let names = !arg.get_possible_values().is_empty();
    let parser = arg.get_value_parser().type_id();
    if parser == TypeId::of::<bool>() && !matches!(arg.get_action(), clap::ArgAction::SetTrue) {
        return arg.num_args(0..=1).default_missing_value("true").require_equals(true);
    }
    if parser == TypeId::of::<f64>() {
        return arg.allow_negative_numbers(true);
    }
    arg.ignore_case(names)
}

/// A default as one would type it; empty where it is an empty text or list.
fn display(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Boolean(true) => "on".into(),
        toml::Value::Boolean(false) => "off".into(),
        toml::Value::Float(number) if *number != 0.0 && number.abs() < 1e-2 => format!("{number:e}"),
        toml::Value::Float(number) => number.to_string(),
        toml::Value::Array(list) => list.iter().map(display).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
