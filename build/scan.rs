//! Reads the kernels of a `.cu` file and their parameters from its text, as `kernels/kernel.h` describes them.

use std::path::{Path, PathBuf};

use crate::SCALARS;
use crate::kind::{Element, Kind};

pub struct Source {
    pub path: PathBuf,
    /// The file's name.
    pub name: String,
    /// The file's name without extension.
    pub stem: String,
    pub kernels: Vec<Kernel>,
    /// `CONSTANT(name, value)`.
    pub constants: Vec<(String, u32)>,
}

impl Source {
    /// Whether the kernels are for compute capability 9.0 alone, in 16 bits.
    pub fn is_hopper(&self) -> bool {
        self.stem.ends_with("_hopper")
    }

    /// The storage types that the file is compiled for, none in place of others, in the order of [`SCALARS`].
    pub fn scalars(&self) -> [Option<(&'static str, &'static str)>; 3] {
        SCALARS.map(|scalar| (!self.is_hopper() || scalar.0 != "f32").then_some(scalar))
    }
}

pub struct Kernel {
    pub name: String,
    pub most_threads: u32,
    pub parameters: Vec<Parameter>,
}

pub struct Parameter {
    pub name: String,
    pub kind: Kind,
}

/// Reads a kernel file, or a header for its constants. Kernels may use the constants of `headers`.
///
/// # Errors
/// A sentence on what is not as `kernel.h` says.
pub fn scan(path: &Path, text: &str, headers: &[Source]) -> Result<Source, String> {
    let text: String = text.lines().map(without_comment).collect::<Vec<_>>().join("\n");
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut source = Source {
        path: path.into(),
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        stem,
        kernels: Vec::new(),
        constants: Vec::new(),
    };
    for (arguments, _) in macros(&text, "CONSTANT") {
        let [name, value] = arguments[..] else {
            return Err(format!("CONSTANT({}): expected a name and a value", arguments.join(", ")));
        };
        let value = value.parse().map_err(|_| format!("CONSTANT({name}, {value}): expected a whole number"))?;
        source.constants.push((name.into(), value));
    }
    for (arguments, after) in macros(&text, "KERNEL") {
        source.kernels.push(kernel(arguments[0], 1024, after)?);
    }
    for (arguments, after) in macros(&text, "KERNEL_BOUNDS") {
        let [name, threads, _] = arguments[..] else {
            return Err(format!("KERNEL_BOUNDS({}): expected three arguments", arguments.join(", ")));
        };
        let constants = headers.iter().chain([&source]).flat_map(|source| &source.constants);
        let constant = constants.into_iter().find(|(name, _)| name == threads).map(|&(_, value)| value);
        let threads = constant
            .or_else(|| threads.parse().ok())
            .ok_or_else(|| format!("{name}: its threads are `{threads}`; expected a whole number or a CONSTANT"))?;
        source.kernels.push(kernel(name, threads, after)?);
    }
    Ok(source)
}

fn without_comment(line: &str) -> &str {
    line.find("//").map_or(line, |at| &line[..at])
}

/// Every `name(arguments)` that begins a line, with the text behind it.
fn macros<'a>(text: &'a str, name: &str) -> Vec<(Vec<&'a str>, &'a str)> {
    let begins_line = |at: usize| text[..at].rsplit('\n').next().is_some_and(|line| line.trim().is_empty());
    let opening = format!("{name}(");
    let calls = text.match_indices(&opening).filter(|&(at, _)| begins_line(at));
    calls.map(|(at, _)| parenthesized(&text[at + name.len()..])).collect()
}

/// The parts between the parenthesis that `text` begins with and the one that closes it, and the text behind.
fn parenthesized(text: &str) -> (Vec<&str>, &str) {
    let close = text.find(')').unwrap_or(text.len());
    (text[1..close].split(',').map(str::trim).collect(), text[close..].get(1..).unwrap_or_default())
}

fn kernel(name: &str, most_threads: u32, after: &str) -> Result<Kernel, String> {
    let (parameters, _) = parenthesized(after.trim_start());
    let parameters: Result<_, _> = parameters.into_iter().map(parameter).collect();
    Ok(Kernel { name: name.into(), most_threads, parameters: parameters.map_err(|e| format!("{name}: {e}"))? })
}

fn parameter(text: &str) -> Result<Parameter, String> {
    let words: Vec<&str> = text.split_whitespace().filter(|&w| w != "__restrict__").collect();
    let (name, kind) = words.split_last().ok_or("a parameter is empty")?;
    let kind = match kind.join(" ").as_str() {
        "int" => Kind::Int,
        "unsigned" => Kind::Unsigned,
        "long long" => Kind::Long,
        "float" => Kind::Float,
        "TENSOR_MAP" => Kind::Map,
        pointer => {
            let (pointee, reads) = match pointer.strip_prefix("const ") {
                Some(rest) => (rest, true),
                None => (pointer, false),
            };
            let element = match pointee {
                "scalar_t*" => Element::Scalar,
                "float*" => Element::F32,
                "long long*" => Element::I64,
                _ => return Err(format!("`{text}` is of a type that build/scan.rs does not know")),
            };
            if reads { Kind::Const(element) } else { Kind::Mutable(element) }
        }
    };
    Ok(Parameter { name: (*name).into(), kind })
}
