"""What the server needs of a model that draws: captions checked, batches begun, PNG files that say what they are."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from torch import Tensor

from chiasm.core.types import Domain, Prediction
from chiasm.data.png import as_png
from chiasm.models.fingerprint import weights_hash
from chiasm.models.image_sampling import SamplingConfig
from chiasm.serve.drawings import Wish
from chiasm.serve.engine import Model
from chiasm.tasks.drawing import Drawing
from chiasm.tasks.drawing_requests import DrawingBatch, DrawRequest, prior_of


@dataclass(frozen=True, slots=True)
class Read:
    """A caption that can be drawn.

    Attributes:
        caption: as it was given.
        remarks: what of it is not read, in sentences.
        domain: its distance from the captions of training; None where the run has no density of them.
        tokens: how many the model reads.
    """

    caption: str
    remarks: list[str]
    domain: Domain | None
    tokens: int


class Drawer:
    """A model of the task drawing.

    Args:
        model: trained for it.

    Attributes:
        size_px: width and height of its images.
        grid: rows and columns of an image's tokens.
        run: fingerprint of the model's weights, which an image names as its origin.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.pipeline = model, model.pipeline
        self.task: Drawing = model.pipeline.task(Drawing)
        self.grid = prior_of(self.pipeline.model, self.task.name).grid
        height, width = self.pipeline.config.model.image.shape_px
        self.size_px = (width, height)
        self.run = weights_hash(self.pipeline.model)

    @property
    def sampling(self) -> SamplingConfig:
        """The run's own way to draw."""
        return self.task.config.sampling

    def read(self, caption: str) -> Read:
        """Check a caption.

        Raises:
            InputError: training had none of its words, or the model knows none of its tokens.
        """
        codec = self.pipeline.codec
        remarks = self.task.remarks(self.pipeline.model, codec, [DrawRequest(caption)])
        return Read(
            caption,
            remarks[caption],
            self.model.caption_domain(caption),
            int(codec.tokenizer.batch([caption]).is_real.sum()),
        )

    def kept(self, image: Tensor, mask: Tensor | None, keep_rows: int | None) -> tuple[int, ...]:
        """Ids that are kept of an image uint8 [3, h, w] of the model's size, see `Draws.kept_tokens`.

        Raises:
            InputError: rows that the image has not, or a mask that marks nothing.
        """
        return self.model.kept_tokens(Wish(start=image, mask=mask, keep_rows=keep_rows))

    def begin(
        self, requests: Sequence[DrawRequest], sampling: SamplingConfig, remarks: Mapping[str, list[str]]
    ) -> DrawingBatch:
        """A batch of images to draw step by step; `remarks` are those of `read`."""
        return self.task.begin(self.pipeline.model, self.pipeline.codec, requests, sampling, remarks)

    def png(self, drawing: Prediction, sampling: SamplingConfig) -> bytes:
        """A PNG file whose text chunks have the prompt, the seed, the sampling and the fingerprint of the run.

        Text outside of Latin-1 stands in an iTXt chunk, other text in a tEXt chunk, as the format demands.
        """
        assert drawing.image is not None, "a drawing"
        said = {
            "prompt": drawing.answer,
            "seed": str(drawing.evidence["seed"]),
            "run": self.run,
            "sampling": json.dumps(asdict(sampling)),
            "Software": "chiasm",
        }
        return as_png(drawing.image, said)
