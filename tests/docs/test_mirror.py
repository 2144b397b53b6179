"""The tests mirror the rooms: a module `room/name.py` is tested by `tests/room/test_name.py`.

Modules without such a file stand in `unmirrored.txt`, a list that may only shrink. They are not untested: tiers such as
contract, parity and runs go through them, and other files of their room. But a reader cannot guess where.
"""

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PACKAGE = TESTS.parent / "src" / "chiasm"
LIST = Path(__file__).with_name("unmirrored.txt")
MOST = 186
"""To be lowered when the list has become shorter; never raised."""


def without_a_test() -> list[str]:
    """Modules without a test of the same path."""
    modules = [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py")) if not path.name.startswith("__")]
    return [str(path) for path in modules if not (TESTS / path.parent / f"test_{path.name}").is_file()]


def test_no_module_is_added_without_a_test() -> None:
    """Guards against a new module whose tests nobody finds."""
    listed = LIST.read_text(encoding="utf-8").split()
    new = sorted(set(without_a_test()) - set(listed))
    assert not new, f"write tests/{new[0][:-3].rpartition('/')[0]}/test_{Path(new[0]).name}; the list may only shrink"


def test_the_list_only_shrinks() -> None:
    """Guards against names that stay on the list when their tests are written, or their modules gone."""
    listed = LIST.read_text(encoding="utf-8").split()
    left = sorted(set(listed) - set(without_a_test()))
    assert not left, f"take {', '.join(left)} off {LIST.name}"
    assert len(listed) == len(set(listed)) <= MOST
