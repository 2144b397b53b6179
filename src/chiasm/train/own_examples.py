"""Training examples that the model of a run makes itself before the first step, kept in the run folder.

They are written where anyone can read them, in a layout that `data.others` reads too, and a resumed run reads them
again: after the first step the model would make others.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from chiasm.core.distributed import barrier, rank
from chiasm.core.errors import InputError
from chiasm.core.files import write_text
from chiasm.core.log import Progress
from chiasm.core.types import Example, Turn
from chiasm.data.dataset import Dataset, ListDataset
from chiasm.data.ledger import Ledger
from chiasm.data.mixture import with_part
from chiasm.data.sources.conversation_rows import record_of
from chiasm.data.sources.messages_jsonl import KEY
from chiasm.data.sources.parsing import Rejected, read_json_lines
from chiasm.pipeline.pipeline import Pipeline

NAME = "rehearsed"
FILE = f"{NAME}.jsonl"
"""In the run folder: JSON lines of messages, as OpenAI's interface writes them."""


def with_own_examples(pipeline: Pipeline, training: Dataset, folder: Path, is_new: bool, progress: Progress) -> Dataset:
    """Return the training set with what `Task.own_conversations` makes as a part of its own; unchanged without any.

    Args:
        pipeline: of a new run not yet trained.
        training: prepared.
        folder: of the run; rank 0 writes `FILE` there.
        is_new: make them; a resumed run reads the file.
        progress: called with (done, total, what).

    Raises:
        InputError: a resumed run lacks the file, or it is broken; as `Task.own_conversations`.
    """
    makers = [task for task in pipeline.tasks.values() if task.makes_conversations]
    if not makers:
        return training
    seed, path = pipeline.config.seed, folder / FILE
    if is_new and rank() == 0:
        pipeline.model.eval()
        made = [
            turns for task in makers for turns in task.own_conversations(pipeline.model, pipeline.codec, seed, progress)
        ]
        write_text(path, "".join(_line(turns) for turns in made))
    barrier()
    examples = _examples(path)
    if not examples:
        return training
    ledger = Ledger()
    ledger.offer(len(examples))
    ledger.use(len(examples))
    return with_part(training, NAME, ListDataset(training.split, examples, ledger), seed)


def _line(turns: Sequence[Turn]) -> str:
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    return json.dumps({KEY: messages}, ensure_ascii=False) + "\n"


def _examples(path: Path) -> list[Example]:
    if not path.is_file():
        raise InputError(f"{path} is missing", "the conversations that the run began with", "restore it from a copy")
    found = []
    for number, (source, row) in enumerate(read_json_lines(path)):
        if isinstance(row, Rejected):
            raise InputError(f"{row.source}: {row.text}", "the file as it was written", f"restore {path} from a copy")
        found.append(Example(f"{NAME}-{number}", {}, turns=record_of(row, source, KEY).turns, source=source))
    return found
