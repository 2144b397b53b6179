"""Converting models to other layouts, as `chiasm export` does."""

from pathlib import Path
from typing import Literal

from chiasm.api.overrides import Place
from chiasm.core.device import pick_device
from chiasm.pipeline.interop.exporting import Exported
from chiasm.pipeline.interop.exporting import export as write

Layout = Literal["hugging_face", "open_clip", "run", "onnx", "openvino"]


def export(model: Place, out: Place, to: Layout = "hugging_face") -> Exported:
    """Write a model in another layout, and check that its outputs are equal.

    They must be bitwise equal; those of graphs ("onnx", "openvino") within 2e-5, on three shapes by the engine itself.

    Example:
        >>> "manifest.json" in [name.lower() for name in chiasm.export("runs/demo", "demo-copy", to="run").files]
        True

    Args:
        model: a run folder; or a folder in the layout of Hugging Face or open_clip.
        out: folder to create.
        to: the layout to write.

    Raises:
        InputError: `out` exists, or the layout does not support the model.
        MissingExtraError: the layout needs a package that is not installed.
        JobError: the outputs of the written model differ.
    """
    return write(Path(model).expanduser(), to, Path(out).expanduser(), pick_device())
