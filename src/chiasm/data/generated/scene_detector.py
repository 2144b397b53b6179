"""An exact detector of scenes: which objects an image of 48 x 48 pixels shows, by the best template of each cell.

Every scene is drawn from 324 templates a cell (2 sizes, 6 colours, 3 shapes, 9 offsets) or is empty there, so that the
nearest template, in squared pixel differences, is the maximum-likelihood reading under Gaussian noise. On scenes as
`render` draws them it is right by construction (`tests/data/generated/test_scene_detector.py` measures it). A cell that
no template comes near holds something that is no object of a scene.
"""

from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt
from PIL import Image

from chiasm.data.generated.scenes import (
    CELL_PX,
    COLORS,
    GRID,
    IMAGE_SIZE_PX,
    JITTER_PX,
    SHAPES,
    SIZES,
    SceneObject,
    render,
)

Described = tuple[int, int, str, str, str]
"""Row, column, size, colour and shape, as of `SceneObject.described`."""
UNREADABLE_RMS = 30.0
"""Root mean square difference of a cell to its nearest template, in levels of 255, from which on it is unreadable.
Templates of two descriptions differ by 13 or more, of an object and an empty cell by 39 or more."""
UNREADABLE = ("", "", "")
"""Size, colour and shape of what is in an unreadable cell: equal to no object's."""


@cache
def _templates() -> tuple[npt.NDArray[np.float32], tuple[tuple[str, str, str] | None, ...]]:
    """All looks of a cell, float32 [t, 768], and the attributes that each shows; None for the empty one."""
    shifts = range(-JITTER_PX, JITTER_PX + 1)
    looks, shown = [render(())], list[tuple[str, str, str] | None]([None])
    for size, color, shape, shift_x, shift_y in product(SIZES, COLORS, SHAPES, shifts, shifts):
        looks.append(render((SceneObject(0, 0, size, color, shape, shift_x, shift_y),)))
        shown.append((size, color, shape))
    cells = np.stack(looks)[:, :CELL_PX, :CELL_PX].reshape(len(looks), -1)
    return cells.astype(np.float32), tuple(shown)


def detect(image: npt.NDArray[np.uint8]) -> tuple[Described, ...]:
    """Objects that an image shows, in reading order; an unreadable cell gives one with the attributes `UNREADABLE`.

    Args:
        image: uint8 [h, w, 3] RGB; another size than 48 x 48 is resized by pixel areas.
    """
    if image.shape[:2] != (IMAGE_SIZE_PX, IMAGE_SIZE_PX):
        small = Image.fromarray(image).resize((IMAGE_SIZE_PX, IMAGE_SIZE_PX), Image.Resampling.BOX)
        image = np.asarray(small)
    templates, shown = _templates()
    cells = image.astype(np.float32).reshape(GRID, CELL_PX, GRID, CELL_PX, 3).transpose(0, 2, 1, 3, 4)
    found: list[Described] = []
    for (row, column), cell in zip(product(range(GRID), repeat=2), cells.reshape(GRID * GRID, -1), strict=True):
        distance = np.square(templates - cell).mean(axis=1)
        best = int(distance.argmin())
        seen = UNREADABLE if distance[best] > UNREADABLE_RMS**2 else shown[best]
        if seen is not None:
            found.append((row, column, *seen))
    return tuple(found)
