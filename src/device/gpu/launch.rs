//! The launch builder: arguments in the kernel's order, each checked against the kernel's own text.

use super::argument::{Argument, Launch, Role, most_shared_bytes};
use super::graph::Command;
use super::table::{Kernel, Kind};
use super::tensor_map::TensorMap;
use super::{Buffer, Gpu};
use crate::dtype::DType;
use crate::error::{Error, Result};

/// Blocks of a grid along x, y and z.
pub(super) const MOST_BLOCKS: [usize; 3] = [(1 << 31) - 1, (1 << 16) - 1, (1 << 16) - 1];

/// What a kernel reads or writes: a tensor on a GPU, or a [`Buffer`].
pub trait Operand {
    /// Where it is; none on the CPU.
    fn span(&self) -> Option<Span<'_>>;
}

/// Typed elements in a GPU's memory.
pub struct Span<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) address: u64,
    pub(super) bytes: usize,
    pub(super) dtype: DType,
}

impl Operand for Buffer {
    fn span(&self) -> Option<Span<'_>> {
        Some(self.span_of(0, self.len()))
    }
}

/// Elements of `dtype` that kernels move at once: `PACK` of `kernels/scalar.h`, 16 bytes.
pub(crate) fn pack(dtype: DType) -> usize {
    16 / dtype.size()
}

/// Collects a launch, and borrows its operands until then; the first mistake is told by [`Launcher::launch`].
pub struct Launcher<'a> {
    gpu: &'a Gpu,
    kernel: &'static Kernel,
    scalar: DType,
    grid: [usize; 3],
    block: usize,
    dynamic_bytes: usize,
    arguments: Vec<Argument>,
    mistake: Option<String>,
}

impl<'a> Launcher<'a> {
    pub(super) fn new(gpu: &'a Gpu, kernel: &'static Kernel, scalar: DType) -> Self {
        let builder = Self {
            gpu,
            kernel,
            scalar,
            grid: [1; 3],
            block: 0,
            dynamic_bytes: 0,
            arguments: Vec::new(),
            mistake: None,
        };
        if kernel.hopper && !gpu.runs_hopper() {
            let needs = "compute capability 9.0 and a driver that makes tensor maps";
            return builder.wrong(format!("needs {needs}, which {} lacks", gpu.name()));
        }
        match scalar {
            DType::F32 if !kernel.hopper => builder,
            DType::Bf16 | DType::F16 => builder,
            other => builder.wrong(format!("is not compiled for {}", other.name())),
        }
    }

    /// Blocks along x, y and z. With none along one of them nothing is launched.
    pub fn grid(mut self, grid: [usize; 3]) -> Self {
        self.grid = grid;
        self
    }

    /// Threads of a block.
    pub fn block(mut self, threads: usize) -> Self {
        self.block = threads;
        self
    }

    /// Bytes of dynamic shared memory.
    pub fn dynamic_shared(mut self, bytes: usize) -> Self {
        self.dynamic_bytes = bytes;
        self
    }

    /// What the kernel writes completely.
    pub fn output(self, x: &'a impl Operand) -> Self {
        self.memory(x, Role::Output)
    }

    /// An output that may be missing.
    pub fn output_if(self, x: Option<&'a impl Operand>) -> Self {
        match (x, self.expected()) {
            (Some(x), _) => self.output(x),
            (None, Some(Kind::Mutable(_))) => self.push(Argument::Null),
            (None, _) => self.unexpected(Argument::Null),
        }
    }

    /// What the kernel reads and writes, or writes in part.
    pub fn update(self, x: &'a impl Operand) -> Self {
        self.memory(x, Role::Update)
    }

    pub fn input(self, x: &'a impl Operand) -> Self {
        self.memory(x, Role::Input)
    }

    /// An input that may be missing.
    pub fn input_if(self, x: Option<&'a impl Operand>) -> Self {
        match (x, self.expected()) {
            (Some(x), _) => self.input(x),
            (None, Some(Kind::Const(_))) => self.push(Argument::Null),
            (None, _) => self.unexpected(Argument::Null),
        }
    }

    /// Boxes of an operand, which the kernel reads.
    pub fn input_map(self, x: &'a impl Operand, map: TensorMap) -> Self {
        self.map(x, map, Role::Input)
    }

    /// Boxes of an operand, which the kernel writes.
    #[cfg(all(test, feature = "simulator"))]
    pub fn output_map(self, x: &'a impl Operand, map: TensorMap) -> Self {
        self.map(x, map, Role::Output)
    }

    pub fn int(self, x: usize) -> Self {
        match i32::try_from(x) {
            Ok(x) => self.number(Argument::Int(x), Kind::Int),
            Err(_) => {
                let name = self.parameter_name();
                self.wrong(format!("argument `{name}` is {x}, more than an int holds"))
            }
        }
    }

    pub fn unsigned(self, x: u32) -> Self {
        self.number(Argument::Unsigned(x), Kind::Unsigned)
    }

    /// A size or a count.
    pub fn long(self, x: usize) -> Self {
        self.number(Argument::Long(x as i64), Kind::Long)
    }

    /// 64 bits as they are.
    pub fn bits(self, x: u64) -> Self {
        self.number(Argument::Long(x.cast_signed()), Kind::Long)
    }

    pub fn float(self, x: f32) -> Self {
        self.number(Argument::Float(x), Kind::Float)
    }

