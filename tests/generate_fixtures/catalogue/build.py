from collections.abc import Callable
from dataclasses import dataclass

SCHEDULE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)


@dataclass
class Build:
    """A case to make: `make(root, folder)` returns its case.json and inputs, and may write further files to `folder`."""

    name: str
    model: str | None
    make: Callable


def model_path(name):
    return f"models/{name}"
