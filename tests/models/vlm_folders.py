"""Tiny folders of language models that see, written by transformers itself, weights random and far from zero."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from hf_folders import LINES, SMALL, VISION, save_pixels, scrambled
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from chiasm.core.types import Prediction, Stacked, Turn
from chiasm.models.bridge.splicing import GivenRows
from chiasm.models.decoding import DecodingConfig
from chiasm.pipeline.batching import stack_images
from chiasm.tasks.base import Query

Said = str | tuple[Turn, ...]
"""What a user says below images, or a conversation."""
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


def save_chat_words(
    folder: Path,
    special: tuple[str, ...] = ("<image>",),
    template: str = LLAVA_TEMPLATE,
    ends: tuple[str | None, str] = ("<s>", "</s>"),
) -> int:
    """A byte-level tokenizer with start, end and further special tokens; returns the number of ids."""
    folder.mkdir(parents=True, exist_ok=True)
    start, end = ends
    names = [*dict.fromkeys(["<unk>", start or "<s>", end, "<pad>", *special])]
    pieces = Tokenizer(models.BPE(unk_token=names[0]))
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    pieces.train_from_iterator(
        LINES, trainers.BpeTrainer(vocab_size=300, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    )
    if start:
        pieces.post_processor = processors.TemplateProcessing(single=f"{start} $A", special_tokens=[(start, 1)])
    tokens = {"unk_token": "<unk>", "bos_token": start, "eos_token": end, "pad_token": "<pad>"}
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=pieces, **tokens)
    made.chat_template = template or None
    made.save_pretrained(folder)
    return len(made)


def llava_folder(folder: Path, words: str = "llama", eyes: str = "clip", layer: int | list[int] = -2) -> Any:
    """Write a LLaVA-1.5 around a Llama, Qwen2 or Gemma 2 and CLIP's or SigLIP's tower, and return its network."""
    torch.manual_seed(0)
    count = save_chat_words(folder)
    kind: Any = transformers.CLIPVisionConfig if eyes == "clip" else transformers.SiglipVisionConfig
    vision = kind(**VISION)
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=text_config(words, count),
        image_token_id=4,
        vision_feature_layer=layer,
        vision_feature_select_strategy="default" if eyes == "clip" else "full",
        image_seq_length=16,
    )
    network = scrambled(transformers.LlavaForConditionalGeneration(config))
    network.save_pretrained(folder)
    save_pixels(folder, eyes)
    return network


def vip_llava_folder(folder: Path) -> Any:
    """Write a VipLLaVA, which no table of chiasm names, and return its network."""
    count = save_chat_words(folder)
    config = transformers.VipLlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=text_config("llama", count),
        image_token_id=4,
        vision_feature_layers=[-2, -1],
        image_seq_length=16,
    )
    config.vision_feature_select_strategy = "default"
    network = scrambled(transformers.VipLlavaForConditionalGeneration(config))
    network.save_pretrained(folder)
    save_pixels(folder, "clip")
    told = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "LlavaProcessor", **told}))
    return network


def text_config(words: str, count: int, **settings: Any) -> Any:
    """The config of a small causal language model."""
    shape = {**WORDS, "hidden_size": 24, "head_dim": 12, "vocab_size": count}
    shape |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, **settings}
    if words == "llama":
        return transformers.LlamaConfig(**shape)
    if words == "gemma2":
        return transformers.Gemma2Config(**shape)
    if words == "gemma":
        return transformers.GemmaConfig(**shape)
    return transformers.Qwen2Config(**shape, tie_word_embeddings=True)


def processor_of(folder: Path) -> Any:
    """The folder's processor as transformers would build it where torchvision is installed."""
    words = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    pixels = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    config = transformers.AutoConfig.from_pretrained(folder)
    strategy = config.vision_feature_select_strategy
    extra = 1 if config.vision_config.model_type == "clip_vision_model" else 0
    patch = config.vision_config.patch_size
    return transformers.LlavaProcessor(pixels, words, patch, strategy, num_additional_image_tokens=extra)


