"""The wheel and the source distribution work where nothing but their dependencies is."""

import os
import shutil
import site
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("src", "pyproject.toml", "README.md", "LICENSE")
BUILD = "import sys; from setuptools import build_meta; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
"""Calls a hook of PEP 517 with the setuptools that is installed, so that nothing is downloaded."""
pytestmark = pytest.mark.long


def plain_environment() -> dict[str, str]:
    """The environment of a process that finds packages in its own interpreter alone."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PYTEST", "COV"))}


def build(hook: str, project: Path, out: Path) -> Path:
    """Build a project with a hook, `build_wheel` or `build_sdist`, into a new folder."""
    out.mkdir()
    command = [sys.executable, "-c", BUILD, hook, str(out)]
    done = subprocess.run(
        command, cwd=project, env=plain_environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.strip().splitlines()[-1]


def contents(wheel: Path) -> dict[str, bytes]:
    """Path -> bytes of everything in a wheel."""
    with zipfile.ZipFile(wheel) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build needs, without what earlier builds left."""
    place = tmp_path_factory.mktemp("checkout") / "chiasm"
    place.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            left = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, place / name, ignore=left)
        else:
            shutil.copy(ROOT / name, place / name)
    return place


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the copy."""
    return build("build_wheel", checkout, tmp_path_factory.mktemp("built") / "wheel")


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel; dependencies come from the running one, so none is downloaded."""
    place = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True, timeout=300)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n", encoding="utf-8")
    install = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command = [*install, "--ignore-installed", str(wheel)]
    subprocess.run(command, env=plain_environment(), check=True, timeout=300)
    return place


def typed(environment: Path, here: Path, *words: str) -> str:
    """What a command of the environment prints, run in an empty folder."""
    command = [str(environment / "bin" / words[0]), *words[1:]]
    done = subprocess.run(
        command, cwd=here, env=plain_environment(), capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_of_the_package(checkout: Path, wheel: Path) -> None:
    """Guards against a style sheet, a word list or `py.typed` that only the checkout has."""
    package = checkout / "src"
    files = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    files = {name for name in files if "egg-info" not in name and "__pycache__" not in name}
    held = contents(wheel)
    assert {name for name in held if ".dist-info/" not in name} == files
    assert {"chiasm/py.typed", "chiasm/serve/page/index.html"} <= files
    assert {Path(name).suffix for name in files} >= {".css", ".txt", ".html", ".js"}
    for name in files:
        assert held[name] == (package / name).read_bytes(), name


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    """Guards against metadata that an index would refuse, or that names no command."""
    (metadata,) = (text.decode() for name, text in contents(wheel).items() if name.endswith("/METADATA"))
    (commands,) = (text.decode() for name, text in contents(wheel).items() if name.endswith("/entry_points.txt"))
    assert "Requires-Python: >=3.11" in metadata and "License-Expression: Apache-2.0" in metadata
    assert "Requires-Dist: torch>=2.9\n" in metadata and "chiasm = chiasm.cli:main" in commands


def test_the_source_distribution_builds_the_same_wheel(checkout: Path, wheel: Path, tmp_path: Path) -> None:
    """Guards against a file that only the checkout has."""
    archive = build("build_sdist", checkout, tmp_path / "sdist")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "unpacked", filter="data")
    (project,) = (tmp_path / "unpacked").iterdir()
    again, first = contents(build("build_wheel", project, tmp_path / "again")), contents(wheel)
    assert again.keys() == first.keys()
    assert [name for name in first if again[name] != first[name] and not name.endswith("/RECORD")] == []


def test_commands_run_where_only_the_wheel_is(environment: Path, tmp_path: Path) -> None:
    """Guards against an import, or a file, that is found only beside the checkout."""
    where = typed(environment, tmp_path, "python", "-c", "import chiasm; print(chiasm.__file__)")
    assert Path(where.strip()).is_relative_to(environment)
    assert "Start with" in typed(environment, tmp_path, "chiasm", "--help")
    assert "flickr8k_retrieval" in typed(environment, tmp_path, "chiasm", "recipes")
    assert "vqa_accuracy" in typed(environment, tmp_path, "chiasm", "demo", "--tiny", "--out", "run")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<style>" in page and len(page) > 10_000
    (style,) = environment.glob("lib/python*/site-packages/chiasm/report/*.css")
    assert style.read_text(encoding="utf-8").splitlines()[0] in page
