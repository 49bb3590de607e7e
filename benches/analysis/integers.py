"""Integers and predicates, exact to the bit. A handler takes an instruction's opcode and operands and gives what it does."""

import numpy as np

from operands import (ALL, I32, I64, LANES, MASK, RZ, U32, U64, Unknown, is_predicate, negated, pair, predicate, register,
                      word)

def registry():
    """Handlers by opcode, and what puts them there."""
    handlers = {}

    def handles(*names):
        def register_handler(function):
            handlers.update({name: function for name in names})
            return function

        return register_handler

    return handlers, handles


HANDLERS, handles = registry()


def put(w, d, value, m):
    """Writes register d of the active lanes."""
    if d != RZ:
        if m is ALL:
            w.r[d] = value
        else:
            np.copyto(w.r[d], value, where=m, casting="unsafe")


def put_pair(w, d, value, m):
    if d != RZ:
        put(w, d, value & U64(MASK), m)
        put(w, d + 1, value >> U64(32), m)


def put_uniform(w, d, value):
    if d is not None:
        w.u[d] = value & MASK


def predicate_target(text):
    """A function that sets it; PT is never set."""
    if text in ("PT", "UPT"):
        return lambda w, value, m: None
    n = int(text.lstrip("UP"))
    if text.startswith("U"):
        return lambda w, value, m: w.up.__setitem__(n, bool(np.asarray(value).flat[0]))
    return lambda w, value, m: np.copyto(w.p[n], value, where=m)


def targets(a):
    """The predicates that follow the register, and where the inputs begin."""
    k = 1
    while k < len(a) and is_predicate(a[k]):
        k += 1
    return [predicate_target(text) for text in a[1:k]], k


def signed(value):
    return np.asarray(value).view(I32)


def addend(text, extended):
    """An operand of a sum of 33 bits: without a carry in, -x is ~x + 1, which carries where x is 0."""
    read = word(text[1:] if negated(text) and not extended else text)
    if negated(text) and not extended:
        return lambda w: (~read(w)).astype(U64) + U64(1)
    return lambda w: np.asarray(read(w)).astype(U64)


def carried(read, carries, outs, d):
    """Sums what `read` gives and the carries in; carries out say whether the sum passed 2^32, and 2 2^32."""

    def run(w, m):
        total = sum(carry(w).astype(U64) for carry in carries)
        for part in read:
            total = total + part(w)
        for i, out in enumerate(outs):
            out(w, (total >> U64(32)) > U64(i), m)
        put(w, d, total & U64(MASK), m)

    return run


@handles("IADD3", "VIADD", "IADD")
def add(o, a):
    outs, k = targets(a)
    extended = "X" in o
    parts = [text for text in a[k:] if not is_predicate(text)]
    carries = [predicate(text) for text in a[k:] if is_predicate(text)] if extended else []
    return carried([addend(text, extended) for text in parts], carries, outs, register(a[0]))


@handles("IMAD")
def multiply_add(o, a):
    outs, k = targets(a)
    d = register(a[0])
    if "WIDE" in o or "HI" in o:
        x, y, c, unsigned = word(a[k]), word(a[k + 1]), pair(a[k + 2]), "U32" in o
        carry = predicate(a[k + 3]) if "X" in o else None

        def wide(w, m):
            if unsigned:
                product = np.asarray(x(w)).astype(U64) * np.asarray(y(w)).astype(U64)
            else:
                product = (signed(x(w)).astype(I64) * signed(y(w)).astype(I64)).view(U64)
            total = product + c(w)
            if carry is not None:
                total = total + carry(w).astype(U64)
            for out in outs:
                out(w, total < product, m)
            if "WIDE" in o:
                put_pair(w, d, total, m)
            else:
                put(w, d, total >> U64(32), m)

        return wide
    x, y, c = word(a[k]), word(a[k + 1]), word(a[k + 2])
    if outs:
        raise Unknown("carry out of IMAD")
    carry = predicate(a[k + 3]) if "X" in o else None
    if carry is None:
        return lambda w, m: put(w, d, x(w) * y(w) + c(w), m)
    return lambda w, m: put(w, d, x(w) * y(w) + c(w) + carry(w).astype(U32), m)


def shifted(o, a, k, read):
    """The first summand of LEA, what follows it, and the carry in."""
    if "HI" in o and "SX32" in o:
        low, shift, rest = read(a[k]), int(a[k + 2], 0), a[k + 3 :]
        extended = lambda x: np.asarray(x, U32).view(I32).astype(I64)
        return (lambda w: (extended(low(w)) << I64(shift) >> I64(32)).view(U64) & U64(MASK)), a[k + 1], rest
    if "HI" in o:
        low, high, shift, rest = read(a[k]), read(a[k + 2]), int(a[k + 3], 0), a[k + 4 :]
        whole = lambda w: np.asarray(high(w)).astype(U64) << U64(32) | np.asarray(low(w)).astype(U64)
        return (lambda w: whole(w) << U64(shift) >> U64(32)), a[k + 1], rest
    low, shift = read(a[k]), int(a[k + 2], 0) if len(a) > k + 2 and not is_predicate(a[k + 2]) else 0
    return (lambda w: np.asarray(low(w)).astype(U64) << U64(shift) & U64(MASK)), a[k + 1], []


@handles("LEA")
def load_effective_address(o, a):
    outs, k = targets(a)
    first, second, rest = shifted(o, a, k, word)
    carries = [predicate(text) for text in rest if is_predicate(text)] if "X" in o else []
    return carried([first, addend(second, "X" in o)], carries, outs, register(a[0]))


