"""Uniform instructions: one value for the whole warp, in registers of their own. Exact to the bit, like integers.py; where a
guard is false they do nothing.
"""

import numpy as np

from integers import compared, predicate_target, put_uniform, registry, shift, shifted, table, targets
from operands import ALL, MASK, U32, Unknown, is_predicate, negated, pair, predicate, uniform, uniform_register

HANDLERS, handles = registry()


@handles("UISETP")
def compare_uniform(o, a):
    x, y = uniform(a[2]), uniform(a[3])
    run = compared(o, a, lambda w: U32(x(w)), lambda w: U32(y(w)))
    return lambda w, m: run(w, ALL)


@handles("UIADD3")
def add_uniform(o, a):
    outs, k = targets(a)
    d, extended = uniform_register(a[0]), "X" in o
    if "64" in o:
        raise Unknown("UIADD3.64")
    parts = [(negated(text) and not extended, uniform(text[1:] if negated(text) and not extended else text))
             for text in a[k:] if not is_predicate(text)]
    carries = [predicate(text) for text in a[k:] if is_predicate(text)] if extended else []

    def run(w, m):
        total = sum((~read(w) & MASK) + 1 if minus else read(w) for minus, read in parts)
        total += sum(int(carry(w)[0]) for carry in carries)
        for i, out in enumerate(outs):
            out(w, total >> 32 > i, m)
        put_uniform(w, d, total)

    return run


@handles("UIMAD")
def multiply_add_uniform(o, a):
    d, x, y = uniform_register(a[0]), uniform(a[1]), uniform(a[2])
    if "WIDE" not in o and "HI" not in o:
        z = uniform(a[3])
        return lambda w, m: put_uniform(w, d, x(w) * y(w) + z(w))
    third = pair(a[3])
    sign = (lambda v: v) if "U32" in o else (lambda v: v - (1 << 32) if v >> 31 else v)

    def run(w, m):
        total = sign(x(w)) * sign(y(w)) + int(np.asarray(third(w)).flat[0])
        if "WIDE" in o:
            put_uniform(w, d, total)
        put_uniform(w, d + 1 if "WIDE" in o else d, total >> 32)

    return run


@handles("ULEA")
def load_effective_address_uniform(o, a):
    outs, k = targets(a)
    d = uniform_register(a[0])
    lift = lambda text: (lambda read: lambda w: np.full(1, read(w), U32))(uniform(text))
    first, second, rest = shifted(o, a, k, lift)
    minus = negated(second) and "X" not in o
    other = uniform(second[1:] if minus else second)
    carries = [predicate(text) for text in rest if is_predicate(text)] if "X" in o else []

    def run(w, m):
        total = int(first(w)[0]) + ((~other(w) & MASK) + 1 if minus else other(w))
        total += sum(int(carry(w)[0]) for carry in carries)
        for i, out in enumerate(outs):
            out(w, total >> 32 > i, m)
        put_uniform(w, d, total)

    return run


@handles("USHF")
def shift_uniform(o, a):
    d, low, amount, high = uniform_register(a[0]), uniform(a[1]), uniform(a[2]), uniform(a[3])
    whole = lambda x: np.full(1, x, U32)
    return lambda w, m: put_uniform(w, d, int(shift(o, whole(low(w)), whole(amount(w)), whole(high(w)))[0]))


@handles("ULOP3")
def logic_uniform(o, a):
    k = 0
    while is_predicate(a[k]):
        k += 1
    outs = [predicate_target(text) for text in a[:k]]
    d, x, y, z, lut = uniform_register(a[k]), uniform(a[k + 1]), uniform(a[k + 2]), uniform(a[k + 3]), int(a[k + 4], 16)

    def run(w, m):
        value = table(x(w), y(w), z(w), lut) & MASK
        put_uniform(w, d, value)
        for out in outs:
            out(w, value != 0, m)

    return run
