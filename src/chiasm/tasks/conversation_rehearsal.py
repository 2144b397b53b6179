"""Conversations without images that a language model writes before it is adapted, and goes on learning from.

A network that is adapted to captions alone answers a plain question with a caption. Replaying what it was trained on
before prevents that (Robins 1995, "Catastrophic forgetting, rehearsal and pseudorehearsal"), and a chat model can write
such data itself: continued from where its chat template lets a user begin, it writes a user's words, and then its own
reply (Xu et al. 2024, "Magpie", section 2; as rehearsal: Huang et al. 2024, "Self-Synthesized Rehearsal").
"""

from collections.abc import Sequence

import torch

from chiasm.core.errors import InputError
from chiasm.core.log import Progress
from chiasm.core.random import counter_seed
from chiasm.core.types import Turn
from chiasm.data.conversations import without_placeholder
from chiasm.data.tokenizers.chat import ChatTokenizer
from chiasm.models.decoding import DecodingConfig
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.tasks.conversation_writing import WRITTEN_AT_ONCE, replies

OPENINGS = ("", "What is", "", "Who", "", "How many", "", "Which", "", "Where", "", "Why", "", "When", "", "Is")
"""First words that users' turns are begun with in turn: left alone, a chat model asks for long texts, and half of the
drafts are to be short questions."""
ASKED = DecodingConfig(method="nucleus", top_p=0.95, max_words=48)
"""How the user's words are sampled: widely, so that they differ."""
SAID = DecodingConfig(method="nucleus", top_p=0.95, temperature=0.7, max_words=128)
"""How replies are sampled: as the model would be used."""
WHAT = "writing conversations to rehearse"
"""What progress is of."""
LEAST_SHARE = 0.1
"""Writing stops where fewer of the drafts than this become conversations, in [0, 1]."""
DRAFTS_BEFORE_STOPPING = 4 * WRITTEN_AT_ONCE


def rehearsed(
    model: VisionLanguageModel,
    task: str,
    tokenizer: ChatTokenizer,
    count: int,
    seed: int,
    progress: Progress,
) -> list[tuple[Turn, Turn]]:
    """Let the language model write `count` conversations of a question and a reply, all questions different.

    Only what the model itself ended is kept: a text that its longest length cut would teach it to stop anywhere.

    Args:
        model: in evaluation mode.
        task: whose bridge; no image is shown.
        tokenizer: the language model's.
        count: above 0.
        seed: of the run.
        progress: called with (done, total, what).

    Raises:
        InputError: hardly any text comes to an end, as of a model that was never trained to chat.
    """
    start, found, drafts = tokenizer.user_start(), dict[str, str](), 0
    progress(0, count, WHAT)
    openings = [tokenizer.pieces(OPENINGS[number % len(OPENINGS)]) for number in range(WRITTEN_AT_ONCE)]
    with torch.random.fork_rng(devices=_devices(model)):
        torch.manual_seed(counter_seed("rehearsal", seed))
        while len(found) < count:
            if drafts >= DRAFTS_BEFORE_STOPPING and len(found) < LEAST_SHARE * drafts:
                raise InputError(
                    f"tasks.{task}.rehearsed is {count}, and of {drafts} texts that {tokenizer.form.name} wrote as a "
                    f"user and answered, {len(found)} came to an end",
                    "a language model that was trained on conversations",
                    f"--set tasks.{task}.rehearsed=0",
                )
            drafts += WRITTEN_AT_ONCE
            asked = _written(model, task, tokenizer, [[*start, *opening] for opening in openings], ASKED)
            texts = [_text(tokenizer, [*opening, *ids]) for opening, ids in zip(openings, asked, strict=True) if ids]
            new = [text for text in dict.fromkeys(filter(None, texts)) if text not in found]
            prompts = [tokenizer.prompt((Turn("user", text),)) for text in new]
            said = [_text(tokenizer, ids) for ids in _written(model, task, tokenizer, prompts, SAID)]
            found |= {text: reply for text, reply in zip(new, said, strict=True) if reply}
            progress(min(len(found), count), count, WHAT)
    pairs = list(found.items())[:count]
    return [(Turn("user", text), Turn("assistant", reply)) for text, reply in pairs]


def _written(
    model: VisionLanguageModel,
    task: str,
    tokenizer: ChatTokenizer,
    prompts: Sequence[Sequence[int]],
    decoding: DecodingConfig,
) -> list[tuple[int, ...]]:
    """Ids that continue prompts, the end token included; () where that came first, or the longest length ended them."""
    said = replies(model, task, tokenizer, {}, [(0, ids) for ids in prompts], decoding, has_own_weights=True)
    return [one.ids if one.is_finished and 1 < len(one.ids) <= decoding.max_words else () for one in said]


def _text(tokenizer: ChatTokenizer, ids: Sequence[int]) -> str:
    return without_placeholder(tokenizer.decode(ids)).strip()


def _devices(model: VisionLanguageModel) -> list[torch.device]:
    device = next(model.language.parameters()).device
    return [] if device.type == "cpu" else [device]
