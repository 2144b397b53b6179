"""The tasks that a network trained elsewhere amounts to."""

from typing import Literal

from chiasm.tasks.base import TaskConfig
from chiasm.tasks.captioning import CaptioningConfig
from chiasm.tasks.matching import MatchingConfig
from chiasm.tasks.retrieval import RetrievalConfig
from chiasm.tasks.vqa import VqaConfig

NETWORK_TASKS: dict[str, dict[str, TaskConfig]] = {
    "BlipForConditionalGeneration": {"captioning": CaptioningConfig()},
    "BlipForQuestionAnswering": {"vqa": VqaConfig(objective="generate")},
    "BlipForImageTextRetrieval": {"retrieval": RetrievalConfig(), "matching": MatchingConfig()},
    "ViltForQuestionAnswering": {"vqa": VqaConfig(objective="soft")},
    "ViltForImageAndTextRetrieval": {"matching": MatchingConfig()},
}
"""Class of transformers -> the tasks that it was trained for. ViLT's answers are independent (a sigmoid each)."""


def dual_encoder_tasks(objective: Literal["softmax", "sigmoid"]) -> dict[str, TaskConfig]:
    """The task of two towers that were trained with a contrast."""
    return {"retrieval": RetrievalConfig(objective=objective)}
