"""A small causal language model without training, as a folder in Hugging Face layout: `write_language_model`.

Llama's architecture with random weights, a tokenizer of bytes whose merges are learned from given texts, and a chat
template. Trained whole behind the bridge (`--set model.text.kind=language_model --set model.text.name=FOLDER --set
model.text.frozen=false`), it learns to say what a narrow domain says for a thirtieth of SmolLM2's arithmetic.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""A token for each role: a question costs two tokens beside its own."""
SPECIAL = ["<pad>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


def write_language_model(
    folder: Path, texts: Iterable[str], vocabulary: int = 512, dim: int = 256, layers: int = 4, seed: int = 0
) -> int:
    """Write network, tokenizer and template; returns the number of weights."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    pad, end, start = range(3)
    config = LlamaConfig(
        vocab_size=words.get_vocab_size(),
        hidden_size=dim,
        intermediate_size=4 * dim,
        num_hidden_layers=layers,
        num_attention_heads=dim // 64,
        num_key_value_heads=dim // 64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=pad,
        bos_token_id=start,
        eos_token_id=end,
    )
    torch.manual_seed(seed)
    network = LlamaForCausalLM(config)
    network.save_pretrained(folder)
    words.save(str(folder / "tokenizer.json"))
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": SPECIAL[pad],
        "eos_token": SPECIAL[end],
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")
    return sum(parameter.numel() for parameter in network.parameters())
