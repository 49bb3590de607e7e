"""Launches as `selma bench --launches` lists them."""

import functools
import json
import os
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Argument:
    """`kind` is input, output, update, null, int, unsigned, long or float; memory has its bytes, the others a value (of a
    float the bits)."""

    kind: str
    value: int = 0
    bytes: int = 0

    @property
    def is_memory(self):
        return self.kind in ("input", "output", "update")


@dataclass(frozen=True)
class Launch:
    kernel: str
    dtype: str
    grid: tuple[int, int, int]
    block: int
    shared: int
    arguments: tuple[Argument, ...]
    line: str

    @property
    def blocks(self):
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def memory_bytes(self):
        """Bytes that the launch must move at least: each array once, one that is updated twice."""
        times = {"input": 1, "output": 1, "update": 2}
        return sum(times[a.kind] * a.bytes for a in self.arguments if a.is_memory)

    @property
    def signature(self):
        """Equal for launches that do the same: addresses do not matter, how they are aligned does."""
        arguments = tuple((a.kind, a.value % 256 if a.is_memory else a.value, a.bytes) for a in self.arguments)
        return self.kernel, self.dtype, self.grid, self.block, self.shared, arguments

    def value(self, position):
        return self.arguments[position].value

    def addresses(self):
        """An address for each argument that is memory, far apart, aligned as recorded."""
        return [(i + 1 << 40) + a.value % 256 if a.is_memory else None for i, a in enumerate(self.arguments)]

    def parameters(self):
        """The bytes that the kernel is passed."""
        packed = b""
        for argument, address in zip(self.arguments, self.addresses()):
            size = 8 if argument.is_memory or argument.kind in ("null", "long") else 4
            packed += bytes(-len(packed) % size)
            value = address if argument.is_memory else argument.value
            packed += struct.pack("<Q" if size == 8 else "<I", value % (1 << 8 * size))
        return packed


def parse(launch):
    arguments = []
    for argument in launch["arguments"]:
        if argument == "null":
            arguments.append(Argument("null"))
            continue
        ((kind, value),) = argument.items()
        arguments.append(Argument(kind, *value) if isinstance(value, list) else Argument(kind, value))
    return Launch(launch["kernel"], launch["dtype"], tuple(launch["grid"]), launch["block"], launch["shared"],
                  tuple(arguments), json.dumps(launch))


def built(*profiles):
    """A selma that cargo built, or the one in PATH."""
    target = Path(os.environ.get("CARGO_TARGET_DIR") or Path(__file__).resolve().parents[2] / "target")
    return next((path for path in (target / profile / "selma" for profile in profiles) if path.exists()), "selma")


def use(selma):
    """Where the program is that lists launches and knows the kernels' parameters."""
    program.append(str(selma))


program = []


def run(*arguments, stdin=None):
    try:
        done = subprocess.run([program[-1], *arguments], stdout=subprocess.PIPE, text=True, input=stdin)
    except OSError as error:
        sys.exit(f"{program[-1]}: {error.strerror}; --selma names the program")
    if done.returncode:
        sys.exit(f"{program[-1]} {' '.join(arguments)}: exit status {done.returncode}")
    return done.stdout


@functools.cache
def parameters():
    return {kernel["kernel"]: kernel["parameters"] for kernel in json.loads(run("kernels", "--json"))}


def names_of(kernel):
    """Its parameters, in order."""
    return parameters()[kernel]


# Numbers that say how many blocks there are, not what one does: only the rest of a division by this matters.
COUNTS = {
    ("matmul_nt", "matmul_nn", "matmul_group"): ("m", 256),
    ("layer_norm", "geglu"): ("rows", 64),
    ("add_forward", "silu", "scale", "cast", "gelu"): ("n", 2048),
}


def work_of_a_block(launch):
    """Equal for launches whose blocks do the same: the batch does not matter."""
    names, values = names_of(launch.kernel), {}
    for name, argument in zip(names, launch.arguments):
        values[name] = (argument.kind, argument.value % 16 if argument.is_memory else argument.value)
    for kernels, (name, unit) in COUNTS.items():
        if launch.kernel.startswith(kernels):
            values[name] = values[name][1] % unit, launch.blocks > 1
    if launch.kernel.startswith("conv2d") and "slice" not in values:
        pixels = ("ho", "wo") if launch.kernel.startswith("conv2d_forward") else ("h", "w")
        values["n"] = values["n"][1] * values[pixels[0]][1] * values[pixels[1]][1] % 256
    grid = launch.grid if launch.kernel.startswith(("matmul_tn", "conv2d_wgrad", "sum_rows")) else launch.grid[0] > 1
    return launch.kernel, launch.dtype, launch.block, launch.shared, tuple(values.items()), grid


def described(launch):
    """A launch in words: numbers that are not 0, and inputs that are missing."""
    named = zip(names_of(launch.kernel), launch.arguments)
    words = [launch.kernel] if launch.dtype == "bf16" else [launch.kernel, launch.dtype]
    for name, argument in named:
        if argument.kind == "null":
            words.append(f"-{name}")
        elif argument.kind in ("int", "unsigned", "long") and argument.value:
            words.append(f"{name}={argument.value}")
    return " ".join(words)


def listed(case, batch):
    """What a step launches: the micro-batch's launches and those of its update; copies and zeros as bytes."""
    return listed_text(run("bench", case, "--launches", "--batch-size", str(batch)))


def listed_text(text):
    parts = {"micro_batch": ([], []), "update": ([], [])}
    for line in text.splitlines():
        entry = json.loads(line)
        ((kind, value),) = entry["command"].items()
        launches, moved = parts[entry["part"]]
        if kind == "launch":
            launches.append(parse(value))
        else:
            moved.append(2 * value if kind == "copy" else value)
    return parts
