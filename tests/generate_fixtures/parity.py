#!/usr/bin/env python3
"""Makes parity cases (and checks recorded ones) by running PyTorch, diffusers and peft.

    python parity.py --base tests/fixtures/parity --check              # recompute every case there from its inputs
    python parity.py --base tests/fixtures/parity --out DIR            # write the catalogue's models and cases to DIR
    python parity.py --base tests/fixtures/parity --out DIR --only 'sched_*' --small

`--base` is a folder in the parity format: its vocabulary and models are used. What the catalogue adds is in catalogue.py
and models.py; how each kind is computed is in reference/. Every case's random inputs depend on its name alone.
Needs the packages of tests/interop/requirements.txt.
"""

import argparse
import fnmatch
import json
import shutil
import sys
from pathlib import Path

import torch
import transformers
from reference import merging, networks, sampling, schedulers, training
from reference.files import Root, load_case, relative_error, save_tensors, write_json

EVALUATE = {
    "unet_forward": networks.unet_forward,
    "text_encoder": networks.text_encoder,
    "vae": networks.vae,
    "tokenizer": networks.tokenizer,
    "scheduler": schedulers.scheduler,
    "lora_train": training.lora_train,
    "lora_train_text": training.lora_train_text,
    "sample": sampling.sample,
    "bake": sampling.bake,
    "merge": merging.merge,
    "lora_formats": merging.lora_formats,
}


def check(root, pattern):
    """Recomputes recorded cases; returns how many have an output that is off by more than 1e-4."""
    failures = 0
    for folder in sorted((root.folder / "cases").iterdir()):
        if not fnmatch.fnmatch(folder.name, pattern):
            continue
        kind = json.loads((folder / "case.json").read_text())["kind"]
        if kind not in EVALUATE:
            print(f"---- {folder.name:36} recorded only: {kind}", flush=True)
            continue
        case, inputs, recorded = load_case(folder)
        outputs = EVALUATE[case["kind"]](case, inputs, root, folder)
        errors = {name: relative_error(outputs[name], x) if name in outputs else float("inf") for name, x in recorded.items()}
        errors |= {name: float("inf") for name in outputs if name not in recorded}
        worst = max(errors, key=errors.get)
        failed = not errors[worst] <= 1e-4
        failures += failed
        print(f"{'FAIL' if failed else 'ok  '} {folder.name:36} {errors[worst]:.1e} {worst}", flush=True)
    return failures


def generate(root, pattern, small):
    import catalogue
    import models

    shutil.copytree(root.base / "clip_vocab", root.folder / "clip_vocab", dirs_exist_ok=True)
    written = 0
    for build in catalogue.cases(small):
        if not fnmatch.fnmatch(build.name, pattern):
            continue
        if build.model and not (root.folder / build.model).exists():
            name = Path(build.model).name
            if name in models.MODELS:
                models.write(name, root.folder / build.model)
            else:
                shutil.copytree(root.base / build.model, root.folder / build.model)
        folder = root.case(build.name)
        shutil.rmtree(folder, ignore_errors=True)
        case, inputs = build.make(root, folder)
        outputs = EVALUATE[case["kind"]](case, inputs, root, folder)
        broken = [name for name, x in outputs.items() if not x.isfinite().all()]
        if broken:
            shutil.rmtree(folder, ignore_errors=True)
            print(f"{build.name}: left out, the reference itself gives {broken[0]} that is not finite", file=sys.stderr)
            continue
        write_json(folder / "case.json", case)
        save_tensors(inputs | outputs, folder / "tensors.safetensors")
        written += 1
        print(build.name, flush=True)
    print(f"{written} cases in {root.folder}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=Path(__file__).parents[1] / "fixtures" / "parity")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", default="*", help="names of cases, with * and ?")
    parser.add_argument("--small", action="store_true", help="only what is kept in the repository")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.disable_progress_bar()
    if arguments.check:
        root = Root(arguments.out or arguments.base, arguments.base)
        sys.exit(1 if check(root, arguments.only) else 0)
    if not arguments.out:
        parser.error("--out or --check is needed")
    generate(Root(arguments.out, arguments.base), arguments.only, arguments.small)


if __name__ == "__main__":
    main()
