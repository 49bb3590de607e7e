"""Moves, special registers, constants and memory. Accesses to memory are counted as the hardware serves them: shared memory
in wavefronts of 32 banks, global memory in sectors of 32 bytes."""

import re

import numpy as np

from integers import predicate_target, put, put_pair, put_uniform, registry
from operands import (ALL, I64, LANES, RZ, U32, U64, Unknown, address, is_predicate, predicate, register, uniform,
                      uniform_register, word)

HANDLERS, handles = registry()
ONES = U32(0x3F803F80)


@handles("MOV")
def move(o, a):
    d, x = register(a[0]), word(a[1])
    return lambda w, m: put(w, d, x(w), m)


@handles("UMOV")
def move_uniform(o, a):
    d, x = uniform_register(a[0]), uniform(a[1])
    return lambda w, m: put_uniform(w, d, x(w))


@handles("CS2R")
def clear(o, a):
    d = register(a[0])
    if not a[1].startswith("SRZ"):
        raise Unknown(a[1])
    return (lambda w, m: put(w, d, U32(0), m)) if "32" in o else (lambda w, m: put_pair(w, d, U64(0), m))


SPECIAL = {
    "SR_TID.X": lambda w: w.thread, "SR_TID.Y": lambda w: U32(0), "SR_TID.Z": lambda w: U32(0),
    "SR_LANEID": lambda w: np.arange(LANES, dtype=U32), "SR_CgaCtaId": lambda w: U32(0),
    "SR_CTAID.X": lambda w: U32(w.block[0]), "SR_CTAID.Y": lambda w: U32(w.block[1]), "SR_CTAID.Z": lambda w: U32(w.block[2]),
}


@handles("S2R")
def read_special(o, a):
    d, read = register(a[0]), SPECIAL.get(a[1])
    if read is None:
        raise Unknown(a[1])
    return lambda w, m: put(w, d, read(w), m)


@handles("S2UR")
def read_special_uniform(o, a):
    d, read = uniform_register(a[0]), SPECIAL.get(a[1])
    if read is None or a[1].startswith("SR_TID"):
        raise Unknown(a[1])
    return lambda w, m: put_uniform(w, d, int(read(w)))


@handles("R2UR")
def to_uniform(o, a):
    d, x = uniform_register(a[-2]), word(a[-1])
    return lambda w, m: put_uniform(w, d, int(np.broadcast_to(x(w), LANES)[int(np.argmax(m))]))


@handles("LDC", "ULDC")
def load_constant(o, a):
    match = re.match(r"^c\[0x0\]\[(?:(R\d+|RZ)\+?)?(0x[0-9a-f]+)?\]$", a[1])
    if not match:
        raise Unknown(a[1])
    at, words = int(match[2] or "0", 16), 2 if "64" in o else 1
    if o[0] == "ULDC":
        d = uniform_register(a[0])
        return lambda w, m: [put_uniform(w, d + i, w.constant(0, at + 4 * i)) for i in range(words)]
    d, base = register(a[0]), word(match[1]) if match[1] else None

    def run(w, m):
        offsets = np.zeros(LANES, I64) if base is None else base(w).astype(I64)
        for i in range(words):
            put(w, d + i, np.array([w.constant(0, int(x) + at + 4 * i) for x in offsets], U32), m)

    return run


@handles("SEL")
def select(o, a):
    d, x, y, first = register(a[0]), word(a[1]), word(a[2]), predicate(a[3])
    return lambda w, m: put(w, d, np.where(first(w), x(w), y(w)), m)


@handles("USEL")
def select_uniform(o, a):
    d, x, y, first = uniform_register(a[0]), uniform(a[1]), uniform(a[2]), predicate(a[3])
    return lambda w, m: put_uniform(w, d, x(w) if first(w)[0] else y(w))


@handles("PRMT")
def permute(o, a):
    d, x, which, y = register(a[0]), word(a[1]), word(a[2]), word(a[3])

    def run(w, m):
        both = np.broadcast_to(x(w), LANES).astype(U64) | np.broadcast_to(y(w), LANES).astype(U64) << U64(32)
        selector, result = np.broadcast_to(which(w), LANES), np.zeros(LANES, U32)
        for i in range(4):
            choice = selector >> U32(4 * i) & U32(15)
            byte = (both >> ((choice & U32(7)) * U32(8)).astype(U64) & U64(255)).astype(U32)
            # The eighth bit of a choice asks for the byte's sign, eight times.
            byte = np.where(choice & U32(8), np.where(byte & U32(128), U32(255), U32(0)), byte)
            result |= byte << U32(8 * i)
        put(w, d, result, m)

    return run


