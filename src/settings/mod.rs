//! Settings that are declared once. [`settings!`] turns one list of fields into a struct of resolved values with defaults
//! and ranges, and into the command line's options. A TOML file has the same keys and aliases as the command line.
//!
//! ```text
//! settings! {
//!     /// What the struct is for.
//!     pub struct TrainConfig, TrainOptions {
//!         /// Help on the command line. The default is appended to it.
//!         #[arg(long, alias = "learning-rate")]
//!         lr: f64 = 3e-4 => check::positive,
//!         /// Without a default the field is an `Option`.
//!         #[arg(long)]
//!         vae: PathBuf,
//!     }
//! }
//! ```
//!
//! Between `#[arg]` and the field, `#[aside]` marks a setting that does not change what a run computes.
//! `#[arg(skip)]` leaves a field out of the command line.

pub(crate) mod check;
mod keys;
mod names;
pub(crate) mod present;

pub(crate) use keys::Keys;
pub(crate) use names::named;

macro_rules! settings {
    (@kept $type:ty, $default:expr) => { $type };
    (@kept $type:ty,) => { Option<$type> };
    (@default $default:expr) => { $default };
    (@default) => { None };
    (
        $(#[$about:meta])*
        pub struct $Config:ident, $Options:ident {
            $(
                $(#[doc = $help:literal])+
                #[arg($($arg:tt)*)]
                $(#[$aside:ident])?
                $field:ident : $type:ty $(= $default:expr)? $(=> $check:expr)?
            ),* $(,)?
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, rename_all = "kebab-case")]
        pub struct $Config {
            $( $(#[doc = $help])+ pub $field: $crate::settings::settings!(@kept $type, $($default)?), )*
        }

        impl Default for $Config {
            fn default() -> Self {
                Self { $( $field: $crate::settings::settings!(@default $($default)?), )* }
            }
        }

        impl $Config {
            /// The names of the fields, as in Rust.
            const FIELDS: &'static [&'static str] = &[$( stringify!($field) ),*];

            /// These settings with the defaults in place of those that do not change what a run computes.
            pub fn deciding(&self) -> Self {
                let (mut config, defaults) = (self.clone(), Self::default());
                $( $( let _ = stringify!($aside); config.$field = defaults.$field; )? )*
                config
            }

            /// Checks each value against the range that is declared with it.
            fn check_ranges(&self) -> $crate::Result<()> {
                $( $(
                    if let Some(value) = Option::<&$type>::from(&self.$field) {
                        $check(&stringify!($field).replace('_', "-"), value)?;
                    }
                )? )*
                Ok(())
            }
        }

        /// The settings as options of the command line; `None` where an option is not given.
        #[derive(clap::Args, Debug, Default, Clone)]
        #[command(mut_args = $crate::settings::present::present(&$Config::default()))]
        pub struct $Options {
            $( $(#[doc = $help])+ #[arg($($arg)*)] $field: Option<$type>, )*
        }

        impl $Options {
            /// Puts the options that are given on top of `config`.
            pub fn apply(self, config: &mut $Config) {
                $( if let Some(value) = self.$field { config.$field = value.into(); } )*
            }
        }
    };
}
pub(crate) use settings;
