"""Every number of the texts has a claim, every claim can be typed, and what claims.py says of them is true."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import claims
import claims_code
import claims_run
import claims_stored
import claims_texts

ROOT = claims_stored.ROOT
CACHED = (
    claims_code.git,
    claims_code.is_known,
    claims_code.changed,
    claims_code.names_at,
    claims_code.meaning,
)
SMALL = ("train", "evaluate", "probe", "demo")
ROWS = {"flickr8k": 12, "nlvr": 12, "vqa_rad": 300, "emoji": 96}
"""Examples of each split that a command at small size sees; VQA-RAD is cut into folds."""


def test_texts_and_claims_are_in_step() -> None:
    """Guards against a number that nobody can trace, and a claim whose number was edited away."""
    assert claims.faults() == []
    assert sum(len(block.scores) for name in claims_texts.texts() for block in claims_texts.blocks(name)) > 800


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("docs/adapting.md", "0.245-0.300", "0.245-0.301", "0.301 is in no stored result"),
        ("src/chiasm/recipes/demo.py", "vqa_accuracy 0.888", "vqa_accuracy 0.777", "0.777 is in no stored result"),
        ("README.md", "\n## Licence", "\nIts text_to_image_R@1 is 0.999.\n\n## Licence", "no claim has 0.999"),
        ("docs/running.md", "\n## Several", "\nThat takes 12 minutes.\n\n## Several", "no claim has 12 minutes"),
        ("docs/transfer.md", "| starter, names alone", "| starter, by name", "0 blocks of docs/transfer.md"),
    ],
)
def test_a_changed_number_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, old: str, new: str, message: str
) -> None:
    """Guards the guard: a check that accepts every text checks nothing."""
    for folder in ("docs", "src/chiasm/recipes"):
        shutil.copytree(claims_texts.ROOT / folder, tmp_path / folder)
    shutil.copy(claims_texts.ROOT / "README.md", tmp_path)
    text = (tmp_path / file).read_text(encoding="utf-8")
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    monkeypatch.setattr(claims_texts, "ROOT", tmp_path)
    assert any(message in fault for fault in claims.faults()), claims.faults()


def test_blocks_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against numbers that the check overlooks, and code or headings that it takes for text."""
    page = "# 0.111\n\nIt has 0.123 and\n12.5 %.\n\n```\n0.222\n```\n| a | b |\n| --- | --- |\n| 0.5 | 9.76 |\n"
    (tmp_path / "page.md").write_text(page, encoding="utf-8")
    monkeypatch.setattr(claims_texts, "ROOT", tmp_path)
    found = claims_texts.blocks("page.md")
    assert [block.scores for block in found] == [["0.123", "12.5 %"], [], ["9.76"]]
    assert claims_texts.named(found, "| a | b |") == found[1:]
    assert claims_texts.named(found, "It has") == found[:1]
    assert claims_texts.is_stored("9.76", [9.7648]) and not claims_texts.is_stored("9.77", [9.7648])
    assert claims_texts.is_stored("12.5 %", [0.1252]) and not claims_texts.is_stored("12.5 %", [0.1262])


def test_the_results_page_is_generated() -> None:
    """Guards against a table that was edited by hand; `python benchmarks/claims.py table` writes it."""
    assert claims.PAGE.read_text(encoding="utf-8") == claims.page()
    commits = [claim.facts[1] for claim in claims_stored.claims().values() if claim.rows]
    assert len(commits) >= 10 and not any(commit.endswith("-dirty") or not commit for commit in commits)


@pytest.mark.parametrize("name", claims_stored.claims())
def test_a_command_can_be_typed(name: str, tmp_path: Path) -> None:
    """Guards against a documented command that ends with an error of usage."""
    claim = claims_stored.claims()[name]
    assert claims_code.cannot_be_typed(claim.typed(tmp_path / name)) == ""
    assert claim.facts[0] >= "2026" and (claim.stored or claim.machine), "date, and machine where nothing is stored"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("chiasm trian demo", "no verb 'trian'"),
        ("chiasm train dmeo", "no recipe 'dmeo'"),
        ("chiasm train demo --otu x", "--otu"),
        ("chiasm train demo --set train.step=3", "train.step"),
        ("python benchmarks/vqa_rad.py --flods 5", "--flods"),
        ("python benchmarks/vqa_dar.py", "there is no benchmarks/vqa_dar.py"),
        ("make dmeo", "dmeo"),
    ],
)
def test_a_command_that_cannot_be_typed_is_seen(command: str, message: str) -> None:
    """Guards the guard above."""
    assert message in claims_code.cannot_be_typed(command)


