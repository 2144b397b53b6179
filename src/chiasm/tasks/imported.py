"""The tasks of networks that other programs trained."""

from typing import Literal

from chiasm.tasks.base import TaskConfig
from chiasm.tasks.captioning import CaptioningConfig
from chiasm.tasks.conversation import ConversationConfig
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
"""Class of transformers -> the tasks that it was trained for. ViLT scores each answer with a sigmoid of its own."""
TALKS: dict[str, TaskConfig] = {"conversation": ConversationConfig()}
"""The task of every language model that sees."""


def dual_encoder_tasks(objective: Literal["softmax", "sigmoid"]) -> dict[str, TaskConfig]:
    """The task of a dual encoder trained with a contrastive objective."""
    return {"retrieval": RetrievalConfig(objective=objective)}
