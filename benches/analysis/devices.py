"""How long a launch takes on a card, from what its warps cost.

A block is bound by the busiest of what its multiprocessor has; the launch by its blocks in waves, by L2 and by memory. Three
numbers no listing can tell, and they are guesses until a card has been measured: the share of cycles in which a scheduler
issues, the cycles of an HMMA, the bytes a second from L2. Their error is the estimate's.
"""

import math
from dataclasses import dataclass

# What the guesses make the whole uncertain by, until a card has been measured.
ERROR = 0.25
# Between kernels of a CUDA graph.
GAP = 2.0e-6


@dataclass(frozen=True)
class Device:
    """Cycles are those of one of a multiprocessor's four schedulers; bytes a second are what kernels reach."""

    name: str
    target: str
    multiprocessors: int
    clock: float
    memory: float
    l2: float
    # Cycles of a m16n8k16 product with float sums, and of a warp's FFMA.
    hmma: float
    ffma: float
    shared: int
    warps: int
    blocks: int
    # FLOP/s of tensor cores in the floor: what the best libraries reach.
    reached: float


KIB = 1 << 10
DEVICES = [
    Device("H100 SXM", "90a", 132, 1.70e9, 2.7e12, 6.0e12, 6.4, 1, 227 * KIB, 64, 32, 798e12),
    Device("A100 SXM 80 GB", "80", 108, 1.41e9, 1.83e12, 4.0e12, 8.0, 2, 163 * KIB, 64, 32, 252e12),
    Device("RTX 4090", "80", 128, 2.52e9, 0.9e12, 5.0e12, 32.0, 1, 99 * KIB, 48, 24, 149e12),
]


def resident(device, launch, resources):
    """Blocks that fit on a multiprocessor."""
    warps = launch.block // 32
    registers = math.ceil(resources.registers / 8) * 8 * 32 * warps
    shared = launch.shared + resources.static_shared + KIB
    return max(1, min(device.blocks, device.warps // warps, 65536 // registers, device.shared // shared))


def reached(most, warps):
    """The share of cycles that so many warps of a scheduler use: each waits for its own results about as often as it works.
    Pipes whose work is many independent results a warp, as the sums of a tile are, need fewer warps: there `most` is larger."""
    return most * warps / (warps + 1)


def seconds(device, launch, cost, resources):
    """Seconds of the launch without the gap before it, and what binds it."""
    warps, fit = launch.block // 32, resident(device, launch, resources)
    pipe = lambda name: cost.pipes.get(name, 0)
    # Cycles of a multiprocessor for one block, and the largest share of cycles that can be used.
    work = {
        "issue": (warps * cost.slots / 4, 0.94),
        "integer": (warps * 2 * max(pipe("alu"), pipe("imad")) / 4, 0.94),
        "float": (warps * device.ffma * pipe("fma") / 4, 0.94),
        "mufu": (warps * 8 * pipe("mufu") / 4, 1.35),
        "tensor": (warps * device.hmma * cost.mmas / 4, 1.35),
        "shared": (warps * cost.wavefronts, 1.35),
    }
    full, rest = divmod(launch.blocks, device.multiprocessors * fit)
    last = math.ceil(rest / device.multiprocessors)
    times = {}
    for name, (cycles, most) in work.items():
        share = lambda blocks: min(0.9, reached(most, blocks * warps / 4))
        total = full * fit * cycles / share(fit) + (last * cycles / share(last) if last else 0)
        times[name] = total / device.clock
    times["L2"] = cost.sectors * 32 * warps * launch.blocks / device.l2
    times["memory"] = launch.memory_bytes / device.memory
    bound = max(times, key=times.get)
    return times[bound], bound


# GFLOP a sample of forward and backward (LoRA of rank 128 on attention in its cheapest order, no gradient that nobody needs),
# and GB a sample of the operations that memory bounds, by batch: counted operation by operation for an H100, where each takes
# the longer of its FLOPs and its least bytes. On other cards some operations change sides, which is neglected.
FLOOR = {
    "sd15_512": (1824, {1: 3.70, 4: 2.17, 16: 2.06}),
    "sdxl_1024": (15010, {1: 16.8, 4: 14.4, 16: 13.8}),
}


def floor(device, case, batch):
    """Seconds a sample that no program can do without."""
    gflop, gigabytes = FLOOR[case]
    memory = 3.0e12 if device.name.startswith("H100") else device.memory
    return gflop * 1e9 / device.reached + gigabytes[batch] * 1e9 / memory