@pytest.mark.parametrize(
    "script", sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("docs/*.py")]), ids=lambda file: file.stem
)
def test_what_a_script_imports_is_there(script: Path) -> None:
    """Guards against a benchmark that a renamed function has broken; none of them runs in the gate."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "chiasm":
            module = importlib.import_module(str(node.module))
            missing = [one.name for one in node.names if not hasattr(module, one.name)]
            assert not missing, f"{node.module} has no {', '.join(missing)}"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository of its own with two files of a package, one commit."""
    for function in CACHED:
        function.cache_clear()
    monkeypatch.setattr(claims_code, "ROOT", tmp_path)
    for name in ("models/one.py", "serve/two.py"):
        (tmp_path / "src" / "chiasm" / name).parent.mkdir(parents=True)
        (tmp_path / "src" / "chiasm" / name).write_text("".join(f"LINE_{n} = '{name}'\n" for n in range(20)))
    commit(tmp_path)
    yield tmp_path
    for function in CACHED:
        function.cache_clear()


def commit(folder: Path) -> str:
    """Commit everything; the commit."""
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "state"]):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words], cwd=folder, check=True, capture_output=True
        )
    for function in CACHED:
        function.cache_clear()
    return claims_code.git("rev-parse", "HEAD").strip()


def test_changed_code_is_seen(repository: Path) -> None:
    """Guards against numbers that count as current although their code is another; moving a file changes nothing."""
    first = claims_code.git("rev-parse", "HEAD").strip()
    assert claims_code.changed_files(["models", "serve"], first) == []
    package = repository / "src" / "chiasm"
    (package / "networks").mkdir()
    (package / "models" / "one.py").rename(package / "networks" / "one.py")
    second = commit(repository)
    assert claims_code.changed_files(["networks", "serve"], first) == []
    with open(package / "networks" / "one.py", "a") as file:
        file.write("ANOTHER = 1\n")
    commit(repository)
    assert claims_code.changed_files(["networks"], first) == ["src/chiasm/networks/one.py"]
    assert claims_code.changed_files(["networks"], second) == ["src/chiasm/networks/one.py"]
    assert claims_code.changed_files(["serve"], first) == []
    (package / "serve" / "two.py").unlink()
    commit(repository)
    assert len(claims_code.changed_files(["networks"], first)) == 2, "what is gone counts for everything"


def test_what_a_command_never_runs_is_left_out(repository: Path) -> None:
    """Guards against sixty claims that are stale because of a task that none of them trains, and one that trains it."""
    first = claims_code.git("rev-parse", "HEAD").strip()
    (repository / "src" / "chiasm" / "models" / "one.py").write_text("ANOTHER = 1\n")
    commit(repository)
    groups = {"all": ["models", "serve", "!some"], "some": ["models/one"]}
    without, with_it = (list(claims_stored.paths_of(words, groups)) for words in (["all"], ["all", "some"]))
    assert without == ["models", "serve", "!models/one"] and with_it == [*without, "models/one"]
    assert claims_code.changed_files(without, first) == []
    assert claims_code.changed_files(with_it, first) == ["src/chiasm/models/one.py"]


def test_the_code_of_a_claim_is_there() -> None:
    """Guards against a path that was renamed: nothing below it would ever make a number stale."""
    package = Path(claims_code.ROOT) / "src" / "chiasm"
    for name, claim in claims_stored.claims().items():
        for path in claim.code:
            place = package / path.removeprefix("!")
            assert place.exists() or list(place.parent.glob(f"{place.name}*")), (name, path)


