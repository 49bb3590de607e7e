"""The cases we make: what each is about, and how its inputs are drawn."""

from . import loras, networks, sampling, schedulers, training
from .kept import KEPT


def cases(small):
    """All cases; with `small`, those that are kept in the repository."""
    for module in (networks, schedulers, training, loras, sampling):
        for build in module.cases():
            if build.name in KEPT or not small:
                yield build
