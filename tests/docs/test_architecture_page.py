"""The page on architecture names every room, and no file that is not there."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "chiasm"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_room_is_there_in_its_place() -> None:
    """Guards against a map of yesterday's house: the order of rooms is the one that the linter enforces."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    (block,) = re.findall(r"src/chiasm/\n(.*?)```", PAGE, re.S)
    rooms = re.findall(r"^  (\w+)/", block, re.M)
    assert sorted(rooms) == sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file())
    ranks = {room: rank for rank, layer in enumerate(layers) for room in layer.split(" | ")}
    assert [ranks[room] for room in rooms] == sorted(ranks.values())


def test_what_the_page_names_exists() -> None:
    """Guards against a walk that leads to a file which was moved."""
    inner = re.findall(r"(\w+)/ \(", PAGE) + re.findall(r"[;,:] (\w+)/[;,\s]", PAGE)
    files = {name for name in re.findall(r"`([a-z_/]+(?:\.py|/))`", PAGE) if "NAME" not in name}
    assert len(files) > 25
    for name in files:
        assert (PACKAGE / name).exists() or (ROOT / name).exists(), name
    for folder in inner:
        assert list(PACKAGE.glob(f"*/{folder}")), folder
