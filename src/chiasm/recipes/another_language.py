"""Adds a language to a trained retrieval run; the image embeddings do not change."""

from chiasm.data.files import FilesConfig
from chiasm.models.config import ModelConfig
from chiasm.models.encoders.text import TransformerTextConfig
from chiasm.recipes.tiny import few_steps
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.train.config import RunConfig, TrainConfig


def another_language(tiny: bool = False) -> RunConfig:
    """A new text tower for several languages, distilled from a run for one; the image side is frozen.

    The tower is trained from scratch, or is pre-trained: the packaged `model.text.kind=multilingual_e5`, or your own
    (`model.text.kind=hugging_face`, `model.text.name=FOLDER`). Half of its loss is the distance of each caption's
    embedding from the teacher's (the run of `init_from`) for this caption or for others of the same image (Reimers and
    Gurevych 2020); half is contrast with the frozen images (LiT). An index of the teacher's run stays valid, because
    the image embeddings do not change.

    Command: chiasm train another_language --set init_from=RUN --data FLICKR8K --out runs/zh
    Cost: a quarter of an hour on one thread of a shared AMD EPYC.
    Expect, on Flickr8k's 1,000 validation photos taught by `flickr8k_retrieval`: text_to_image_R@10 Chinese 0.384,
    English 0.477 (the teacher: 0.037, 0.617; with shuffled images 0.01); docs/languages.md has the table.
    """
    config = RunConfig(
        recipe="another_language",
        primary_metric="text_to_image_R@1",
        data=FilesConfig(languages=("en", "zh")),
        model=ModelConfig(
            dim=256,
            heads=4,
            dropout=0.1,
            text=TransformerTextConfig(layers=2, max_tokens=48, vocabulary=8000),
        ),
        tasks={"retrieval": RetrievalConfig(captions_per_picture=2, text_teacher=0.5)},
        train=TrainConfig(epochs=15, least_steps=200, batch_size=128, lr=1e-3, precision="fp32"),
    )
    return few_steps(config) if tiny else config
