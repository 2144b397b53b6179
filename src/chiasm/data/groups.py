"""Groups of what belongs together: rows that name the same group or share an image."""

from collections.abc import Sequence
from itertools import chain

import numpy as np


def joined_groups(groups: Sequence[str], members: Sequence[Sequence[str]]) -> list[str]:
    """Join rows that have a group or a member in common, directly or through others.

    Args:
        groups: of n rows, as stated; "" for none.
        members: of n rows, one or more names each, such as their images.

    Returns:
        A group for each row: the first that a row of the joined ones states, else the first member of the first row.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    named = [
        [*(f"group {group}" for group in [group] if group), *(f"member {member}" for member in row)]
        for group, row in zip(groups, members, strict=True)
    ]
    node = {name: place for place, name in enumerate(dict.fromkeys(chain(*named)), len(named))}
    rows = [row for row, names in enumerate(named) for _ in names]
    columns = [node[name] for name in chain(*named)]
    size = len(named) + len(node)
    graph = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(size, size))
    parts = connected_components(graph, directed=False)[1][: len(named)].tolist() if named else []
    stated: dict[int, str] = {}
    first: dict[int, str] = {}
    for part, group, row in zip(parts, groups, members, strict=True):
        first.setdefault(part, row[0])
        if group:
            stated.setdefault(part, group)
    return [stated.get(part, first[part]) for part in parts]
