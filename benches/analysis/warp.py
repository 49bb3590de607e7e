"""One warp of machine code, run for a real launch: integers, predicates, addresses and control flow exactly, floats nearly,
products of tensor cores and loaded values not at all (what is loaded is 1). Lanes that diverge run in the order of their
addresses, as they do where code is laid out in the order of its reconvergence points.
"""

import collections
import re

import numpy as np

import arithmetic
import integers
import movement
import uniform
from operands import ALL, LANES, U32, Unknown, predicate

HANDLERS = {**integers.HANDLERS, **uniform.HANDLERS, **arithmetic.HANDLERS, **movement.HANDLERS}
# They do nothing that an address or a branch could depend on.
IGNORED = set(
    "NOP BSSY BSYNC BAR DEPBAR LDGDEPBAR WARPSYNC BREAK YIELD MEMBAR ERRBAR CCTL ENDCOLLECTIVE HMMA ACQBULK".split()
)
# Where a launch's parameters begin in the constant bank.
PARAMETERS = {"80": 0x160, "90a": 0x210}
LOCAL = re.compile(r"`\(([^()]*)\)")


class Warp:
    """`kernel` of `target`, block `block` of `grid`, warp number `warp` of `threads` threads. `parameters` are bytes; where
    `trace` is set, every access to global memory is kept in `touched`."""

    def __init__(self, kernel, target, parameters, block, grid, threads, warp, trace=False):
        self.kernel, self.trace = kernel, trace
        self.r = np.zeros((256, LANES), U32)
        self.p = np.zeros((8, LANES), bool)
        self.p[7] = True
        self.u, self.up = [0] * 72, [False] * 7 + [True]
        self.block, self.grid, self.thread = block, grid, np.arange(LANES, dtype=U32) + U32(32 * warp)
        self.bank = bytearray(0x2000)
        for i, value in enumerate([threads, 1, 1, *grid]):
            self.bank[4 * i : 4 * i + 4] = value.to_bytes(4, "little")
        start = PARAMETERS[target]
        self.bank[start : start + len(parameters)] = parameters
        self.counts = [0] * len(kernel.instructions)
        # Of each (name, bytes a lane): accesses, and the wavefronts of shared or the sectors of global memory.
        self.shared, self.whole = (collections.defaultdict(lambda: [0, 0]) for _ in range(2))
        # (stores or loads, bytes a lane, addresses of active lanes)
        self.touched = []
        self.patterns = {}
        self.index = {instruction.address: i for i, instruction in enumerate(kernel.instructions)}
        self.steps = compiled(kernel, self.index)

    def constant(self, bank, at, size=4):
        """Of the launch (bank 0) or of the kernel itself (bank 2)."""
        values = self.bank if bank == 0 else self.kernel.constants
        return int.from_bytes(values[at : at + size], "little")

    def run(self, limit=5_000_000):
        """Runs to the end; `counts` then has how often each instruction was issued. No branch is taken `limit` times."""
        counts, steps, end = self.counts, self.steps, len(self.steps)
        groups = {0: ALL}
        while groups:
            at = min(groups)
            mask = groups.pop(at)
            others = min(groups, default=end)
            while at < others:
                counts[at] += 1
                guard, action, control = steps[at]
                active = mask
                if guard is not None:
                    active = mask & guard(self)
                    if active.all():
                        active = ALL
                if control is not None:
                    if counts[at] > limit:
                        raise Unknown(f"{self.kernel.name} does not end")
                    split = control(self, at, mask, active)
                    if isinstance(split, int):
                        at = split
                        continue
                    for target, lanes in split:
                        join(groups, target, lanes)
                    break
                if action is not None and (guard is None or active.any()):
                    action(self, active)
                at += 1
            else:
                join(groups, at, mask)
        return self


def join(groups, at, mask):
    mask = groups[at] | mask if at in groups else mask
    groups[at] = ALL if mask.all() else mask


def compiled(kernel, index):
    """For each instruction: its guard, what it does, and where it goes."""
    if not hasattr(kernel, "steps"):
        kernel.steps = [step(kernel, instruction, i, index) for i, instruction in enumerate(kernel.instructions)]
    return kernel.steps


def step(kernel, instruction, at, index):
    guard = None if instruction.guard in (None, "PT", "UPT") else predicate(instruction.guard)
    name = instruction.name
    if name in ("BRA", "CALL"):
        label = LOCAL.search(instruction.operands[-1])
        # BRA.DIV goes to code for warps whose lanes are apart, which they never are there.
        if name == "BRA" and "DIV" in instruction.opcode:
            return guard, None, None
        if not label or label[1] not in kernel.labels:
            raise Unknown(f"{kernel.name}: {instruction.text}")
        target = index[kernel.labels[label[1]]]
        conditions = [predicate(text) for text in instruction.operands[:-1] if re.match(r"^!?U?P(T|\d)$", text)]
        return guard, None, branch(target, conditions)
    if name == "RET":
        read = movement.return_address(instruction.operands)
        return guard, None, lambda w, at, mask, active: [
            (index[int(to)], active & (read(w) == to)) for to in np.unique(read(w)[active])
        ]
    if name == "EXIT":
        return guard, None, leave
    if name in IGNORED:
        return guard, None, None
    try:
        if name not in HANDLERS:
            raise Unknown("opcode")
        return guard, HANDLERS[name](instruction.opcode, instruction.operands), None
    except (Unknown, ValueError, IndexError) as why:
        return guard, refuse(f"{kernel.name}: {instruction.text}: unknown {why}"), None


def refuse(message):
    """What is not known may stand in code that is never reached."""

    def run(w, m):
        raise Unknown(message)

    return run


def branch(target, conditions):
    def control(w, at, mask, active):
        for condition in conditions:
            active = active & condition(w)
        if not active.any():
            return at + 1
        stay = mask & ~active
        # Backward or forward together: the loop goes on there.
        return [(target, active), (at + 1, stay)] if stay.any() else [(target, active)]

    return control


def leave(w, at, mask, active):
    stay = mask & ~active
    return [(at + 1, stay)] if stay.any() else []
