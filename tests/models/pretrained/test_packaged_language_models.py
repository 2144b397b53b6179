"""Packages of language models are found without being imported, and named with their command where they are absent."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from chiasm.core.errors import InputError
from chiasm.models.pretrained.packaged_language_models import LANGUAGE_MODELS, packaged_parts


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_an_absent_package_is_named_with_its_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a user who does not learn how the model gets here, or under which terms."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(InputError) as said:
        packaged_parts(name)
    assert LANGUAGE_MODELS[name].install in said.value.do
    assert "chiasm[llm]" in said.value.do
    assert LANGUAGE_MODELS[name].terms in said.value.allowed


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_parts_are_found_in_order_without_an_import(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a package that imports llama.cpp, and parts in another order."""
    for module, inner in LANGUAGE_MODELS[name].parts:
        (tmp_path / module / inner).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / module / inner).write_bytes(b"")
    found = {module: SimpleNamespace(submodule_search_locations=[str(tmp_path / module)]) for module, _ in _parts(name)}
    monkeypatch.setattr(importlib.util, "find_spec", found.get)
    assert packaged_parts(name) == tuple(tmp_path / module / inner for module, inner in _parts(name))
    assert not set(found) & set(sys.modules)
    last, inner = _parts(name)[-1]
    (tmp_path / last / inner).unlink()
    with pytest.raises(InputError, match=last):
        packaged_parts(name)


def _parts(name: str) -> tuple[tuple[str, str], ...]:
    return LANGUAGE_MODELS[name].parts
