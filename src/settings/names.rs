//! Values that are one of a few names.

/// `parse` and serde of a [`clap::ValueEnum`] by the names and aliases of the command line, in any case of letters. The
/// second argument is what an error calls such a value.
macro_rules! named {
    ($type:ty, $noun:literal) => {
        impl $type {
            /// Reads a name or one of its aliases.
            ///
            /// # Errors
            /// [`crate::Error::Usage`] with the names that exist.
            pub fn parse(name: &str) -> $crate::Result<Self> {
                <Self as clap::ValueEnum>::from_str(name, true).map_err(|_| {
                    let names: Vec<String> =
                        <Self as clap::ValueEnum>::value_variants().iter().map(Self::name).collect();
                    $crate::Error::Usage(format!("{} `{name}`: expected one of {}", $noun, names.join(", ")))
                })
            }

            /// The name on the command line and in files.
            pub fn name(&self) -> String {
                let value = clap::ValueEnum::to_possible_value(self).expect("no value is hidden");
                value.get_name().to_owned()
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.name())
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = <String as serde::Deserialize>::deserialize(deserializer)?;
                Self::parse(&name).map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use named;
