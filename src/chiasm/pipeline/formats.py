"""Run folders of earlier formats: the names that their tensors have in this one."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from chiasm.tasks.base import Task


def in_this_format(tensors: Mapping[str, Tensor], tasks: Mapping[str, Task[Any]]) -> dict[str, Tensor]:
    """Tensors of a run folder of format 1, or of this format, under the names of this one.

    Heads stood beside each other as `answer_head.`, `match_head.` and so on (`Task.head_in_format_1`); a head that two
    tasks shared becomes one for each.
    """
    found = dict(tensors)
    for task in tasks.values():
        for before, now in task.head_in_format_1.items():
            old = {name: value for name, value in tensors.items() if name.startswith(before)}
            found |= {f"heads.{task.name}.{now}{name.removeprefix(before)}": value for name, value in old.items()}
    known = tuple(before for task in tasks.values() for before in task.head_in_format_1)
    return {name: value for name, value in found.items() if not (known and name.startswith(known))}
