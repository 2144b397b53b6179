"""Texts joined at their beginnings: the tree against a dictionary of tuples, its attention against a slow loop."""

import pytest
import torch

from chiasm.models.encoders.prefix_tree import attend_from_last, attend_in_tree, prefix_tree


def drawn(texts: int, longest: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids of three tokens, so that many texts begin alike and some are equal."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, (texts, longest), generator=generator)
    return ids, torch.randint(1, longest + 1, (texts,), generator=generator)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("texts", "longest"), [(1, 1), (1, 5), (7, 3), (40, 19)])
def test_nodes_are_the_distinct_beginnings(texts: int, longest: int, seed: int) -> None:
    """Guards against a beginning that is computed twice, or one that is shared by texts that differ before it."""
    ids, length = drawn(texts, longest, seed)
    tree = prefix_tree(ids, length)
    rows = [tuple(row[:end]) for row, end in zip(ids.tolist(), length.tolist(), strict=True)]
    beginnings = {row[: end + 1] for row in rows for end in range(len(row))}
    assert len(tree.ids) == len(beginnings)
    for row, path in zip(rows, tree.path.tolist(), strict=True):
        nodes = path[: len(row)]
        assert tree.ids[nodes].tolist() == list(row)
        assert tree.place[nodes].tolist() == list(range(len(row)))
    of = {row[: end + 1]: node for row, path in zip(rows, tree.path.tolist(), strict=True) for end, node in
          zip(range(len(row)), path, strict=False)}  # fmt: skip
    assert len(set(of.values())) == len(beginnings)
    for node in range(len(tree.ids)):
        assert tree.path[tree.row[node], tree.place[node]] == node
        assert tree.place[node] < tree.length[tree.row[node]]
    assert tree.last.tolist() == [of[row] for row in rows]


def test_attention_sees_the_nodes_before_and_no_other() -> None:
    """Guards against attention along the wrong path, or to padding; lengths fill several widths."""
    ids, length = drawn(30, 37, 0)
    tree = prefix_tree(ids, length)
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(len(tree.ids), 8, generator=generator, dtype=torch.float64) for _ in range(3))
    found = attend_in_tree(query, key, value, tree, heads=2)
    last = attend_from_last(query[tree.last], key, value, tree, heads=2)
    torch.testing.assert_close(last, found[tree.last], rtol=0, atol=1e-12)
    for node in range(len(tree.ids)):
        before = tree.path[tree.row[node], : tree.place[node] + 1]
        for part in (slice(0, 4), slice(4, 8)):
            scores = (key[before][:, part] @ query[node, part]) / 2
            expected = scores.softmax(0) @ value[before][:, part]
            torch.testing.assert_close(found[node, part], expected, rtol=0, atol=1e-12)
