"""Tiny folders of language models that see, written by transformers itself, weights random and far from zero."""

from pathlib import Path
from typing import Any

import torch
import transformers
from hf_folders import LINES, SMALL, VISION, save_pixels, scrambled
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""That of llava-hf/llava-1.5-7b-hf."""
WORDS = {**SMALL, "num_key_value_heads": 1, "max_position_embeddings": 4096, "initializer_range": 0.2}


def save_chat_words(folder: Path, special: tuple[str, ...] = ("<image>",), template: str = LLAVA_TEMPLATE) -> int:
    """A byte-level tokenizer with start, end and further special tokens; returns the number of ids."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["<unk>", "<s>", "</s>", "<pad>", *special]
    pieces = Tokenizer(models.BPE(unk_token="<unk>"))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    pieces.train_from_iterator(
        LINES, trainers.BpeTrainer(vocab_size=300, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    )
    pieces.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokens = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=pieces, **tokens)
    made.chat_template = template or None
    made.save_pretrained(folder)
    return len(made)


def llava_folder(folder: Path, words: str = "llama", eyes: str = "clip") -> Any:
    """Write a LLaVA-1.5 around a Llama, Qwen2 or Gemma and CLIP's or SigLIP's tower, and return its network."""
    torch.manual_seed(0)
    count = save_chat_words(folder)
    vision: Any = transformers.CLIPVisionConfig(**VISION) if eyes == "clip" else transformers.SiglipVisionConfig(**VISION)
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=text_config(words, count),
        image_token_id=4,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default" if eyes == "clip" else "full",
        image_seq_length=16,
    )
    network = scrambled(transformers.LlavaForConditionalGeneration(config))
    network.save_pretrained(folder)
    save_pixels(folder, eyes)
    return network


def text_config(words: str, count: int) -> Any:
    """The config of a small causal language model."""
    shape = {**WORDS, "hidden_size": 24, "head_dim": 12, "vocab_size": count}
    shape |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    if words == "llama":
        return transformers.LlamaConfig(**shape)
    if words == "gemma2":
        return transformers.Gemma2Config(**shape)
    return transformers.Qwen2Config(**shape, tie_word_embeddings=True)