    /// Queues the launch.
    ///
    /// # Errors
    /// [`Error::Failed`] naming kernel and parameter where an argument does not fit; what the device says.
    pub fn launch(self) -> Result<()> {
        let misfit = self.misfit();
        let Self { gpu, kernel, arguments, .. } = self;
        if let Some(sentence) = self.mistake.or(misfit) {
            return Err(Error::Failed(format!("kernel {}: {sentence}", kernel.name)));
        }
        if self.grid.contains(&0) {
            return Ok(());
        }
        gpu.queue(Command::Launch(Launch {
            kernel,
            scalar: self.scalar,
            grid: self.grid.map(|blocks| blocks as u32),
            block: self.block as u32,
            dynamic_bytes: self.dynamic_bytes,
            arguments,
        }))
    }

    /// What is wrong with the launch as a whole.
    fn misfit(&self) -> Option<String> {
        let (threads, most) = (self.block, self.kernel.most_threads);
        let [x, y, z] = self.grid;
        // Tiles of tensor maps begin at multiples of 1024.
        let whole = if self.kernel.hopper { 1024 } else { 16 };
        if self.arguments.len() < self.kernel.parameters.len() {
            let name = self.parameter_name();
            Some(format!("argument `{name}` and what follows are missing"))
        } else if threads == 0 || threads > most as usize || !threads.is_multiple_of(32) {
            Some(format!("blocks of {threads} threads; expected a multiple of 32 up to {most}"))
        } else if self.grid.iter().zip(MOST_BLOCKS).any(|(&blocks, most)| blocks > most) {
            Some(format!("a grid of {x} x {y} x {z} blocks is too large"))
        } else if self.dynamic_bytes > most_shared_bytes(self.kernel) || !self.dynamic_bytes.is_multiple_of(whole) {
            let (bytes, most) = (self.dynamic_bytes, most_shared_bytes(self.kernel));
            Some(format!("{bytes} bytes of dynamic shared memory; expected a multiple of {whole} up to {most}"))
        } else {
            self.overlap()
        }
    }

    fn memory(self, x: &impl Operand, role: Role) -> Self {
        let expected = match self.expected() {
            Some(Kind::Const(element)) if role == Role::Input => element,
            Some(Kind::Mutable(element)) if role != Role::Input => element,
            _ => return self.unexpected(Argument::Memory { address: 0, bytes: 0, role }),
        };
        match self.placed(x, expected.dtype(self.scalar)) {
            Ok((address, bytes)) => self.push(Argument::Memory { address, bytes, role }),
            Err(why) => self.wrong(why),
        }
    }

    /// Address and bytes of an operand on this device that holds `expected`, or what is wrong with it.
    fn placed(&self, x: &impl Operand, expected: DType) -> Result<(u64, usize), String> {
        let name = self.parameter_name();
        let Some(Span { address, bytes, dtype, .. }) = x.span().filter(|span| span.gpu == self.gpu) else {
            return Err(format!("argument `{name}` is not on {}", self.gpu.name()));
        };
        match dtype == expected {
            true => Ok((address, bytes)),
            false => Err(format!("argument `{name}` holds {}; expected {}", dtype.name(), expected.name())),
        }
    }

    fn map(self, x: &impl Operand, map: TensorMap, role: Role) -> Self {
        if self.expected() != Some(Kind::Map) {
            return self.unexpected(Argument::Map { map, address: 0, bytes: 0, role });
        }
        let name = self.parameter_name();
        let checked = |(address, bytes)| match map.check(address, bytes) {
            Ok(()) => Ok(Argument::Map { map, address, bytes, role }),
            Err(why) => Err(format!("the tensor map `{name}` {why}")),
        };
        match self.placed(x, self.scalar).and_then(checked) {
            Ok(argument) => self.push(argument),
            Err(why) => self.wrong(why),
        }
    }

    fn number(self, argument: Argument, kind: Kind) -> Self {
        if self.expected() == Some(kind) { self.push(argument) } else { self.unexpected(argument) }
    }

    fn push(mut self, argument: Argument) -> Self {
        self.arguments.push(argument);
        self
    }

    /// What the next argument must be.
    fn expected(&self) -> Option<Kind> {
        self.kernel.parameters.get(self.arguments.len()).map(|p| p.kind)
    }

    fn parameter_name(&self) -> &'static str {
        let parameter = self.kernel.parameters.get(self.arguments.len());
        parameter.map_or("(one too many)", |p| p.name)
    }

    fn unexpected(self, argument: Argument) -> Self {
        let (name, got) = (self.parameter_name(), argument.describe());
        match self.expected() {
            Some(kind) => self.wrong(format!("argument `{name}` is {got}; expected {kind:?}")),
            None => self.wrong("has fewer parameters than arguments were given".into()),
        }
    }

    /// Remembers the first mistake. Arguments after it are taken as they come.
    fn wrong(mut self, sentence: String) -> Self {
        self.mistake.get_or_insert(sentence);
        self
    }

    /// Two arguments that share memory of which one is written.
    fn overlap(&self) -> Option<String> {
        let memory = |argument: &Argument| {
            argument.memory().map(|(address, bytes, role)| (address, address + bytes as u64, role))
        };
        let names = || self.kernel.parameters.iter().map(|p| p.name);
        for (i, (a, a_name)) in self.arguments.iter().zip(names()).enumerate() {
            for (b, b_name) in self.arguments.iter().zip(names()).skip(i + 1) {
                if let (Some((a, a_end, a_role)), Some((b, b_end, b_role))) = (memory(a), memory(b))
                    && (a_role != Role::Input || b_role != Role::Input)
                    && a < b_end
                    && b < a_end
                {
                    return Some(format!("arguments `{a_name}` and `{b_name}` share memory that is written"));
                }
            }
        }
        None
    }
}
