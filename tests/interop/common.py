"""What both checks need: complete model folders, running selma, and a list of results."""

import shutil
import subprocess
import sys
from pathlib import Path

import torch
import transformers

TESTS = Path(__file__).parents[1]
PARITY = TESTS / "fixtures" / "parity"
sys.path.insert(0, str(TESTS / "generate_fixtures"))
transformers.utils.logging.disable_progress_bar()


def complete_model(parity, name, folder):
    """A copy of a parity model with the vocabulary in its tokenizer folders: what diffusers and selma load by path."""
    target = folder / name
    shutil.copytree(parity / "models" / name, target)
    for tokenizer in target.glob("tokenizer*"):
        for file in (parity / "clip_vocab").iterdir():
            (tokenizer / file.name).symlink_to(file.resolve())
    return target


def run(*command):
    """Runs selma; returns its standard output, or ends the whole program with its error message."""
    command = [str(part) for part in command]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}\nexit status {result.returncode}\n{result.stdout[-2000:]}{result.stderr[-2000:]}")
    return result.stdout


class Report:
    """Prints a line a check and remembers whether one failed."""

    def __init__(self):
        self.failed = False

    def check(self, ok, name, detail):
        self.failed |= not ok
        print(f"{'ok  ' if ok else 'FAIL'} {name}: {detail}", flush=True)

    def exit(self):
        sys.exit(1 if self.failed else 0)


def load_pipeline(model):
    """The model as a user of diffusers loads it, in float32."""
    from diffusers import DiffusionPipeline
    from reference.files import read_json

    index = read_json(model / "model_index.json")
    options = {} if "XL" in index["_class_name"] else dict(safety_checker=None, requires_safety_checker=False)
    pipeline = DiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32, local_files_only=True, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
