"""What a warp of a launch costs: instructions by pipe, wavefronts of shared memory, sectors of global memory."""

import collections
from dataclasses import dataclass, field

from warp import Warp


@dataclass
class Cost:
    """Of one warp. `slots` are instructions issued; `pipes` the same by pipe; `ops` by name."""

    slots: int
    pipes: dict[str, int]
    ops: dict[str, int]
    wavefronts: int
    sectors: int
    code_bytes: int
    # By name and bytes a lane: the wavefronts of shared and the sectors of global memory.
    shared: dict = field(default_factory=dict)
    whole: dict = field(default_factory=dict)

    @property
    def mmas(self):
        return self.ops.get("HMMA", 0)


# They compute in double precision, with tables; the emulator does not. A block or two each, once a step or an update: what
# they cost is the gap before them.
NOT_RUN = {"timestep_embedding", "adamw_rates"}


def block_of(launch):
    """One of the middle: neither the first nor at an edge where there are others."""
    return tuple(max(0, (blocks - 1) // 2) for blocks in launch.grid)


def warps_of(launch):
    """Those that stand for all: in products of tiles every warp does the same, elsewhere the first half of a block may have a
    round more than the other."""
    warps = launch.block // 32
    if launch.kernel.startswith(("matmul", "conv2d")):
        return [warps // 2]
    return sorted({min(1, warps - 1), max(0, warps - 2)})


def cost(kernel, target, launch):
    """Of a warp, the mean of `warps_of`, of a block in the middle."""
    if launch.kernel in NOT_RUN:
        return Cost(0, {}, {}, 0, 0, kernel.code_bytes)
    slots, pipes, ops, shared, whole = 0, collections.Counter(), collections.Counter(), collections.Counter(), collections.Counter()
    chosen = warps_of(launch)
    for warp in chosen:
        ran = Warp(kernel, target, launch.parameters(), block_of(launch), launch.grid, launch.block, warp).run()
        slots += sum(ran.counts)
        for count, instruction in zip(ran.counts, kernel.instructions):
            if count:
                pipes[instruction.pipe] += count
                ops[instruction.name] += count
        for totals, accesses in ((shared, ran.shared), (whole, ran.whole)):
            totals.update({f"{name}.{size}": served for (name, size), (_, served) in accesses.items()})
    mean = lambda totals: {name: total / len(chosen) for name, total in totals.items()}
    wavefronts, sectors = (sum(totals.values()) / len(chosen) for totals in (shared, whole))
    return Cost(round(slots / len(chosen)), mean(pipes), mean(ops), wavefronts, sectors, kernel.code_bytes, mean(shared), mean(whole))
