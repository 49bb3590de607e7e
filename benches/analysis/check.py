#!/usr/bin/env python3
"""Checks the kernels' machine code against budgets, and the emulator that counts it against the simulator.

  python benches/analysis/check.py [--update] [--selma target/debug/selma]

Needs what benches/estimate.py needs, and a selma with the feature `simulator`. Three checks keep the counts honest:

  * each kernel's block stores exactly the bytes that the simulator sees it store, and loads exactly those that it sees it
    load, in two blocks of a launch of Stable Diffusion 1.5 at batch 1;
  * the products of tensor cores that are counted are those that the shape needs;
  * no launch of budgets.txt costs more than its line says. With --update the lines take what it costs now.
"""

import argparse
import json
import multiprocessing
import os
import sys
from pathlib import Path

import build
import costs
import launches
import measure
import needed
from warp import Warp

TARGETS = ["80", "90a"]
BUDGETS = Path(__file__).with_name("budgets.txt")
CASE = "sd15_512"
# Steps whose launches budgets.txt may name, and whose kernels are run: CASE, and one that has other kernels besides.
CASES = [CASE, "sd15_512_dora"]


def budgets():
    """Lines of budgets.txt: comments as they are, others as ([[slots, wavefronts an HMMA, KiB of code], ...], launch)."""
    lines = []
    for line in BUDGETS.read_text().splitlines():
        if line.startswith("#") or not line.strip():
            lines.append(line)
            continue
        *numbers, text = (part.strip() for part in line.split("|"))
        lines.append(([[float(number) for number in of.split()] for of in numbers], text))
    return lines


def now(cost):
    wavefronts = cost.wavefronts / cost.mmas if cost.mmas else 0.0
    return [cost.slots, round(wavefronts, 2), -(-cost.code_bytes // 1024)]


def check_budgets(update):
    """What costs more than its line says, or needs other products than it makes."""
    micro_batch = [launch for case in CASES for launch in launches.listed(case, 16)["micro_batch"][0]]
    known = {launches.described(launch): launch for launch in micro_batch}
    lines = budgets()
    texts = [line[1] for line in lines if isinstance(line, tuple)]
    failures = [f"budgets.txt: no step of {', '.join(CASES)} has a launch `{text}`" for text in texts if text not in known]
    chosen = {text: known[text] for text in texts if text in known}
    of_target = {target: costs.costs(chosen.values(), target) for target in TARGETS}
    for i, line in enumerate(lines):
        if not isinstance(line, tuple) or line[1] not in chosen:
            continue
        allowed, text = line
        launch = chosen[text]
        found = [of_target[target][launch.signature] for target in TARGETS]
        for target, (cost, resources), budget in zip(TARGETS, found, allowed):
            costs_now = now(cost)
            if not update and any(is_now > most for is_now, most in zip(costs_now, budget)):
                failures.append(f"sm_{target} {text}: slots, wavefronts an HMMA and KiB of code are {costs_now}, the budget "
                                f"is {budget}")
            must = needed.mmas(launch, measure.block_of(launch))
            if cost.mmas * (launch.block // 32) != must:
                failures.append(f"sm_{target} {text}: a block makes {cost.mmas * (launch.block // 32)} products of tensor "
                                f"cores, and needs {must}")
            if resources.spilled:
                failures.append(f"sm_{target} {text}: {resources.spilled} bytes spilled")
        if update:
            numbers = " | ".join("{:6.0f} {:4.2f} {:3.0f}".format(*now(cost)) for cost, _ in found)
            lines[i] = f"{numbers} | {text}"
    if update and not failures:
        BUDGETS.write_text("\n".join(lines) + "\n")
    return failures


def ranges(touched, names):
    """The bytes that accesses of these names touch, as `[start, end]` in order."""
    spans = sorted({(int(at), int(at) + size) for name, size, active in touched if name in names for at in active})
    merged = []
    for start, end in spans:
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return merged


def emulated(task):
    """Bytes that a block loads and stores, by parameter, as its machine code says."""
    launch, block, target = task
    kernel, _ = build.code(build.file_of(build.KERNELS)[launch.kernel], target, launch.dtype)[launch.kernel]
    touched = []
    for warp in range(launch.block // 32):
        touched += Warp(kernel, target, launch.parameters(), block, launch.grid, launch.block, warp, trace=True).run().touched
    found = {}
    for what, names in (("loaded", {"LDG", "LDGSTS"}), ("stored", {"STG"})):
        for start, end in ranges(touched, names):
            parameter = (start >> 40) - 1
            base = launch.addresses()[parameter] if 0 <= parameter < len(launch.arguments) else None
            if base is None:
                return {"error": f"{what} at {start:#x}, where no argument is"}
            found.setdefault(parameter, {"loaded": [], "stored": []})[what].append([start - base, end - base])
    return found


def check_bytes():
    """Blocks whose machine code touches other bytes than the simulator says."""
    smallest = {}
    for launch in sum((part[0] for case in CASES for part in launches.listed(case, 1).values()), []):
        key = launch.kernel, launch.dtype
        if launch.kernel not in measure.NOT_RUN:
            smallest[key] = min(smallest.get(key, launch), launch, key=lambda launch: launch.memory_bytes)
    tasks = []
    for launch in smallest.values():
        last = tuple(blocks - 1 for blocks in launch.grid)
        tasks += [(launch, block, target) for block in {measure.block_of(launch), last} for target in TARGETS]
    files = build.file_of(build.KERNELS)
    build.prepare((files[launch.kernel], target, launch.dtype) for launch, _, target in tasks)
    asked = "".join(f"[{launch.line}, {list(block)}]\n" for launch, block, _ in tasks)
    traces = [json.loads(line) for line in launches.run("kernels", "--trace", stdin=asked).splitlines()]
    with multiprocessing.Pool(os.cpu_count()) as pool:
        found = pool.map(emulated, tasks, chunksize=1)
    failures = []
    for (launch, block, target), trace, code in zip(tasks, traces, found):
        simulated = {part["parameter"]: {what: part[what] for what in ("loaded", "stored")} for part in trace}
        simulated = {parameter: part for parameter, part in simulated.items() if part["loaded"] or part["stored"]}
        if code != simulated:
            names = launches.names_of(launch.kernel)
            differing = [p for p in {*code, *simulated} if code.get(p) != simulated.get(p)]
            told = "; ".join(f"`{names[p]}` in machine code {code.get(p)}, simulated {simulated.get(p)}"[:600] if p in range(len(names))
                             else str(code[p]) for p in differing)
            failures.append(f"sm_{target} {launches.described(launch)}, block {block}: {told}")
    print(f"{len(tasks)} blocks of {len(smallest)} kernels: bytes loaded and stored compared with the simulator's")
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--selma", default=launches.built("debug", "release"))
    parser.add_argument("--update", action="store_true")
    asked = parser.parse_args()
    launches.use(asked.selma)
    failures = check_budgets(asked.update) + check_bytes()
    for failure in failures:
        print(failure, file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
