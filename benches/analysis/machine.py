"""Machine code as nvdisasm prints it: the instructions of a kernel, and the pipe that each goes through."""

import re
from dataclasses import dataclass, field

SECTION = re.compile(r"^\.text\.(\w+):")
CONSTANTS = re.compile(r"^\.nv\.constant2\.(\w+):")
DATA = re.compile(r"^\s*/\*[0-9a-f]{4,6}\*/\s+\.(byte|short|word)\s+(.*)$")
LABEL = re.compile(r"^\s*([.$][\w$.]+):")
INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,6})\*/\s+(.*?)\s*;")

# What an instruction occupies besides its issue slot; everything else is control.
PIPES = {
    "tensor": "HMMA",
    "fma": "FFMA FADD FMUL",
    "imad": "IMAD HFMA2",
    "alu": "IADD3 IADD LOP3 SHF LEA ISETP SEL MOV PRMT IABS VIADD VIMNMX IMNMX VIADDMNMX PLOP3 FMNMX FSETP FSEL F2FP CS2R "
    "P2R R2P FCHK I2FP SGXT BMSK LOP IDP VABSDIFF",
    "mufu": "MUFU F2I I2F FRND F2F FLO POPC I2I",
    "memory": "LDSM LDS STS LDG STG LDGSTS SHFL LDL STL RED ATOMG",
    "system": "LDC S2R S2UR R2UR",
}
PIPE_OF = {name: pipe for pipe, names in PIPES.items() for name in names.split()}


@dataclass
class Instruction:
    address: int
    text: str
    guard: str | None = None
    opcode: list[str] = field(default_factory=list)
    operands: list[str] = field(default_factory=list)

    @property
    def name(self):
        return self.opcode[0]

    @property
    def pipe(self):
        if self.name in PIPE_OF:
            return PIPE_OF[self.name]
        return "uniform" if self.name.startswith("U") else "control"


@dataclass
class Kernel:
    name: str
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    # Constant bank 2: numbers that the compiler put beside the code.
    constants: bytes = b""

    @property
    def code_bytes(self):
        return self.instructions[-1].address + 16


def decode(address, text):
    guarded = re.match(r"^@(!?U?P\w+)\s+(.*)$", text)
    guard, rest = guarded.groups() if guarded else (None, text)
    opcode, _, operands = rest.partition(" ")
    # The parts of an address are separated by no comma; `.reuse` is a hint.
    operands = [part.strip().replace(".reuse", "") for part in operands.split(",")] if operands.strip() else []
    return Instruction(address, text, guard, opcode.split("."), operands)


def kernels(listing):
    """Every kernel of what nvdisasm prints, by name. Labels are addresses."""
    found, constants, current, pending = {}, {}, None, []
    for line in listing.splitlines():
        if match := SECTION.match(line):
            current, pending = found.setdefault(match[1], Kernel(match[1])), []
        elif match := CONSTANTS.match(line):
            current = constants.setdefault(match[1], bytearray())
        elif line.startswith("//---"):
            current = None
        elif isinstance(current, bytearray):
            if match := DATA.match(line):
                size = {"byte": 1, "short": 2, "word": 4}[match[1]]
                for value in match[2].split(","):
                    current += int(value, 0).to_bytes(size, "little")
        elif current is None:
            continue
        elif match := INSTRUCTION.match(line):
            instruction = decode(int(match[1], 16), match[2])
            current.labels.update({label: instruction.address for label in pending})
            pending = []
            current.instructions.append(instruction)
        elif match := LABEL.match(line):
            pending.append(match[1])
    for name, values in constants.items():
        if name in found:
            found[name].constants = bytes(values)
    return {name: kernel for name, kernel in found.items() if kernel.instructions}
