"""The benchmark from Python: what it refuses, and what it leaves of a model."""

import datetime
import json
from pathlib import Path

import pytest

import chiasm
from chiasm.core.errors import InputError
from chiasm.evaluate.speed import compare


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other engines, whose exports take their time."""
    monkeypatch.setattr(compare, "other_engines", lambda *given: ([], {}))


def test_what_is_measured_is_dated_and_of_the_run(tiny_run: Path) -> None:
    """Guards against numbers whose machine, data or day nobody knows afterwards."""
    found = chiasm.bench(tiny_run, batch=2, rounds=1, progress=False)
    told = json.loads(json.dumps(found.as_dict()))
    assert told["date"] == str(datetime.date.today()) and told["data"] == "scenes" and told["rows"] == 2
    assert told["environment"]["cpu"] and told["run"] == str(tiny_run)
    assert set(told["works"]) == {"images", "files", "texts"} and told["works"]["texts"][0]["per_s"] > 0


def test_wrong_input_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    """Guards against a division by no rounds, and against a data folder that is not there."""
    for wrong in ({"batch": 0}, {"rounds": 0}):
        with pytest.raises(InputError, match="1 or more"):
            chiasm.bench(tiny_run, progress=False, **wrong)
    with pytest.raises(InputError):
        chiasm.bench(tiny_run, tmp_path / "nothing", progress=False)
