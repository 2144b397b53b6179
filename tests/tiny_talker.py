"""A tiny random language model in a folder, and an untrained pipeline that talks with it about images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from chiasm.core.random import seed_torch
from chiasm.models.bridge.linear import LinearProjectorConfig
from chiasm.models.config import ModelConfig
from chiasm.models.decoding import DecodingConfig
from chiasm.models.encoders.conv import ConvConfig
from chiasm.models.encoders.language_model import LanguageModelConfig
from chiasm.pipeline.config import PipelineConfig
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.conversation import ConversationConfig

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LINES = [
    "a dog runs over the snow",
    "What is there? A dog.",
    "user\nassistant\nsystem\n",
    "两只狗在雪地里",
    "yes no red",
]
SPECIAL = ["<unk>", "<|im_start|>", "<|im_end|>"]
PLACES = 400


def write_language_model(folder: Path, seed: int = 0) -> Path:
    """A Llama of two layers with large random weights, so that its greedy text varies, and a byte-level tokenizer."""
    transformers = pytest.importorskip("transformers", reason="needs the extra [llm]")
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pieces.train_from_iterator(LINES, trainer)
    names = {"eos_token": "<|im_end|>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=pieces, chat_template=CHATML, **names).save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=pieces.get_vocab_size(),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=PLACES,
        initializer_range=0.4,
        eos_token_id=2,
        bos_token_id=None,
        pad_token_id=None,
        tie_word_embeddings=False,
    )
    seed_torch("tiny talker", seed)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
    return folder


def talking_config(folder: Path, **text: Any) -> PipelineConfig:
    """A tower of 3 x 3 tokens and the language model of a folder."""
    keys: dict[str, Any] = {"name": str(folder), "precision": "fp32", "max_tokens": 200} | text
    return PipelineConfig(
        recipe="tiny talker",
        model=ModelConfig(
            dim=16,
            image=ConvConfig(size_px=24, channels=(4, 8, 8)),
            text=LanguageModelConfig(**keys),
        ),
        tasks={"conversation": ConversationConfig(projector=LinearProjectorConfig())},
        decoding=DecodingConfig(method="greedy", max_words=24),
    )


def talking_pipeline(folder: Path) -> Pipeline:
    """Untrained."""
    return Pipeline.build(talking_config(folder), [], torch.device("cpu"))


def pictures(count: int) -> list[np.ndarray]:
    """Images of noise, each another."""
    return [np.random.default_rng(number).integers(0, 256, (24, 24, 3), dtype=np.uint8) for number in range(count)]
