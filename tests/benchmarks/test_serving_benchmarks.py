"""The serving benchmarks at a small size, against a process of its own: nothing breaks, leaks or gets lost."""

from pathlib import Path

import pytest

import serve_drain
import serve_fuzz
import serve_hostile
from serving import served


@pytest.mark.long
def test_fuzzed_requests_break_and_leak_nothing(tiny_run: Path) -> None:
    """Guards against a request that ends in a 500, an answer that its description does not know, and a leak."""
    with served(tiny_run) as process:
        record = serve_fuzz.fuzz(process.address, 240, seed=1)
        assert process.popen.poll() is None
    assert not record.wrong and not record.leaks and not record.misfits, (record.wrong, record.leaks, record.misfits)
    assert sum(record.statuses.values()) > 150 and record.statuses[200] and record.statuses[422]


@pytest.mark.long
def test_hostile_requests_do_not_fill_the_memory(tiny_run: Path) -> None:
    """Guards against heads, bodies, JSON and pictures that fill the memory; each alone took more than this allows."""
    kinds = ["header_without_end", "trailer_without_end", "unfinished_body", "many_objects", "picture png grey16"]
    found = serve_hostile.attack(tiny_run, (), 30, 30, 2**30, 0, kinds)
    assert found["restarts"] == 0 and found["honest_answers"] == 1 and set(found["honest"]) <= {"200", "503"}
    assert found["peak_mib"] - found["before_mib"] < 340 and found["after_mib"] - found["before_mib"] < 200
    assert set(found["outcomes"]["picture png grey16"]) <= {"200", "no answer"}, (
        "decoded, if the machine is fast enough"
    )


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