def test_words_about_code_are_no_code(repository: Path) -> None:
    """Guards against runs that are repeated for a docstring, and against a changed text that the code uses."""
    one = repository / "src" / "chiasm" / "models" / "one.py"
    written = 'X = 1\n"""Of X."""\n\n\ndef f(a):\n    """Return a."""\n    return a or "text"\n'
    one.write_text(written)
    first = commit(repository)
    for edited in (
        written.replace("Of X.", "What X is."),
        written.replace("Return a.", "Give a back."),
        "# A comment.\n" + written.replace("X = 1", "X = (1)  # one"),
        written.replace('    """Return a."""\n', ""),
    ):
        one.write_text(edited)
        commit(repository)
        assert claims_code.changed_files(["models"], first) == [], edited
    for edited in (written.replace('"text"', '"texts"'), written.replace("return a or", "return"), "X = 1\n"):
        one.write_text(edited)
        commit(repository)
        assert claims_code.changed_files(["models"], first) == ["src/chiasm/models/one.py"], edited


def test_a_stored_curve_holds_what_came_after_it(repository: Path) -> None:
    """Guards against a gate that also excuses what changed before it was stored."""
    first = claims_code.git("rev-parse", "HEAD").strip()
    one = repository / "src" / "chiasm" / "models" / "one.py"
    (repository / "golden.json").write_text("{}")
    commit(repository)
    one.write_text(one.read_text() + "AFTER = 1\n")
    commit(repository)
    assert claims_code.changed_files(["models"], first, "golden.json") == []
    (repository / "golden.json").write_text('{"loss": 1}')
    commit(repository)
    assert claims_code.changed_files(["models"], first, "golden.json") == ["src/chiasm/models/one.py"]
    one.write_text("X = 3\n")
    commit(repository)
    second = claims_code.git("rev-parse", "HEAD").strip()
    one.unlink()
    commit(repository)
    assert claims_code.changed_files(["models"], second, "golden.json") == [], "measured when the curve was there"
    assert claims_code.changed_files(["models"], second) != []


@pytest.mark.parametrize("written", ["{out}.json", "kept.json"])
@pytest.mark.parametrize(("value", "code"), [(0.25, 0), (0.299, 0), (0.31, 1), (0.19, 1)])
def test_run_compares_with_the_interval(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    value: float,
    code: int,
    written: str,
) -> None:
    """Guards against a run that calls every number confirmed, as one that writes over the stored file would."""
    score = {"value": 0.25, "low": 0.2, "high": 0.3, "n": 9}
    (tmp_path / "kept.json").write_text(json.dumps({"metrics": {"a_R@1": score}, "environment": {"commit": "abc"}}))
    writer = tmp_path / "writer.py"
    made = {"metrics": {"a_R@1": {**score, "value": value}}}
    writer.write_text(f"import pathlib, sys\npathlib.Path(sys.argv[1]).write_text('{json.dumps(made)}')\n")
    command = f"python {writer} {written}"
    claim = claims_stored.Claim(name="one", command=command, code=("models",), stored="kept.json", reads=written)
    for name, other in (("RESULTS", tmp_path), ("WORK", tmp_path / "work"), ("ROOT", tmp_path)):
        monkeypatch.setattr(claims_stored, name, other)
    monkeypatch.setattr(claims_stored, "claims", lambda: {"one": claim})
    claims_stored.read.cache_clear()
    assert claims_run.run("one") == code
    assert ("OUTSIDE" in capsys.readouterr().out) == bool(code)


