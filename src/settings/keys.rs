//! The keys of a settings file: the names and aliases of the command line's options.

use toml::Value;

use crate::error::{Error, Result};

/// The keys of one list of settings, with the other names that they go by.
pub struct Keys(Vec<Key>);

struct Key {
    name: String,
    aliases: Vec<String>,
    /// Takes several values.
    many: bool,
    /// Separates several values in one text.
    delimiter: Option<char>,
}

impl Keys {
    /// Of the `fields` of a struct and the options made from them. Fields that are no option of their own are keys too.
    pub fn new<Options: clap::Args>(fields: &[&str]) -> Self {
        let command = Options::augment_args(clap::Command::new("settings"));
        let key = |field: &&str| {
            let name = field.replace('_', "-");
            let Some(arg) = command.get_arguments().find(|arg| arg.get_id() == *field) else {
                return Key { name, aliases: Vec::new(), many: false, delimiter: None };
            };
            Key {
                name,
                aliases: arg.get_all_aliases().unwrap_or_default().into_iter().map(str::to_owned).collect(),
                many: matches!(arg.get_action(), clap::ArgAction::Append),
                delimiter: arg.get_value_delimiter(),
            }
        };
        Self(fields.iter().map(key).collect())
    }

    /// Adds a name that only files know.
    pub fn with_alias(mut self, alias: &str, name: &str) -> Self {
        let key = self.0.iter_mut().find(|key| key.name == name).expect("an alias of a key");
        key.aliases.push(alias.into());
        self
    }

    /// The same table under our names. Keys may have `_` for `-`. A key that takes several values may have one text, with
    /// the command line's separator.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown key, with the closest known one, or for a key given twice.
    pub fn canonical(&self, table: toml::Table) -> Result<toml::Table> {
        let mut result = toml::Table::new();
        for (given, value) in table {
            let spelled = given.replace('_', "-");
            let Some(key) = self.0.iter().find(|key| key.name == spelled || key.aliases.contains(&spelled)) else {
                return Err(self.unknown(&given, &spelled));
            };
            if result.insert(key.name.clone(), key.values(value)).is_some() {
                return Err(Error::Usage(format!("`{given}`: `{}` is given twice, under two names", key.name)));
            }
        }
        Ok(result)
    }

    fn unknown(&self, given: &str, spelled: &str) -> Error {
        let known = self.0.iter().flat_map(|key| std::iter::once(&key.name).chain(&key.aliases));
        let similarity = |key: &&String| strsim::jaro_winkler(spelled, key);
        let closest = known.max_by(|a, b| similarity(a).total_cmp(&similarity(b))).expect("there are keys");
        Error::Usage(format!("unknown key `{given}`; the closest known one is `{closest}`"))
    }
}

impl Key {
    fn values(&self, value: Value) -> Value {
        match value {
            Value::String(text) if self.many => match self.delimiter {
                Some(delimiter) => Value::Array(text.split(delimiter).map(|part| part.trim().into()).collect()),
                None => Value::Array(vec![Value::String(text)]),
            },
            value => value,
        }
    }
}
