"""What a drawing server reads of a caption and writes into a file."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from chiasm.core.errors import InputError
from chiasm.models.fingerprint import weights_hash
from chiasm.models.image_sampling import SamplingConfig
from chiasm.serve.drawer import Drawer
from chiasm.serve.drawings import Wish
from chiasm.serve.engine import Model
from drawing_pipeline import REAL, build

CAPTION = "a large red circle top left"


@pytest.fixture(scope="module")
def drawer() -> Drawer:
    return Drawer(Model(build()))


def test_its_images_have_a_size(drawer: Drawer) -> None:
    assert (drawer.size_px, drawer.grid) == ((48, 48), (3, 3)) and Drawer(Model(build(REAL))).size_px == (24, 24)
    assert drawer.run == weights_hash(drawer.pipeline.model) != Drawer(Model(build(REAL))).run


def test_captions_are_read_before_they_are_drawn(drawer: Drawer) -> None:
    """Guards against remarks that differ from those of a drawing, and a caption that fails only in the batch."""
    for caption in (CAPTION, "a red xylophone", f"{CAPTION}, " * 40):
        read, (drawn,) = drawer.read(caption), drawer.model.drawings([caption], Wish())
        assert read.remarks == drawn.evidence["remarks"] and read.domain == drawn.domain
        assert read.tokens == len(drawer.pipeline.codec.tokenizer.ids(caption))
    for caption in ("xylophone qwertz", "  "):
        with pytest.raises(InputError):
            drawer.read(caption)


def test_a_file_has_what_draws_it_again(drawer: Drawer) -> None:
    """Guards against pixels that a file changes, and text that its format cannot hold."""
    sampling = SamplingConfig(guidance=2.0, top_k=7)
    for caption, chunk in ((CAPTION, b"tEXtprompt"), ("左上有大的红色圆形", b"iTXtprompt")):
        (drawn,) = drawer.model.drawings([caption], Wish(seed=8, sampling=sampling))
        content = drawer.png(drawn, sampling)
        with Image.open(io.BytesIO(content)) as file:
            assert np.array_equal(np.asarray(file), drawn.image) and chunk in content
            told = file.info
        again = SamplingConfig(**json.loads(told["sampling"]))
        (same,) = drawer.model.drawings([told["prompt"]], Wish(seed=int(told["seed"]), sampling=again))
        assert np.array_equal(same.image, drawn.image) and told["run"] == drawer.run
