#!/usr/bin/env python3
"""Loads LoRA files in diffusers and compares what the pipeline then applies with what the files say.

    python tests/interop/check_lora.py --selma target/release/selma              # selma makes the files
    python tests/interop/check_lora.py --model FOLDER FILE...                    # files that exist
    python tests/interop/check_lora.py --model FOLDER --delta DENSE FILE...      # also against given dense deltas

A file passes when diffusers adapts exactly the modules that the file names, each by alpha / rank * up @ down, and peft warns
of nothing. --delta takes a safetensors file of dense deltas, named `<component>.<module>` (an `out.delta.` prefix is allowed).
"""

import argparse
import hashlib
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace

import torch
from common import PARITY, Report, complete_model, load_pipeline, run
from peft import PeftModel
from PIL import Image
from reference.files import relative_error
from reference.loras import COMPONENTS, base_weights, pipeline_deltas, read_lora
from safetensors import safe_open
from safetensors.torch import load_file, save

TOLERANCE = 1e-5


class Model:
    """A model folder, and the names and shapes of everything that a LoRA can adapt in it."""

    def __init__(self, folder):
        self.folder = folder
        pipeline = load_pipeline(folder)
        self.unet = pipeline.unet
        self.weights = {
            name: base_weights(getattr(pipeline, name), name) for name in COMPONENTS if getattr(pipeline, name, None) is not None
        }

    def read(self, file):
        """What the file says: {(component, module): Factors}; an unknown key is an error."""
        return read_lora(file, self.weights, self.unet)

    def load(self, file):
        """What diffusers makes of it: {(component, module): dense delta}, and the warnings it gave."""
        pipeline = load_pipeline(self.folder)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="lora")
        return pipeline_deltas(pipeline), [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]


def worst(ours, expected):
    """The largest relative error over modules, and its module; shapes may differ by trailing 1x1 kernels."""
    errors = {
        key: relative_error(ours[key].reshape(x.shape), x) if ours[key].numel() == x.numel() else float("inf")
        for key, x in expected.items()
    }
    key = max(errors, key=errors.get)
    return errors[key], ".".join(key)


def compare(report, name, ours, expected, detail):
    if ours.keys() != expected.keys():
        odd = sorted(".".join(key) for key in ours.keys() ^ expected.keys())
        report.check(False, name, f"{len(odd)} modules on one side only, such as {odd[0]}")
        return
    error, module = worst(ours, expected)
    report.check(error <= TOLERANCE, name, f"{detail}, largest difference {error:.1e} ({module})")


def check_file(report, model, file, name, delta=None):
    """Checks one file against diffusers; returns the deltas that the file says."""
    lora = model.read(file)
    said = {key: f.delta() for key, f in lora.items()}
    ranks, alphas = sorted({f.rank for f in lora.values()}), sorted({f.alpha for f in lora.values()})
    loaded, messages = model.load(file)
    compare(report, f"{name} in diffusers", loaded, said, f"{len(lora)} modules, rank {ranks}, alpha {alphas}")
    if messages:
        report.check(False, f"{name} in diffusers", messages[0][:200])
    if delta:
        given = {split(key): x for key, x in load_file(delta).items()}
        compare(report, f"{name} against {delta.name}", loaded, given, f"{len(given)} modules")
    return said


def split(key):
    key = key.removeprefix("out.delta.")
    component = next((c for c in COMPONENTS if key.startswith(c + ".")), None)
    return (component, key.removeprefix(component + ".")) if component else ("unet", key)