def given_to(processor: Any, images: Sequence[np.ndarray], said: Said) -> dict[str, torch.Tensor]:
    """A user's turn with images before a text, or a conversation, as transformers prepares it for a network."""
    messages = []
    for turn in asked_about(len(images), said):
        parts: list[dict[str, str]] = []
        for number, text in enumerate(turn.text.split("<image>")):
            parts += [{"type": "image"}] * (number > 0)
            parts += [{"type": "text", "text": text.strip()}] * bool(text.strip())
        messages.append({"role": turn.role, "content": parts})
    written = processor.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    starts = written.startswith(processor.tokenizer.bos_token or "")  # as ProcessorMixin.apply_chat_template
    shown = [Image.fromarray(one) for one in images] or None
    found = processor(text=written, images=shown, return_tensors="pt", add_special_tokens=not starts)
    return {name: value for name, value in found.items() if name != "token_type_ids"}


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    """Images of noise, of given heights and widths."""
    made = np.random.default_rng(1)
    return [made.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def asked_about(images: int, said: Said) -> tuple[Turn, ...]:
    """The same turn as chiasm takes it; a conversation as it is."""
    return (Turn("user", "<image>\n" * images + said),) if isinstance(said, str) else said


def logits_of(model: Any, images: Sequence[np.ndarray], said: Said) -> torch.Tensor:
    """Logits of a prompt with images by chiasm, float32 [l, v], of every position, those of images included."""
    pipeline = model.pipeline
    prompt = pipeline.codec.tokenizer.prompt(asked_about(len(images), said))
    with torch.no_grad():
        image = encoded(model, [images]).get("image") if images else None
        ids = torch.tensor([prompt])
        language, is_real = pipeline.model.language, torch.ones_like(ids, dtype=torch.bool)
        given = GivenRows(ids, is_real, is_prompt=is_real if language.sees_ahead else None)
        rows = pipeline.model.bridge("conversation").rows(language, image, given, torch.tensor([0]))
        states = language.states(rows.embeddings, rows.allowed, rows.positions, axes=rows.axes)
        return language.words(states)[0][rows.is_real[0]]


def encoded(model: Any, examples: Sequence[Sequence[np.ndarray]]) -> dict[str, Any]:
    """The images of each example, encoded together."""
    row = torch.tensor([row for row, images in enumerate(examples) for _ in images], dtype=torch.long)
    stacked = stack_images([one for images in examples for one in images], model.pipeline.resizing)
    return dict(model.pipeline.encode({"image": Stacked(stacked, row, len(examples))}))


def reply_of(model: Any, images: Sequence[np.ndarray], said: Said, words: int) -> str:
    """The greedy reply of at most so many tokens by chiasm."""
    return replies_of(model, [(images, said)], words)[0]


def replies_of(model: Any, asked: Sequence[tuple[Sequence[np.ndarray], Said]], words: int) -> list[str]:
    """The greedy replies to several prompts, written in one batch."""
    return [str(one.answer) for one in predictions_of(model, asked, words)]


def predictions_of(model: Any, asked: Sequence[tuple[Sequence[np.ndarray], Said]], words: int) -> list[Prediction]:
    """As `replies_of`, with the probability of each token."""
    pipeline = model.pipeline
    codec = replace(pipeline.codec, decoding=DecodingConfig(max_words=words))
    queries = [Query(row, turns=asked_about(len(images), said)) for row, (images, said) in enumerate(asked)]
    seen = encoded(model, [images for images, _ in asked]) if any(len(images) for images, _ in asked) else {}
    return list(pipeline.tasks["conversation"].predict(pipeline.model, codec, seen, queries))


def reply_by_transformers(network: Any, model: Any, given: dict[str, torch.Tensor], words: int) -> str:
    """The greedy reply of the network, without special tokens, as chiasm writes it."""
    tokenizer = model.pipeline.codec.tokenizer
    banned = [one for one in tokenizer.special_ids if one != tokenizer.end_id]
    out = network.generate(**given, max_new_tokens=words, do_sample=False, suppress_tokens=banned)
    return str(tokenizer.decode(out[0, given["input_ids"].shape[1] :].tolist()))


def tiled_folder(folder: Path, kind: str) -> Any:
    """Write a network that cuts images into tiles, by the name of its class, with its processor; return the network."""
    torch.manual_seed(0)
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    special = ("<image>", "<video>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *rows)
    template = IDEFICS_TEMPLATE if kind.startswith(("Idefics", "SmolVLM")) else LLAVA_TEMPLATE
    count = save_chat_words(folder, special, template)
    text = text_config("llama", count)
    given: dict[str, Any] = {"text_config": text, "image_token_id": 4}
    settings: dict[str, Any]
    if kind == "LlavaNextForConditionalGeneration":
        pins = [[32, 64], [64, 32], [64, 64]]
        given |= {"vision_config": transformers.CLIPVisionConfig(**VISION), "image_grid_pinpoints": pins}
        config: Any = transformers.LlavaNextConfig(**given, image_seq_length=16)
        square = {"height": 32, "width": 32}
        pixels = transformers.LlavaNextImageProcessorPil(
            size={"shortest_edge": 32}, crop_size=square, image_grid_pinpoints=pins
        )
        settings = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
        name = "LlavaNextProcessor"
    elif kind == "LlavaOnevisionForConditionalGeneration":
        pins = [[32 * high, 32 * wide] for high in (1, 2, 3) for wide in (1, 2, 3)]
        eyes = transformers.SiglipVisionConfig(**VISION, vision_use_head=False)
        config = transformers.LlavaOnevisionConfig(**given, vision_config=eyes, image_grid_pinpoints=pins)
        config.video_token_id = 5
        pixels = transformers.LlavaOnevisionImageProcessorPil(
            size={"height": 32, "width": 32}, image_grid_pinpoints=pins
        )
        settings = {"num_image_tokens": 16, "vision_feature_select_strategy": "full"}
        name = "LlavaOnevisionProcessor"
    else:
        is_small = kind.startswith("SmolVLM")
        family = "SmolVLM" if is_small else "Idefics3"
        eyes = getattr(transformers, f"{family}VisionConfig")(**VISION)
        config = getattr(transformers, f"{family}Config")(**given, vision_config=eyes, scale_factor=2, pad_token_id=3)
        pixels = getattr(transformers, f"{family}ImageProcessorPil")(
            size={"longest_edge": 96}, max_image_size={"longest_edge": 32}
        )
        settings, name = {"image_seq_len": 4}, f"{family}Processor"
    network = scrambled(getattr(transformers, kind)(config))
    network.save_pretrained(folder)
    pixels.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": name, **settings}))
    return network


IDEFICS_TEMPLATE = (
    "<s>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""That of HuggingFaceTB/SmolVLM-256M-Instruct, with this tokenizer's start token."""


def tiling_processor_of(folder: Path) -> Any:
    """The processor of such a folder, built without chiasm."""
    words = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    pixels = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    told = json.loads((folder / "processor_config.json").read_text())
    name = told.pop("processor_class")
    if name == "LlavaOnevisionProcessor":
        return without_videos(transformers.LlavaOnevisionProcessor)(pixels, words, None, **told)
    if name.startswith("Qwen"):
        return without_videos(getattr(transformers, name))(pixels, words)
    kind = transformers.LlavaNextProcessor if name == "LlavaNextProcessor" else transformers.Idefics3Processor
    return kind(pixels, words, **told)


def without_videos(kind: Any) -> Any:
    """The processor's class, which then needs no part for videos, and so no torchvision."""

    class Images(kind):  # type: ignore[misc]
        def check_argument_for_proper_class(self, name: str, value: Any) -> Any:
            return value and super().check_argument_for_proper_class(name, value)

    return Images
