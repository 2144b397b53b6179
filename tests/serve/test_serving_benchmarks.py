"""The serving benchmarks at a small size, against a process of its own: nothing breaks, leaks or gets lost."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
import serve_drain
import serve_fuzz
from serving import served


def test_fuzzed_requests_break_and_leak_nothing(tiny_run: Path) -> None:
    """Guards against a request that ends in a 500, an answer that its description does not know, and a leak."""
    with served(tiny_run) as process:
        record = serve_fuzz.fuzz(process.address, 240, seed=1)
        assert process.popen.poll() is None
    assert not record.wrong and not record.leaks and not record.misfits, (record.wrong, record.leaks, record.misfits)
    assert sum(record.statuses.values()) > 150 and record.statuses[200] and record.statuses[422]


@pytest.mark.parametrize(("text", "leaks"), [("<_io.BytesIO object at 0x7f3a12bc>", 1), ("/usr/lib/a", 1), ("no", 0)])
def test_leaks_are_seen(text: str, leaks: int) -> None:
    """Guards the guard."""
    record = serve_fuzz.Record()
    record.add("a", 500, text)
    assert len(record.leaks) == leaks and len(record.wrong) == 1


def test_a_stop_loses_nothing_and_the_null_control_does(tiny_run: Path) -> None:
    """Guards against requests that are cut off at SIGTERM, and a test that would not see it."""
    good, told, lost = serve_drain.drain_once(tiny_run, 12, is_naive=False)
    assert (good, told, lost) == (12, 0, 0)
    assert serve_drain.drain_once(tiny_run, 12, is_naive=True)[2] > 0