def test_an_older_result_is_not_taken_for_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a command that prints and writes nothing, after which the stored numbers were kept as new."""
    old = tmp_path / "2026-01-01-one.json"
    old.write_text('{"metrics": {}}')
    os.utime(old, (1e9, 1e9))
    claim = claims_stored.Claim(name="one", command="python -c pass", code=(), stored=old.name, reads="*-one.json")
    for name, other in (("RESULTS", tmp_path), ("WORK", tmp_path / "work"), ("ROOT", tmp_path)):
        monkeypatch.setattr(claims_stored, name, other)
    monkeypatch.setattr(claims_stored, "claims", lambda: {"one": claim})
    with pytest.raises(SystemExit, match="wrote no"):
        claims_run.run("one", is_kept=True)


def test_a_result_that_is_kept_takes_the_stored_ones_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against kept numbers that no claim names, and against numbers of uncommitted code."""
    file = tmp_path / "claims.toml"
    file.write_text('\n[one]\nstored = "old.json#a"\n\n[two]\nstored = "old.json#a"\n')
    for name, other in (("RESULTS", tmp_path), ("FILES", [file])):
        monkeypatch.setattr(claims_stored, name, other)
    claim = claims_stored.Claim(
        name="two", command="chiasm evaluate starter --json {out}.json", code=(), stored="old.json#a"
    )
    written = tmp_path / "work" / "two.json"
    written.parent.mkdir()
    for commit, is_kept in (("abc-dirty", False), ("abc", True)):
        written.write_text(json.dumps({"metrics": {"acc1": 0.5}, "environment": {"commit": commit}}))
        if is_kept:
            claims_run.keep(claim, written, 61.6)
        else:
            with pytest.raises(SystemExit, match="commit first"):
                claims_run.keep(claim, written, 61.6)
    (kept,) = tmp_path.glob("*-two.json")
    told = json.loads(kept.read_text())
    assert (told["command"], told["command_s"]) == ("chiasm evaluate starter", 62)
    assert file.read_text() == f'\n[one]\nstored = "old.json#a"\n\n[two]\nstored = "{kept.name}"\n'


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory, real_data: Path) -> Path:
    """The sets that claims name, with the first examples of each split."""
    folder = tmp_path_factory.mktemp("data")
    for name, count in ROWS.items():
        for rows in sorted((real_data / name).glob("*/data.jsonl")):
            lines = rows.read_text(encoding="utf-8").splitlines()[:count]
            place = folder / name / rows.parent.name / "data.jsonl"
            place.parent.mkdir(parents=True)
            place.write_text("\n".join(lines) + "\n", encoding="utf-8")
            for line in lines:
                image = json.loads(line)["image"]
                (folder / name / image).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(real_data / name / image, folder / name / image)
    for name in ("clip_bpe", "emoji/concepts.jsonl"):
        (folder / name).symlink_to((real_data / name).resolve())
    for label in sorted((real_data / "cifar10_subset" / "images").glob("*/*")):
        place = folder / label.relative_to(real_data)
        place.mkdir(parents=True)
        for image in sorted(label.iterdir())[:4]:
            shutil.copy(image, place)
    return folder


def small(claim: claims_stored.Claim) -> str:
    """The command at small size: as the claim says, or with --tiny where the verb has it; "" for none."""
    if claim.small is not None:
        return claim.small
    verb = re.match(r"chiasm (\w+)", claim.command)
    if verb is None or verb[1] not in SMALL:
        return ""
    return f"{claim.command} --tiny" if verb[1] == "train" else claim.command


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name, claim in claims_stored.claims().items() if small(claim)])
def test_a_command_runs_on_the_real_folders(name: str, small_data: Path, work: Path, scripts: Path) -> None:
    """Guards against a documented command that ends with an error on the data that it was written for."""
    if not (work / name).exists():
        run_small(claims_stored.claims()[name], small_data, work, scripts)


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs at small size go, one folder a claim, so that one can read another's."""
    return tmp_path_factory.mktemp("claims")


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what scripts read, where they may write results and pages."""
    folder = tmp_path_factory.mktemp("scripts")
    for name in ("benchmarks", "docs", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("results", "__pycache__"))
    return folder


def run_small(claim: claims_stored.Claim, data: Path, work: Path, scripts: Path) -> None:
    """Run a claim's command at small size, and before it what it reads."""
    for other in claim.needs:
        if not (work / other).exists():
            run_small(claims_stored.claims()[other], data, work, scripts)
    places = {name: str(work / name) for name in claims_stored.claims()}
    command = small(claim).format(data=data, out=work / claim.name, **places)
    done = subprocess.run(
        claims_run.words_of(command),
        cwd=scripts,
        env={**os.environ, "CHIASM_DATA": str(data)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, (command, done.stderr[-2000:])