def shift(o, low, amount, high):
    """SHF: of a 64-bit value or of one word."""
    if "U64" in o or "S64" in o:
        whole = high.astype(U64) << U64(32) | low.astype(U64)
        by = amount.astype(U64) & U64(63)
        if o[1] == "L":
            whole = whole << by
        else:
            whole = (whole.view(I64) >> by.astype(I64)).view(U64) if "S64" in o else whole >> by
        return whole >> U64(32) if "HI" in o else whole & U64(MASK)
    inside = np.minimum(amount, U32(31))
    if o[1] == "L":
        if "HI" in o:
            raise Unknown("SHF.L.HI of 32 bits")
        return np.where(amount < 32, low << inside, U32(0))
    if "S32" in o:
        return (high.view(I32) >> inside.astype(I32)).view(U32)
    return np.where(amount < 32, high >> inside, U32(0))


@handles("SHF")
def shift_funnel(o, a):
    d, low, amount, high = register(a[0]), word(a[1]), word(a[2]), word(a[3])
    whole = lambda x: np.broadcast_to(np.asarray(x, U32), (LANES,))
    return lambda w, m: put(w, d, shift(o, whole(low(w)), whole(amount(w)), whole(high(w))), m)


def table(x, y, z, lut):
    """A function of three bits, bit by bit."""
    result = x ^ x
    for i in range(8):
        if lut >> i & 1:
            result = result | (x if i & 4 else ~x) & (y if i & 2 else ~y) & (z if i & 1 else ~z)
    return result


@handles("LOP3")
def logic(o, a):
    k = 0
    while is_predicate(a[k]):
        k += 1
    outs = [predicate_target(text) for text in a[:k]]
    d, x, y, z, lut = register(a[k]), word(a[k + 1]), word(a[k + 2]), word(a[k + 3]), int(a[k + 4], 16)
    carry = predicate(a[k + 5]) if len(a) > k + 5 else None
    absent = "!PT" in a[k + 5 :]

    def run(w, m):
        value = table(x(w), y(w), z(w), lut)
        put(w, d, value, m)
        for out in outs:
            out(w, (value != 0) if absent or carry is None else (value != 0) | carry(w), m)

    return run


@handles("PLOP3", "UPLOP3")
def predicate_logic(o, a):
    first, second = predicate_target(a[0]), predicate_target(a[1])
    x, y, z = (predicate(text) for text in a[2:5])
    luts = [int(text, 16) for text in a[5:7]]

    def run(w, m):
        inputs = x(w).copy(), y(w).copy(), z(w).copy()
        first(w, table(*inputs, luts[0]), m)
        if len(luts) > 1:
            second(w, table(*inputs, luts[1]), m)

    return run


COMPARE = {
    "LT": np.less, "LE": np.less_equal, "GT": np.greater, "GE": np.greater_equal, "EQ": np.equal, "NE": np.not_equal,
    "F": lambda x, y: np.zeros(LANES, bool), "T": lambda x, y: np.ones(LANES, bool),
}
COMBINE = {"AND": np.logical_and, "OR": np.logical_or, "XOR": np.logical_xor}


def compared(o, a, x, y):
    """ISETP; with EX the higher words of a comparison whose lower words decided the last operand."""
    outs, other = (predicate_target(a[0]), predicate_target(a[1])), predicate(a[4])
    relation, unsigned = o[1], "U32" in o
    combine = COMBINE[next(part for part in o if part in COMBINE)]
    low = predicate(a[5]) if "EX" in o else None

    def run(w, m):
        left, right = (np.broadcast_to(np.asarray(v, U32), (LANES,)) for v in (x(w), y(w)))
        if not unsigned:
            left, right = left.view(I32), right.view(I32)
        result = COMPARE[relation](left, right)
        if low is not None:
            equal = left == right
            if relation in ("LT", "LE", "GT", "GE"):
                result = COMPARE[relation[0] + "T"](left, right) | equal & low(w)
            else:
                result = result | low(w) if relation == "NE" else equal & low(w)
        with_other = other(w).copy()
        outs[0](w, combine(result, with_other), m)
        outs[1](w, combine(~result, with_other), m)

    return run


@handles("ISETP")
def compare(o, a):
    return compared(o, a, word(a[2]), word(a[3]))


@handles("IABS")
def absolute(o, a):
    d, x = register(a[0]), word(a[1])
    return lambda w, m: put(w, d, np.abs(signed(x(w))).view(U32), m)


@handles("VIMNMX", "IMNMX")
def smaller_or_larger(o, a):
    d, x, y, smaller = register(a[0]), word(a[1]), word(a[2]), predicate(a[3])
    view = (lambda v: np.asarray(v)) if "U32" in o else signed
    return lambda w, m: put(
        w, d, np.where(smaller(w), np.minimum(view(x(w)), view(y(w))), np.maximum(view(x(w)), view(y(w)))).astype(U32), m
    )


@handles("VIADDMNMX")
def sum_smaller_or_larger(o, a):
    d, x, y, z, smaller = register(a[0]), word(a[1]), word(a[2]), word(a[3]), predicate(a[4])

    def run(w, m):
        total, other = signed(x(w) + y(w)), signed(z(w))
        value = np.where(smaller(w), np.minimum(total, other), np.maximum(total, other))
        put(w, d, (np.maximum(value, 0) if "RELU" in o else value).astype(U32), m)

    return run
