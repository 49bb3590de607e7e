"""Machine code of the kernels: nvcc compiles a kernel file for a target, nvdisasm prints it. NVCC and NVDISASM name the tools;
what was made is kept in ~/.cache/selma/analysis under a hash of everything that it depends on."""

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import machine

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
SCALARS = {"f32": "float", "bf16": "bf16", "f16": "f16"}


@dataclass
class Resources:
    """What a thread and a block take, as ptxas says."""

    registers: int
    spilled: int
    static_shared: int


def tool(name):
    found = os.environ.get(name.upper()) or shutil.which(name)
    if not found or not Path(found).is_file():
        sys.exit(f"{name} was found neither through {name.upper()} nor in PATH; packages nvidia-cuda-nvcc and "
                 "nvidia-cuda-nvdisasm have it (.ci/run says which versions)")
    return found


def cache():
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "selma" / "analysis"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.cache
def version(path):
    return subprocess.run([path, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout


@functools.cache
def file_of(kernels):
    """The kernel file that each kernel is in."""
    found = {}
    for path in sorted(kernels.glob("*.cu")):
        for name in re.findall(r"^KERNEL(?:_BOUNDS)?\((\w+)", path.read_text(), re.M):
            found[name] = path.stem
    return found


def listing(file, target, dtype, kernels=KERNELS):
    """nvdisasm's text and what ptxas said, of one kernel file."""
    nvcc, nvdisasm = tool("nvcc"), tool("nvdisasm")
    sources = [path.read_bytes() for path in [kernels / f"{file}.cu", *sorted(kernels.glob("*.h"))]]
    key = hashlib.sha256(b"\0".join([*sources, version(nvcc).encode(), version(nvdisasm).encode()])).hexdigest()[:16]
    base = cache() / f"{file}.{dtype}.{target}.{key}"
    text, said = base.with_name(base.name + ".sass"), base.with_name(base.name + ".ptxas")
    if not text.exists():
        cubin = base.with_name(f"{base.name}.{os.getpid()}.cubin")
        command = [nvcc, "-std=c++17", "-O3", "-cubin", f"-arch=sm_{target}", "-Xptxas", "-v", f"-Dscalar_t={SCALARS[dtype]}",
                   "-I", kernels, "-o", cubin, kernels / f"{file}.cu"]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{file}.cu for sm_{target}:\n{done.stderr}")
        said.write_text(done.stderr)
        printed = subprocess.run([nvdisasm, cubin], stdout=subprocess.PIPE, check=True).stdout
        cubin.unlink()
        partial = base.with_name(f"{base.name}.{os.getpid()}")
        partial.write_bytes(printed)
        partial.rename(text)
    return text.read_text(), said.read_text()


def resources(said):
    found, name = {}, None
    for line in said.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name = match[1]
            found[name] = Resources(0, 0, 0)
        elif name and (match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line)):
            found[name].spilled = int(match[1]) + int(match[2])
        elif name and (match := re.search(r"Used (\d+) registers", line)):
            found[name].registers = int(match[1])
            shared = re.search(r"(\d+) bytes smem", line)
            found[name].static_shared = int(shared[1]) if shared else 0
    return found


@functools.cache
def code(file, target, dtype, kernels=KERNELS):
    """The kernels of a file by name, each with its resources."""
    text, said = listing(file, target, dtype, kernels)
    all_resources = resources(said)
    return {name: (kernel, all_resources[name]) for name, kernel in machine.kernels(text).items() if name in all_resources}


def prepare(needed, kernels=KERNELS):
    """Compiles what is missing, side by side; `needed` are (file, target, dtype)."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda one: listing(*one, kernels), sorted(set(needed))))
