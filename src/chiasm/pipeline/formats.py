"""Maps tensor names of run folders of format 1 to the names of this format."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from chiasm.tasks.base import Task


def in_this_format(tensors: Mapping[str, Tensor], tasks: Mapping[str, Task[Any]]) -> dict[str, Tensor]:
    """Rename the tensors of a run folder of format 1; tensors of this format keep their names.

    In format 1, heads were top-level modules, `answer_head.`, `match_head.` and so on (`Task.head_in_format_1`); a head
    that two tasks shared becomes one for each.
    """
    found = dict(tensors)
    for task in tasks.values():
        for before, now in task.head_in_format_1.items():
            old = {name: value for name, value in tensors.items() if name.startswith(before)}
            found |= {f"heads.{task.name}.{now}{name.removeprefix(before)}": value for name, value in old.items()}
    known = tuple(before for task in tasks.values() for before in task.head_in_format_1)
    return {name: value for name, value in found.items() if not (known and name.startswith(known))}