def write_training_images(folder):
    """Four small pictures with captions."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(1)
    for i, caption in enumerate(["a red field", "two cats!", "", "a very tall tower at night"]):
        pixels = torch.randint(0, 256, (36, 44, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(caption)
    return folder


def check_selma(report, selma, model, folder):
    """Trains two experts of different targets and ranks, converts and merges them, and checks every file."""
    data, name = write_training_images(folder / "images"), model.folder.name
    files = {}
    for expert, rank, alpha, targets in [("attention", 4, 2, "attention"), ("conv", 3, 6, "conv")]:
        out = folder / expert
        run(
            selma,
            "train",
            "--model",
            model.folder,
            "--data",
            data,
            "--out",
            out,
            "--steps",
            2,
            "--batch-size",
            2,
            "--grad-accum",
            1,
            "--rank",
            rank,
            "--alpha",
            alpha,
            "--targets",
            targets,
            "--resolution",
            32,
            "--lr",
            1e-2,
            "--device",
            "cpu",
            "--quiet",
        )
        files[expert] = out / "lora.safetensors"
    deltas = {expert: check_file(report, model, file, f"{name} {expert}") for expert, file in files.items()}
    for expert, file in files.items():
        for style in ("kohya", "diffusers", "peft"):
            converted = folder / f"{expert}.{style}.safetensors"
            run(selma, "convert", file, "--to", style, "--model", model.folder, "--out", converted)
            said = check_file(report, model, converted, f"{name} {expert} as {style}")
            compare(report, f"{name} {expert} as {style}: same LoRA", said, deltas[expert], f"{len(said)} modules")
        adapter = folder / f"{expert}.adapter"
        run(selma, "convert", file, "--to", "peft", "--out", adapter)
        compare(report, f"{name} {expert} in peft", peft_deltas(model, adapter), deltas[expert], "an adapter folder")
    merged = folder / "merged.safetensors"
    run(selma, "merge", *(part for file in files.values() for part in ("--lora", file)), "--method", "average", "--out", merged)
    modules = {key for delta in deltas.values() for key in delta}
    mean = {key: sum(delta[key] for delta in deltas.values() if key in delta) / len(deltas) for key in modules}
    said = check_file(report, model, merged, f"{name} merged")
    compare(report, f"{name} merged: the mean", said, mean, f"{len(mean)} modules")
    kohya = folder / "merged.kohya.safetensors"
    run(selma, "convert", merged, "--to", "kohya", "--model", model.folder, "--out", kohya)
    said = check_file(report, model, kohya, f"{name} merged as kohya")
    compare(report, f"{name} merged as kohya: the mean", said, mean, f"{len(mean)} modules")
    check_hashes(report, kohya, f"{name} merged as kohya")


def peft_deltas(model, adapter):
    """What peft makes of an adapter folder for the UNet."""
    unet = load_pipeline(model.folder).unet
    PeftModel.from_pretrained(unet, adapter)
    return pipeline_deltas(SimpleNamespace(unet=unet))


def check_hashes(report, file, name):
    """`sshs_*` as sd-scripts computes them: over what safetensors writes of the tensors with the `ss_*` keys alone."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    data = save(load_file(file), {key: value for key, value in metadata.items() if key.startswith("ss_")})
    body = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    legacy = hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8]
    ok = (metadata["sshs_model_hash"], metadata["sshs_legacy_hash"]) == (body, legacy)
    report.check(ok, f"{name}: hashes", f"{metadata['sshs_model_hash'][:8]} {metadata['sshs_legacy_hash']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--selma", type=Path, help="the binary; it makes the files")
    parser.add_argument("--model", type=Path, help="a complete diffusers folder")
    parser.add_argument("--delta", type=Path, help="dense deltas that each FILE must give")
    parser.add_argument("--parity", type=Path, default=PARITY, help="where the small models are")
    arguments = parser.parse_args()
    if bool(arguments.files) == bool(arguments.selma) or (arguments.files and not arguments.model):
        parser.error("either --selma, or --model and files")
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if arguments.files:
            model = Model(arguments.model)
            for file in arguments.files:
                check_file(report, model, file, file.name, arguments.delta)
        else:
            small = ["tiny-sd1", "tiny-sd2", "tiny-sdxl"]
            for model in (
                [arguments.model] if arguments.model else [complete_model(arguments.parity, name, folder) for name in small]
            ):
                (folder / f"{model.name}-files").mkdir()
                check_selma(report, arguments.selma.resolve(), Model(model), folder / f"{model.name}-files")
    report.exit()


if __name__ == "__main__":
    main()
