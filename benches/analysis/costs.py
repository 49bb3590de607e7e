"""Costs of many launches: each distinct one is run once, on all cores, and remembered between runs of the tool."""

import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
from pathlib import Path

import build
import launches
import measure


EMULATOR = ["machine", "operands", "integers", "uniform", "arithmetic", "movement", "warp", "measure", "launches"]


def own_hash():
    """Of the emulator itself: another one may count differently."""
    sources = [(Path(__file__).parent / f"{name}.py").read_bytes() for name in EMULATOR]
    return hashlib.sha256(b"\0".join(sources)).hexdigest()


@functools.cache
def hash_of(file, target, dtype, name):
    kernel, _ = build.code(file, target, dtype)[name]
    code = "\n".join(f"{i.address:x} {i.text}" for i in kernel.instructions)
    return hashlib.sha256(code.encode() + kernel.constants).hexdigest()


def key_of(file, target, launch):
    code = hash_of(file, target, launch.dtype, launch.kernel)
    return hashlib.sha256(repr((code, target, launches.work_of_a_block(launch))).encode()).hexdigest()


def one(task):
    key, file, target, launch = task
    kernel, _ = build.code(file, target, launch.dtype)[launch.kernel]
    return key, dataclasses.asdict(measure.cost(kernel, target, launch))


def costs(listed, target):
    """For each launch its cost and its kernel's resources, by signature."""
    files = build.file_of(build.KERNELS)
    distinct = {launch.signature: launch for launch in listed}
    build.prepare((files[launch.kernel], target, launch.dtype) for launch in distinct.values())
    store = build.cache() / f"costs-{own_hash()[:16]}.json"
    known = json.loads(store.read_text()) if store.exists() else {}
    keys, tasks = {}, []
    for signature, launch in distinct.items():
        keys[signature] = key_of(files[launch.kernel], target, launch)
        if keys[signature] not in known and keys[signature] not in [task[0] for task in tasks]:
            tasks.append((keys[signature], files[launch.kernel], target, launch))
    # The longest first, so that the cores end together.
    tasks.sort(key=lambda task: -task[3].memory_bytes)
    if tasks:
        with multiprocessing.Pool(os.cpu_count()) as pool:
            known.update(pool.imap_unordered(one, tasks))
        partial = store.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(known))
        partial.rename(store)
    cost = lambda launch: measure.Cost(**known[keys[launch.signature]])
    taken = lambda launch: build.code(files[launch.kernel], target, launch.dtype)[launch.kernel][1]
    return {signature: (cost(launch), taken(launch)) for signature, launch in distinct.items()}
