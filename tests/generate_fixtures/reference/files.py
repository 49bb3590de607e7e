"""The folder of parity cases: case.json, tensors, models, vocabulary, and random numbers that depend on a case's name only."""

import contextlib
import json
import zlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


class Root:
    """A folder with `clip_vocab/`, `models/` and `cases/`; models may also come from a second folder, `base`."""

    def __init__(self, folder, base=None):
        self.folder = Path(folder)
        self.base = Path(base) if base else self.folder

    def path(self, relative):
        """Where `relative` (a model, the vocabulary) is: here, else in the base folder."""
        own = self.folder / relative
        return own if own.exists() else self.base / relative

    def case(self, name):
        return self.folder / "cases" / name


def read_json(path):
    return json.loads(Path(path).read_text())


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def load_case(folder):
    tensors = load_file(folder / "tensors.safetensors")
    inputs = {name: x for name, x in tensors.items() if not name.startswith("out.")}
    outputs = {name: x for name, x in tensors.items() if name.startswith("out.")}
    return read_json(folder / "case.json"), inputs, outputs


def save_tensors(tensors, path, metadata=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: x.detach().clone(memory_format=torch.contiguous_format) for name, x in tensors.items()}, path, metadata=metadata
    )


def relative_error(ours, reference):
    """||ours - reference|| / ||reference|| in float64; the absolute norm where the reference is zero."""
    if ours.shape != reference.shape:
        return float("inf")
    difference = (ours.double() - reference.double()).norm().item()
    size = reference.double().norm().item()
    return difference / size if size > 0 else difference


class Draw:
    """Random inputs of one case. The seed is a checksum of the name: a case does not change when others are added."""

    def __init__(self, name):
        self.generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))

    def normal(self, *shape, scale=1.0):
        return scale * torch.randn(*shape, generator=self.generator)

    def uniform(self, *shape):
        return torch.rand(*shape, generator=self.generator)

    def integers(self, *shape, below, start=0):
        return torch.randint(start, below, shape, generator=self.generator)


@contextlib.contextmanager
def replace_noise(module, draw):
    """Within the block, `module`'s own name `randn_tensor`, if it has one, calls `draw(shape)` instead of a generator."""
    if not hasattr(module, "randn_tensor"):
        yield
        return

    def randn_tensor(shape, *_, **__):
        return draw(tuple(shape))

    original = module.randn_tensor
    module.randn_tensor = randn_tensor
    try:
        yield
    finally:
        module.randn_tensor = original
