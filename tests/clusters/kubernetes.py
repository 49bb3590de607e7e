#!/usr/bin/env python3
"""Checks examples/kubernetes.yaml against the schemas of Kubernetes' API.

    python -m venv env && env/bin/pip install kubernetes-validate==1.37.0 pyyaml==6.0.4
    env/bin/python tests/clusters/kubernetes.py

kubernetes-validate has the schemas inside, so nothing is asked of a cluster. Unknown fields are refused ("strict"). Every Job is
checked at each version of the API below; then each is broken in a way that a person may, which must be found.
"""

import copy
import sys
from pathlib import Path

import kubernetes_validate
import yaml

# The first that this release of the package has, which is after suspended and Indexed Jobs became stable (1.24), to its last.
VERSIONS = ["1.25", "1.27", "1.30", "1.33", "1.37"]


def valid(document, version):
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return str(error).splitlines()[0]
    return None


def broken(job):
    """The Job with one mistake each."""
    def change(what, path, value):
        new = copy.deepcopy(job)
        place = new
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        return what, new

    container = ["spec", "template", "spec", "containers", 0]
    yield change("a misspelt field", ["spec", "paralelism"], 2)
    yield change("a number that is a text", ["spec", "backoffLimit"], "twenty")
    yield change("a mount that is no list", [*container, "volumeMounts"], {"name": "run"})
    yield change("an unknown field of a container", [*container, "gpu"], 1)


def main():
    path = Path(__file__).parents[2] / "examples/kubernetes.yaml"
    jobs = [job for job in yaml.safe_load_all(path.read_text()) if job]
    failures = [] if len(jobs) == 3 else [f"{len(jobs)} Jobs, expected 3"]
    found = 0
    for job in jobs:
        name = job["metadata"]["name"]
        for version in VERSIONS:
            why = valid(job, version)
            failures += [f"{name} at {version}: {why}"] if why else []
        for what, mistaken in broken(job):
            if valid(mistaken, VERSIONS[-1]):
                found += 1
            else:
                failures.append(f"{name} with {what} is called valid")
        spec = job["spec"]
        if spec.get("completionMode") == "Indexed":
            environment = {item["name"]: item.get("value") for item in spec["template"]["spec"]["containers"][0]["env"]}
            names = environment["NAMES"].split()
            if not len(names) == spec["completions"] == len(set(names)):
                failures.append(f"{name}: {spec['completions']} completions of {names}")
        volumes = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
        for mount in spec["template"]["spec"]["containers"][0]["volumeMounts"]:
            if mount["name"] not in volumes:
                failures.append(f"{name} mounts {mount['name']}, which is no volume")
    print("\n".join(failures) or f"ok: {len(jobs)} Jobs at {', '.join(VERSIONS)}; {found} mistakes found")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
