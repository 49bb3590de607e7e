"""Floats and conversions. Only what integer divisions are made of must be exact: I2F, the reciprocal, F2I."""

import struct

import numpy as np

from integers import COMBINE, COMPARE, predicate_target, put, put_pair, registry
from operands import F32, I32, I64, LANES, U32, U64, Unknown, pair, predicate, real, register, word

HANDLERS, handles = registry()


def put_real(w, d, value, m):
    put(w, d, np.broadcast_to(np.asarray(value, F32), (LANES,)).copy().view(U32), m)


@handles("FADD")
def add(o, a):
    d, x, y = register(a[0]), real(a[1]), real(a[2])
    return lambda w, m: put_real(w, d, x(w) + y(w), m)


@handles("FMUL")
def multiply(o, a):
    d, x, y = register(a[0]), real(a[1]), real(a[2])
    return lambda w, m: put_real(w, d, x(w) * y(w), m)


@handles("FFMA")
def multiply_add(o, a):
    d, x, y, z, clip = register(a[0]), real(a[1]), real(a[2]), real(a[3]), "SAT" in o

    def run(w, m):
        value = x(w) * y(w) + z(w)
        put_real(w, d, np.clip(value, 0, 1) if clip else value, m)

    return run


@handles("FMNMX")
def smaller_or_larger(o, a):
    d, x, y, smaller = register(a[0]), real(a[1]), real(a[2]), predicate(a[3])
    return lambda w, m: put_real(w, d, np.where(smaller(w), np.fmin(x(w), y(w)), np.fmax(x(w), y(w))), m)


@handles("FSEL")
def select(o, a):
    d, x, y, first = register(a[0]), word(a[1]), word(a[2]), predicate(a[3])
    return lambda w, m: put(w, d, np.where(first(w), x(w), y(w)), m)


@handles("FSETP")
def compare(o, a):
    outs, x, y, other = (predicate_target(a[0]), predicate_target(a[1])), real(a[2]), real(a[3]), predicate(a[4])
    combine = COMBINE[next(part for part in o if part in COMBINE)]
    # With U: also where one of both is no number.
    relation, unordered = (o[1][:-1], True) if o[1].endswith("U") and len(o[1]) == 3 else (o[1], False)
    if relation == "NAN":
        raise Unknown("FSETP.NAN")

    def run(w, m):
        left, right = np.broadcast_to(x(w), LANES), np.broadcast_to(y(w), LANES)
        result = COMPARE[relation](left, right)
        apart = np.isnan(left) | np.isnan(right)
        result = result | apart if unordered else result & ~apart
        with_other = other(w).copy()
        outs[0](w, combine(result, with_other), m)
        outs[1](w, combine(~result, with_other), m)

    return run


@handles("FCHK")
def division_is_plain(o, a):
    """Whether a division needs the long way: never, with the numbers here."""
    out = predicate_target(a[0])
    return lambda w, m: out(w, np.zeros(LANES, bool), m)


FUNCTIONS = {
    "RCP": lambda x: 1 / x, "EX2": np.exp2, "RSQ": lambda x: 1 / np.sqrt(x), "SQRT": np.sqrt, "LG2": np.log2,
    "TANH": np.tanh, "SIN": np.sin, "COS": np.cos,
}


@handles("MUFU")
def special(o, a):
    d, x = register(a[0]), real(a[1])
    if o[1] == "RCP64H" or o[1] not in FUNCTIONS:
        raise Unknown(o[1])
    function = FUNCTIONS[o[1]]
    return lambda w, m: put_real(w, d, function(np.broadcast_to(x(w), LANES)), m)


@handles("I2F", "I2FP")
def from_integer(o, a):
    d = register(a[0])
    if "U64" in o or "S64" in o:
        x = pair(a[1])
        exact = lambda w: np.asarray(x(w)).view(I64 if "S64" in o else U64).astype(np.float64)
    else:
        x = word(a[1])
        exact = lambda w: np.asarray(x(w)).view(U32 if "U32" in o else I32).astype(np.float64)

    def run(w, m):
        value = exact(w)
        rounded = value.astype(F32)
        if "RP" in o:
            rounded = np.where(rounded.astype(np.float64) < value, np.nextafter(rounded, F32(np.inf)), rounded)
        put_real(w, d, rounded, m)

    return run


@handles("F2I")
def to_integer(o, a):
    d, x = register(a[0]), real(a[1])
    round_ = np.trunc if "TRUNC" in o else np.floor if "FLOOR" in o else np.ceil if "CEIL" in o else np.rint

    def run(w, m):
        value = np.nan_to_num(round_(np.broadcast_to(x(w), LANES).astype(np.float64)), nan=0.0, posinf=2e19, neginf=-2e19)
        if "U64" in o:
            put_pair(w, d, np.array([min(max(int(v), 0), 2**64 - 1) for v in value], U64), m)
        elif "S64" in o:
            put_pair(w, d, np.array([min(max(int(v), -(2**63)), 2**63 - 1) for v in value], I64).view(U64), m)
        elif "U32" in o:
            put(w, d, np.clip(value, 0, 2**32 - 1).astype(U64), m)
        else:
            put(w, d, np.clip(value, -(2**31), 2**31 - 1).astype(I64).astype(I32).view(U32), m)

    return run


@handles("F2FP")
def pack(o, a):
    d, high, low, half = register(a[0]), real(a[1]), real(a[2]), "BF16" not in o

    def bits(x):
        x = np.broadcast_to(x, LANES)
        if half:
            return x.astype(np.float16).view(np.uint16).astype(U32)
        word_ = np.ascontiguousarray(x).view(U32)
        return word_ + U32(0x7FFF) + (word_ >> U32(16) & U32(1)) >> U32(16)

    return lambda w, m: put(w, d, bits(high(w)) << U32(16) | bits(low(w)), m)


@handles("FRND")
def round_to_integer(o, a):
    d, x = register(a[0]), real(a[1])
    round_ = np.trunc if "TRUNC" in o else np.floor if "FLOOR" in o else np.rint
    return lambda w, m: put_real(w, d, round_(x(w)), m)


@handles("HADD2")
def half_to_float(o, a):
    d, x = register(a[0]), word(a[2].split(".")[0].lstrip("-"))
    if "F32" not in o:
        raise Unknown("HADD2")
    high = "H1" in a[2]
    return lambda w, m: put_real(
        w, d, (x(w) >> U32(16) if high else x(w) & U32(0xFFFF)).astype(np.uint16).view(np.float16), m
    )


@handles("HFMA2")
def half_constant(o, a):
    """A constant of two halves: 0 x 0 + (a, b)."""
    if not a[1].startswith("-RZ") and not a[1].startswith("RZ"):
        raise Unknown("HFMA2")
    kind = "<e"
    if "BF16_V2" in o or "BF16" in o:
        bits = lambda text: struct.unpack("<I", struct.pack("<f", float(text)))[0] >> 16
    else:
        bits = lambda text: struct.unpack("<H", struct.pack(kind, float(text)))[0]
    d, value = register(a[0]), U32(bits(a[3]) << 16 | bits(a[4]))
    return lambda w, m: put(w, d, value, m)
