"""The verb that converts models to other layouts: export."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from chiasm.cli.shared import Json, note, say, write_result

Layout = Literal["hugging_face", "open_clip", "run", "onnx", "openvino", "safetensors"]


def export(
    model: Annotated[
        Path, typer.Argument(help="A run folder; or a folder in the layout of Hugging Face or open_clip.")
    ],
    to: Annotated[
        Layout,
        typer.Option(
            "--to",
            help="The layout to write; onnx and openvino are served without chiasm, "
            "safetensors only turns pickled weights into safe ones.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    json_file: Json = None,
) -> None:
    """Write a model in another layout, and check that its outputs are equal: bitwise, or within 2e-5 by another engine.

    Example: chiasm export runs/photos --to hugging_face --out photos-hf
    """
    from chiasm.api.exporting import export as export_model
    from chiasm.pipeline.interop.pickled import to_safetensors

    if to == "safetensors":
        converted = to_safetensors(model, out)
        say(f"{converted.count} tensors of {', '.join(converted.sources)} are now safetensors in {out}")
        write_result(json_file, converted.as_dict())
        return
    exported = export_model(model, out, to)
    for name in exported.files:
        say(f"  {name}")
    for task, reason in exported.left_out.items():
        note(f"left out: {task}: {reason}")
    if exported.differences:
        worst = max(exported.differences.values())
        say(f"{out} and {model} agree on three shapes, to {worst:.1e}")
        write_result(json_file, exported.as_dict())
        return
    asked = ", ".join(repr(one) for one in exported.words.values())
    say(f"{out} and {model} give bitwise equal outputs for the stored example ({asked})")
    write_result(json_file, exported.as_dict())
