"""An objective over prefixes of its vectors, so that the first coordinates alone are vectors too.

Matryoshka representation learning (Kusupati et al. 2022, section 3, equation 1, with equal weights): the objective is
averaged over the first m coordinates of each vector, for some m, and the whole vector. A prefix of a unit vector is
divided by its length.
"""

from collections.abc import Callable, Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor

Terms = dict[str, Tensor]


def mean_over_prefixes(
    objective: Callable[[Mapping[str, Tensor]], Terms], widths: Sequence[int], vectors: Mapping[str, Tensor]
) -> Terms:
    """Mean of an objective's terms over prefixes of its vectors, and the whole vectors.

    Args:
        objective: unit vectors by name -> named terms; called once for each width, and last with the whole vectors.
        widths: numbers of first coordinates, in [1, e]; e itself counts once. Without any it is the objective.
        vectors: unit vectors float [_, e] by name, such as those of images and of texts; rows of zeros stay so.

    Returns:
        The terms, each the mean over `widths` and e.
    """
    whole = next(iter(vectors.values())).shape[1]
    assert all(0 < width <= whole for width in widths), "prefixes have at least one coordinate, and no more than all"
    found = []
    for width in (width for width in dict.fromkeys(widths) if width < whole):
        found.append(objective({name: F.normalize(one[:, :width], dim=1) for name, one in vectors.items()}))
    found.append(objective(vectors))
    return {name: sum((terms[name] for terms in found[1:]), found[0][name]) / len(found) for name in found[0]}
