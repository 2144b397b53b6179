"""The ledger: offered = used + rejected, and the lines that say why."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chiasm.core.errors import InputError, JobError
from chiasm.core.types import Source
from chiasm.data.ledger import Ledger, kept_where_refused


def filled(used: int, rejected: int) -> Ledger:
    ledger = Ledger()
    ledger.offer(used + rejected)
    ledger.use(used)
    for row in range(rejected):
        ledger.reject(Source("data.csv", row + 1), "missing_image", f"there is no image '{row}.jpg'")
    return ledger


def test_summary_says_what_happened() -> None:
    """Counts in the sentence must be those of the entries."""
    ledger = filled(8091, 1)
    ledger.note(Source("data.csv", 7), "empty_caption", "a caption was dropped")
    assert ledger.summary() == ("8092 offered = 8091 used + 1 rejected (missing_image 1); 1 notes (empty_caption 1)")


def test_sum_that_does_not_come_out_is_our_bug() -> None:
    """Items that vanish between reading and use must be found, whichever way the ledger is asked."""
    ledger = filled(3, 1)
    ledger.offer()
    for ask in (ledger.summary, lambda: ledger.check(1.0), lambda: ledger.write(Path("never"))):
        with pytest.raises(JobError, match="5 offered, 3 used, 1 rejected"):
            ask()


def test_check_is_at_the_limit_not_below() -> None:
    """One per cent of 500 is allowed, six are not; nothing usable is never allowed."""
    filled(495, 5).check(0.01)
    with pytest.raises(InputError, match=r"6 rejected \(missing_image 6\)\n.*data.csv:1: there is no image"):
        filled(494, 6).check(0.01)
    for ledger in (filled(0, 3), Ledger()):
        with pytest.raises(InputError, match="0 used"):
            ledger.check(1.0)
    with pytest.raises(InputError, match="share"):
        filled(1, 0).check(1.5)


def test_written_lines_and_summary_last(tmp_path: Path) -> None:
    """A file name with stray bytes, or a Chinese caption, made the log unreadable elsewhere."""
    ledger = filled(2, 1)
    ledger.note(Source("图.csv"), "empty_caption", "一")
    ledger.offer()
    ledger.reject(Source("bad\udcff.jpg"), "missing_image", "bad\udcff.jpg\n")
    ledger.write(tmp_path / "ledger.jsonl")
    raw = (tmp_path / "ledger.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in raw.splitlines()]
    assert lines[0] == {
        "kind": "rejected",
        "file": "data.csv",
        "row": 1,
        "code": "missing_image",
        "text": "there is no image '0.jpg'",
    }
    assert lines[1]["file"] == "图.csv"
    assert "图" in raw
    assert lines[1]["row"] is None
    assert lines[2]["file"] == "bad\udcff.jpg"
    assert lines[-1] == {
        "kind": "summary",
        "offered": 4,
        "used": 2,
        "rejected": 2,
        "codes": {"missing_image": 2},
        "notes": {"empty_caption": 1},
    }
    assert len(lines) == 4


def test_withdrawing_from_many_threads_keeps_the_sum() -> None:
    """Decoding threads report at once; an unguarded counter loses some."""
    ledger = filled(4000, 0)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: ledger.withdraw(Source("x", row), "corrupt", "damaged"), range(4000)))
    assert (ledger.offered, ledger.used, ledger.rejected, len(ledger.entries)) == (4000, 0, 4000, 4000)


def test_ledgers_are_added() -> None:
    """A joined set must tell of all rejected rows, and leave the ledgers it was added from as they were."""
    parts = [filled(3, 1), filled(5, 2)]
    total = Ledger.added(parts)
    assert total.summary() == "11 offered = 8 used + 3 rejected (missing_image 3)"
    total.reject(Source("x"), "corrupt", "damaged")
    assert [len(part.entries) for part in parts] == [1, 2] and parts[0].rejected == 1


def test_a_few_of_few_stop_nothing() -> None:
    """One broken photo of twenty is 5 %, and ended the run; four of twenty, or one of four, still do."""
    for used, rejected in ((19, 1), (17, 3), (12, 3), (4, 1)):
        filled(used, rejected).check(0.01)
        with pytest.raises(InputError):
            filled(used, rejected).check(0.0)
    for used, rejected in ((16, 4), (3, 1), (11, 3)):
        with pytest.raises(InputError, match="or 3 items that are at most a fifth"):
            filled(used, rejected).check(0.01)


@pytest.mark.parametrize(("used", "rejected"), [(16, 4), (93, 7), (2, 1), (9990, 150), (987, 13), (3, 997), (1, 2)])
def test_the_printed_flag_is_enough(used: int, rejected: int) -> None:
    """A flag that is rounded down ends the next run as well."""
    ledger = filled(used, rejected)
    with pytest.raises(InputError) as caught:
        ledger.check(0.01)
    flag = float(caught.value.do.rpartition("--set data.max_rejected=")[2])
    ledger.check(flag)
    assert flag <= rejected / (used + rejected) + 0.01


def test_all_reasons_are_counted_and_advice_comes_first() -> None:
    """Somebody who repairs the first reason met the second in the next run."""
    ledger = filled(1, 4)
    ledger.offer(2)
    ledger.reject(Source("data.csv", 9), "empty_caption", "a caption was dropped")
    ledger.reject(Source("data.csv", 10), "empty_caption", "another")
    ledger.advise("--set data.images=PHOTOS")
    with pytest.raises(InputError) as caught:
        Ledger.added([ledger, Ledger()]).check(0.01)
    assert "\n    missing_image: 4, the first at data.csv:1: there is" in caught.value.given
    assert "\n    empty_caption: 2, the first at data.csv:9: a caption was dropped" in caught.value.given
    assert caught.value.do.startswith("--set data.images=PHOTOS; or ")


def test_a_refused_ledger_is_kept(tmp_path: Path) -> None:
    """A message that counts reasons is no list of files; and only one of several processes writes."""
    for is_writer in (False, True):
        with pytest.raises(InputError, match="/ledger"), kept_where_refused(tmp_path, is_writer):
            filled(0, 5).check(0.01)
        assert (tmp_path / "ledger.jsonl").exists() == is_writer
    lines = (tmp_path / "ledger.jsonl").read_text().splitlines()
    assert len(lines) == 6 and json.loads(lines[-1])["codes"] == {"missing_image": 5}
