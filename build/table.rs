//! Writes the kernel table as Rust: `src/device/gpu/table.rs` includes it and has the types.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::SCALARS;
use crate::kind::{Element, Kind};
use crate::nvcc::Compiled;
use crate::ptx::Shipped;
use crate::scan::{Kernel, Source};
use crate::simulator::{VARIANTS, symbol};

/// How to run the kernels on the host, or why that cannot be.
pub fn runtime(simulator: &Result<(), String>) -> String {
    let (value, import) = match simulator {
        Ok(()) => (
            "Ok(sim_run_blocks)".to_owned(),
            "unsafe extern \"C\" { fn sim_run_blocks(launch: *const std::ffi::c_void, first: usize, end: usize, \
             message: *mut std::ffi::c_char, capacity: usize) -> bool; }\n",
        ),
        Err(why) => (format!("Err({why:?})"), ""),
    };
    format!(
        "/// The simulator's runtime, or what the build lacked.\npub const SIMULATOR: Result<RunBlocks, &str> = {value};\n{import}"
    )
}

/// The kernels of `files`.
pub fn kernels(files: &[Source], simulator: &Result<(), String>) -> String {
    let mut text = String::new();
    for file in files {
        for (name, value) in &file.constants {
            let _ = writeln!(text, "/// From `{}`.\npub const {name}: usize = {value};", file.name);
        }
        for kernel in &file.kernels {
            let _ = writeln!(
                text,
                "/// From `{}`.\npub static {}: Kernel = Kernel {{ name: {:?}, file: {:?}, most_threads: {}, \
                 parameters: &[{}], hopper: {}, simulated: {} }};",
                file.name,
                kernel.name.to_uppercase(),
                kernel.name,
                file.stem,
                kernel.most_threads,
                parameters(kernel),
                file.is_hopper(),
                if simulator.is_ok() { simulated(file, kernel) } else { "None".into() },
            );
        }
    }
    let mut kernels = files.iter().flat_map(|file| file.kernels.iter().map(move |kernel| (file, kernel))).peekable();
    if simulator.is_ok() && kernels.peek().is_some() {
        text.push_str("unsafe extern \"C\" {\n");
        for (file, kernel) in kernels {
            for name in symbols(file, kernel).flatten() {
                let _ = writeln!(text, "    fn {name}(arguments: *const *mut std::ffi::c_void);");
            }
        }
        text.push_str("}\n");
    }
    text
}

/// The list of them.
pub fn all(files: &[Source]) -> String {
    let kernels = files.iter().flat_map(|file| &file.kernels);
    let names: Vec<String> = kernels.map(|k| format!("&{}", k.name.to_uppercase())).collect();
    format!("/// Every kernel, by file.\npub static ALL: &[&Kernel] = &[{}];\n", names.join(", "))
}

/// What nvcc made: its version, fat binaries, and what each kernel takes on each target; and the shipped PTX. Or why there
/// is nothing.
pub fn cuda(cuda: &Result<Compiled, String>, shipped: &Result<Shipped, String>) -> String {
    let list = |images: &[(String, Vec<Option<PathBuf>>)]| {
        let images = images.iter().map(|(file, paths)| {
            let part =
                |path: &Option<PathBuf>| path.as_ref().map_or("&[]".into(), |p| format!("include_bytes!({p:?})"));
            let parts: Vec<String> = paths.iter().map(part).collect();
            format!("Image {{ file: {file:?}, scalars: [{}] }},\n", parts.join(", "))
        });
        images.collect::<String>()
    };
    let or = |list: Result<String, &String>| match list {
        Ok(list) => format!("Ok(&[\n{list}])"),
        Err(why) => format!("Err({why:?})"),
    };
    let rows = |compiled: &Compiled| {
        let rows = compiled.resources.iter().map(|r| {
            format!(
                "Resources {{ kernel: {:?}, dtype: {:?}, target: {:?}, registers: {}, spill_stores: {}, spill_loads: {}, \
                 static_shared: {}, stack: {} }},\n",
                r.kernel, r.scalar, r.target, r.registers, r.spill_stores, r.spill_loads, r.static_shared, r.stack
            )
        });
        rows.collect::<String>()
    };
    let toolkit = cuda.as_ref().map_or((0, 0), |compiled| compiled.toolkit);
    let ptx_toolkit = shipped.as_ref().map_or((0, 0), |shipped| shipped.toolkit);
    format!(
        "/// The version of the nvcc that compiled the kernels.\npub const TOOLKIT: (i32, i32) = {toolkit:?};\n\
         /// What its assembler said, or what the build lacked.\n\
         pub static RESOURCES: Result<&[Resources], &str> = {};\n\
         /// What it made, or what the build lacked.\npub static FATBINS: Result<&[Image], &str> = {};\n\
         /// The version of CUDA that made the shipped PTX.\npub const PTX_TOOLKIT: (i32, i32) = {ptx_toolkit:?};\n\
         /// That PTX, or why the build is without it.\npub static PTX: Result<&[Image], &str> = {};\n\
         /// That for compute capability 9.0 alone, of the files that have it.\npub static PTX_90: &[Image] = &[\n{}];\n",
        or(cuda.as_ref().map(rows)),
        or(cuda.as_ref().map(|compiled| list(&compiled.images))),
        or(shipped.as_ref().map(|shipped| list(&shipped.images))),
        shipped.as_ref().map_or(String::new(), |shipped| list(&shipped.images_90)),
    )
}

fn parameters(kernel: &Kernel) -> String {
    let element = |element| match element {
        Element::Scalar => "Element::Scalar",
        Element::F32 => "Element::F32",
        Element::I64 => "Element::I64",
    };
    let parameters = kernel.parameters.iter().map(|parameter| {
        let kind = match parameter.kind {
            Kind::Mutable(e) => format!("Mutable({})", element(e)),
            Kind::Const(e) => format!("Const({})", element(e)),
            Kind::Int => "Int".into(),
            Kind::Unsigned => "Unsigned".into(),
            Kind::Long => "Long".into(),
            Kind::Float => "Float".into(),
            Kind::Map => "Map".into(),
        };
        format!("Parameter {{ name: {:?}, kind: Kind::{kind} }}", parameter.name)
    });
    parameters.collect::<Vec<_>>().join(", ")
}

/// The compilations of a kernel in the order of [`SCALARS`], those of a variant together; none where there is none.
fn symbols<'a>(file: &'a Source, kernel: &'a Kernel) -> impl Iterator<Item = Option<String>> + 'a {
    let scalars = file.scalars();
    VARIANTS.iter().flat_map(move |variant| scalars.map(|scalar| Some(symbol(variant, scalar?.0, &kernel.name))))
}

fn simulated(file: &Source, kernel: &Kernel) -> String {
    let function = |name: Option<String>| name.map_or("None".into(), |name| format!("Some({name})"));
    let names: Vec<String> = symbols(file, kernel).map(function).collect();
    let (plain, checked) = names.split_at(SCALARS.len());
    format!("Some(super::Simulated {{ plain: [{}], checked: [{}] }})", plain.join(", "), checked.join(", "))
}