@handles("P2R")
def from_predicates(o, a):
    d, keep, mask = register(a[0]), word(a[2]), int(a[3], 16) if len(a) > 3 else 0x7F

    def run(w, m):
        bits = sum(w.p[i].astype(U32) << U32(i) for i in range(7))
        put(w, d, bits & U32(mask) | keep(w) & U32(~mask & 0xFFFFFFFF), m)

    return run


@handles("R2P")
def to_predicates(o, a):
    x, mask = word(a[1]), int(a[2], 16)

    def run(w, m):
        bits = np.broadcast_to(x(w), LANES)
        for i in range(7):
            if mask >> i & 1:
                np.copyto(w.p[i], bits >> U32(i) & U32(1) != 0, where=m)

    return run


@handles("SHFL")
def shuffle(o, a):
    if o[1] != "BFLY":
        raise Unknown("SHFL." + o[1])
    d, x, mask = register(a[1]), word(a[2]), int(a[3], 0)
    order = np.arange(LANES) ^ mask
    out = predicate_target(a[0])

    def run(w, m):
        put(w, d, np.broadcast_to(x(w), LANES)[order], m)
        out(w, np.ones(LANES, bool), m)

    return run


def return_address(operands):
    return word(operands[0].split()[0])


# ---- memory ----
def width(o):
    """Bytes a lane."""
    for part, size in (("128", 16), ("64", 8), ("U16", 2), ("S16", 2), ("U8", 1), ("S8", 1)):
        if part in o:
            return size
    return 4


def wavefronts(at, size):
    """Of one access to shared memory: lanes go 8, 16 or 32 at a time; each bank gives one word a wavefront."""
    total, together = 0, {16: 8, 8: 16}.get(size, 32)
    for group in at:
        words = {int(x) // 4 + i for x in group for i in range(max(1, size // 4))}
        banks = np.bincount([x % 32 for x in words], minlength=1) if words else [0]
        total += int(max(banks))
    return total


def shared(w, name, size, at, m):
    entry = w.shared[name, size]
    entry[0] += 1
    if not m.any():
        return
    base = int(at[m].min()) & ~127
    relative = np.where(m, at - base, -1)
    key = size, relative.tobytes()
    if key not in w.patterns:
        together = {16: 8, 8: 16}.get(size, 32)
        groups = [[x for x in relative[i : i + together] if x >= 0] for i in range(0, LANES, together)]
        w.patterns[key] = wavefronts(groups, size)
    entry[1] += w.patterns[key]


def whole(w, name, size, at, m):
    entry = w.whole[name, size]
    entry[0] += 1
    if not m.any():
        return
    active = at[m]
    relative = active - (int(active.min()) & ~31)
    key = 0, size, relative.tobytes()
    if key not in w.patterns:
        w.patterns[key] = len({int(x) // 32 for x in relative} | {(int(x) + size - 1) // 32 for x in relative})
    entry[1] += w.patterns[key]
    if w.trace:
        w.touched.append((name, size, active))


def loaded(w, d, size, m):
    for i in range(max(1, size // 4)):
        if d != RZ:
            put(w, d + i, ONES if size > 2 else U32(0x3F80), m)


@handles("LDG")
def load_global(o, a):
    d, at, size = register(a[0]), address(a[-1] if not is_predicate(a[-1]) else a[-2]), width(o)
    extra = predicate(a[-1]) if is_predicate(a[-1]) else None

    def run(w, m):
        active = m if extra is None else m & extra(w)
        whole(w, "LDG", size, at(w), active)
        loaded(w, d, size, m)

    return run


@handles("STG")
def store_global(o, a):
    at, size = address(a[0]), width(o)
    return lambda w, m: whole(w, "STG", size, at(w), m)


@handles("LDS")
def load_shared(o, a):
    d, at, size = register(a[0]), address(a[1]), width(o)

    def run(w, m):
        shared(w, "LDS", size, at(w), m)
        loaded(w, d, size, m)

    return run


@handles("STS")
def store_shared(o, a):
    at, size = address(a[0]), width(o)
    return lambda w, m: shared(w, "STS", size, at(w), m)


@handles("LDSM")
def load_matrices(o, a):
    at = address(a[1])
    return lambda w, m: shared(w, "LDSM", 16, at(w), m)


@handles("LDGSTS")
def copy_to_shared(o, a):
    to, source, size = address(a[0]), address(a[1]), width(o)
    there = predicate(a[2]) if len(a) > 2 else None

    def run(w, m):
        shared(w, "LDGSTS", size, to(w), m)
        whole(w, "LDGSTS", size, source(w), m if there is None else m & there(w))

    return run


@handles("STL", "LDL")
def spilled(o, a):
    raise Unknown("spills: local memory is not emulated")
