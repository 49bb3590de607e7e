#!/usr/bin/env python3
"""How long a LoRA training step takes on a GPU, estimated without one from the kernels' machine code.

  python benches/estimate.py [--json] [--model sd15_512] [--batch 16] [--device H100] [--selma target/release/selma]

Needs numpy, nvcc and nvdisasm (NVCC and NVDISASM name them; .ci/run says which versions) and a selma that was built. The
step is recorded as the network makes it (`selma bench MODEL --launches`); one warp of each distinct launch is run by the
emulator in benches/analysis; devices.py turns what it costs into time. An estimate: off by 25 % until a card has been
measured, by about the same for every class, so comparisons between versions of the kernels are better than that.
"""

import argparse
import collections
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "analysis"))

import costs
import devices
import launches

MODELS = {"sd15_512": "SD 1.5, 512 x 512", "sdxl_1024": "SDXL, 1024 x 1024"}
BATCHES = [1, 4, 16]
# Micro-batches between two updates.
ACCUMULATED = 4
RANK, TOKENS = 128, 77

CLASSES = {
    "norms": ("group_norm", "layer_norm"),
    "attention delta": ("attention_backward_delta",),
    "LoRA": ("sum_rows", "accumulate", "cast_", "scale_forward", "matmul_tn"),
    "linears": ("matmul",),
    "geglu": ("geglu",),
    "adds": ("add_forward",),
    "concat and resize": ("concat", "slice_", "upsample_nearest", "upsample_backward"),
    "sums of slices": ("sum_slices",),
    "taps of upsampling": ("upsampled_taps",),
}


# Kernels that only pass over activations.
PASSES = tuple(prefix for name in ("norms", "attention delta", "geglu", "adds", "concat and resize", "sums of slices",
                                   "taps of upsampling") for prefix in CLASSES[name]) + ("silu", "scale", "cast_")


def class_of(launch):
    if launch.kernel.startswith("conv2d"):
        names = launches.names_of(launch.kernel)
        taps = launch.arguments[names.index("kh")].value
        return f"conv {taps}x{taps}"
    if launch.kernel.startswith("attention") and "tk" in (names := launches.names_of(launch.kernel)):
        return "cross-attention" if launch.arguments[names.index("tk")].value == TOKENS else "self-attention"
    if launch.kernel.startswith("matmul"):
        names = launches.names_of(launch.kernel)
        if launch.dtype == "f32" or launch.arguments[names.index("n")].value == RANK:
            return "LoRA"
    for name, prefixes in CLASSES.items():
        if launch.kernel.startswith(prefixes):
            return name
    return "other"


def estimate(model, batch, device, parts, cost_of):
    """Milliseconds a sample by class, what binds them, launches, and the least bytes of passes over activations."""
    times, bounds, rows = collections.Counter(), collections.Counter(), []
    for part, share in (("micro_batch", 1), ("update", 1 / ACCUMULATED)):
        listed, moved = parts[part]
        for launch in listed:
            time, bound = devices.seconds(device, launch, *cost_of[launch.signature])
            name = "optimizer" if part == "update" else class_of(launch)
            times[name] += share * time
            bounds[bound] += share * time
            rows.append((share * time, launch, bound))
        times["launch gaps"] += share * devices.GAP * (len(listed) + len(moved))
        times["other"] += share * sum(moved) / device.memory
    milliseconds = lambda counter: {name: round(1e3 * time / batch, 4) for name, time in counter.most_common()}
    passes = sum(launch.memory_bytes for launch in parts["micro_batch"][0] if launch.kernel.startswith(PASSES))
    total, floor = 1e3 * sum(times.values()) / batch, 1e3 * devices.floor(device, model, batch)
    return {
        "model": model, "device": device.name, "batch": batch, "ms_per_sample": round(total, 3),
        "floor_ms": round(floor, 3), "share_of_floor": round(floor / total, 3), "error": devices.ERROR,
        "launches": len(parts["micro_batch"][0]), "passes_mib_per_sample": round(passes / batch / 2**20),
        "classes_ms": milliseconds(times), "bound_by_ms": milliseconds(bounds),
    }, rows


def markdown(rows):
    classes = list(dict.fromkeys(name for row in rows for name in row["classes_ms"]))
    classes.sort(key=lambda name: -sum(row["classes_ms"].get(name, 0) for row in rows))
    print("| model | device | batch | estimated ms a sample | floor | share of the floor | measured | "
          + " | ".join(classes) + " |")
    print("|---|---|---|---|---|---|---|" + "---|" * len(classes))
    for row in rows:
        times = " | ".join(f"{row['classes_ms'].get(name, 0):.3f}" for name in classes)
        print(f"| {MODELS[row['model']]} | {row['device']} | {row['batch']} | {row['ms_per_sample']:.2f} | "
              f"{row['floor_ms']:.2f} | {100 * row['share_of_floor']:.0f} % | | {times} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--selma", default=launches.built("release", "debug"))
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--batch", type=int, choices=BATCHES, action="append")
    parser.add_argument("--device", help="only devices whose name contains this")
    parser.add_argument("--json", action="store_true", help="a JSON document instead of a table")
    parser.add_argument("--launches", action="store_true", help="also the launches that take longest")
    parser.add_argument("--markdown", action="store_true", help="the table of benches/RESULTS.md")
    asked = parser.parse_args()
    launches.use(asked.selma)
    chosen = [device for device in devices.DEVICES if (asked.device or "").lower() in device.name.lower()]
    if not chosen:
        sys.exit(f"--device {asked.device}: expected a part of {', '.join(device.name for device in devices.DEVICES)}")
    results = []
    for model in asked.model or MODELS:
        for batch in asked.batch or BATCHES:
            parts = launches.listed(model, batch)
            every = parts["micro_batch"][0] + parts["update"][0]
            for target in sorted({device.target for device in chosen}):
                cost_of = costs.costs(every, target)
                for device in chosen:
                    if device.target == target:
                        results.append(estimate(model, batch, device, parts, cost_of))
    if asked.json:
        json.dump([row for row, _ in results], sys.stdout, indent=1)
        print()
        return
    if asked.markdown:
        markdown([row for row, _ in results])
        return
    for row, rows in results:
        print(f"{MODELS[row['model']]}, batch {row['batch']}, {row['device']}: {row['ms_per_sample']:.2f} ms a sample "
              f"(estimated, +-{100 * row['error']:.0f} %), floor {row['floor_ms']:.2f}, {100 * row['share_of_floor']:.0f} % of "
              f"it; {row['launches']} launches a micro-batch, "
              f"{row['passes_mib_per_sample']} MiB a sample in passes over activations")
        print("   " + ", ".join(f"{name} {time:.3f}" for name, time in row["classes_ms"].items()))
        print("   bound by " + ", ".join(f"{name} {time:.3f}" for name, time in row["bound_by_ms"].items()))
        if asked.launches:
            together = collections.Counter()
            for time, launch, bound in rows:
                together[launches.described(launch), bound] += 1e3 * time / row["batch"]
            for (text, bound), time in together.most_common(40):
                print(f"   {time:8.4f} {bound:8} {text}")


if __name__ == "__main__":
    main()
