//! A component's `config.json`, read key by key: a key that is not known, or a value that is not supported, is refused
//! by name instead of being ignored.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::formats::component;

pub struct Config {
    path: PathBuf,
    keys: Map<String, Value>,
    known: RefCell<BTreeSet<String>>,
}

impl Config {
    /// Reads a JSON object; one inside of a checkpoint by [`component::json`].
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::File`] where it is not a JSON object.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_value(path, component::json(path)?)
    }

    /// A configuration that is not in a file; errors call it `path`.
    ///
    /// # Errors
    /// [`Error::File`] where it is not a JSON object.
    pub fn from_value(path: &Path, value: Value) -> Result<Self> {
        match value {
            Value::Object(keys) => Ok(Self { path: path.into(), keys, known: RefCell::default() }),
            _ => Err(Error::file(path, "expected a JSON object")),
        }
    }

    /// The whole object, for a reader with rules of its own.
    pub fn into_value(self) -> Value {
        Value::Object(self.keys)
    }

    /// The value of a key, which is known from then on. A null is as good as nothing.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.known.borrow_mut().insert(key.into());
        self.keys.get(key).filter(|value| !value.is_null())
    }

    /// A refusal that names the key and its value.
    pub fn refuse(&self, key: &str, reason: &str) -> Error {
        let value = self.keys.get(key).unwrap_or(&Value::Null);
        Error::file(&self.path, format!("`{key}` is {value}: {reason}"))
    }

    /// A positive integer.
    ///
    /// # Errors
    /// [`Error::File`] naming the key for any other value, here and below.
    pub fn size(&self, key: &str, default: usize) -> Result<usize> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => positive(value).ok_or_else(|| self.refuse(key, "expected a positive integer")),
        }
    }

    /// One positive integer for each of `count` blocks, or one for all of them.
    ///
    /// # Errors
    /// [`Error::File`] naming the key for another value or number of values.
    pub fn size_each(&self, key: &str, default: usize, count: usize) -> Result<Vec<usize>> {
        let Some(value) = self.get(key) else {
            return Ok(vec![default; count]);
        };
        let sizes = match value {
            Value::Array(list) if list.len() == count => list.iter().map(positive).collect(),
            single => positive(single).map(|size| vec![size; count]),
        };
        let reason = format!("expected a positive integer, or a list of {count} of them, one a block");
        sizes.ok_or_else(|| self.refuse(key, &reason))
    }

    /// A list of positive integers that is not empty.
    ///
    /// # Errors
    /// [`Error::File`] naming the key for another value.
    pub fn sizes(&self, key: &str, default: &[usize]) -> Result<Vec<usize>> {
        match self.get(key) {
            None => Ok(default.to_vec()),
            Some(value) => (value.as_array())
                .filter(|list| !list.is_empty())
                .and_then(|list| list.iter().map(positive).collect())
                .ok_or_else(|| self.refuse(key, "expected a list of positive integers")),
        }
    }

    /// A number.
    ///
    /// # Errors
    /// [`Error::File`] naming the key for what is no number.
    pub fn number(&self, key: &str, default: f64) -> Result<f64> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or_else(|| self.refuse(key, "expected a number")),
        }
    }

    /// True or false.
    ///
    /// # Errors
    /// [`Error::File`] naming the key for what is neither true nor false.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.refuse(key, "expected true or false")),
        }
    }

    /// One of `names`; returns its place among them. Absent means the first.
    ///
    /// # Errors
    /// [`Error::File`] naming the key, and `names`, for another value.
    pub fn choice(&self, key: &str, names: &[&str]) -> Result<usize> {
        match self.get(key) {
            None => Ok(0),
            Some(value) => (value.as_str())
                .and_then(|found| names.iter().position(|&name| name == found))
                .ok_or_else(|| self.refuse(key, &format!("supported: {}", names.join(", ")))),
        }
    }

    /// A list with one of `names` for each of `count` blocks; returns their places among them.
    ///
    /// # Errors
    /// [`Error::File`] naming the key for another value or number of values.
    pub fn choices(&self, key: &str, names: &[&str], default: &[usize], count: usize) -> Result<Vec<usize>> {
        let found: Vec<usize> = match self.get(key) {
            None => default.to_vec(),
            Some(value) => (value.as_array())
                .and_then(|list| {
                    list.iter().map(|item| names.iter().position(|&name| item.as_str() == Some(name))).collect()
                })
                .ok_or_else(|| self.refuse(key, &format!("expected a list of {}", names.join(" or "))))?,
        };
        match found.len() == count {
            true => Ok(found),
            false => Err(self.refuse(key, &format!("expected {count} entries, as `block_out_channels` has"))),
        }
    }

    /// Keys that switch on something this engine does not do: each must be absent, null, or the value that is given.
    ///
    /// # Errors
    /// [`Error::File`] naming the key whose value is another.
    pub fn only(&self, supported: &[(&str, Value)]) -> Result<()> {
        for (key, only) in supported {
            if let Some(value) = self.get(key)
                && !same(value, only)
            {
                return Err(self.refuse(key, &format!("only {only} is supported")));
            }
        }
        Ok(())
    }

    /// Keys that may be false or a list of false.
    ///
    /// # Errors
    /// [`Error::File`] naming the key for another value.
    pub fn never(&self, key: &str) -> Result<()> {
        match self.get(key) {
            Some(Value::Array(list)) if list.iter().all(|item| item == &json!(false)) => Ok(()),
            None | Some(Value::Bool(false)) => Ok(()),
            Some(_) => Err(self.refuse(key, "only false is supported")),
        }
    }

    /// Keys that change nothing in what is computed here.
    pub fn ignore(&self, keys: &[&str]) {
        self.known.borrow_mut().extend(keys.iter().map(|key| key.to_string()));
    }

    /// Refuses keys that nobody asked for; those that begin with `_` are notes of the library that wrote the file.
    ///
    /// # Errors
    /// [`Error::File`] naming such a key.
    pub fn finish(&self) -> Result<()> {
        let known = self.known.borrow();
        match self.keys.keys().find(|key| !key.starts_with('_') && !known.contains(*key)) {
            Some(key) => Err(self.refuse(key, "this key is not known, and it may change what the model computes")),
            None => Ok(()),
        }
    }
}

fn positive(value: &Value) -> Option<usize> {
    value.as_u64().and_then(|v| usize::try_from(v).ok()).filter(|&v| v > 0 && v <= 1 << 24)
}

/// Equality that does not tell 1 from 1.0.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}
