"""Every whole network around a language model that opens, as a tiny folder: what `tests/contract` runs over."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import transformers
from hf_folders import SMALL, VISION, scrambled
from PIL import Image
from vlm_folders import (
    WORDS,
    Said,
    given_to,
    llava_folder,
    processor_of,
    save_chat_words,
    text_config,
    tiled_folder,
    tiling_processor_of,
)

QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""That of Qwen/Qwen2-VL-2B-Instruct, without videos and numbered images."""


def qwen_folder(name: str, folder: Path, **words: Any) -> Any:
    """Write a Qwen2-VL or Qwen2.5-VL, by the beginning of its class's name, with its processor; return the network."""
    torch.manual_seed(0)
    special = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>")
    count = save_chat_words(folder, special, QWEN_TEMPLATE, (None, "<|im_end|>"))
    text = {**WORDS, "hidden_size": 32, "intermediate_size": 48, "vocab_size": count, "num_attention_heads": 2}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}}
    text |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, **words}
    vision = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
    ids = {"image_token_id": 4, "video_token_id": 5, "vision_start_token_id": 6, "vision_end_token_id": 7}
    if name.startswith("Qwen2_5"):
        windows = {"window_size": 16, "fullatt_block_indexes": [1], "intermediate_size": 40}
        vision |= {"hidden_size": 32, "out_hidden_size": 32, **windows}
        config: Any = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    else:
        vision |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
        config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision, **ids)
    network = scrambled(getattr(transformers, f"{name}ForConditionalGeneration")(config))
    network.save_pretrained(folder)
    pixels = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2, "min_pixels": 256, "max_pixels": 4096}
    told = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": f"{name}Processor", **pixels}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": f"{name}Processor"}))
    return network


def pali_gemma_folder(folder: Path, words: str = "gemma", **settings: Any) -> Any:
    """Write a PaliGemma around a Gemma, or a PaliGemma 2 around a Gemma 2, as published: without chat template."""
    torch.manual_seed(0)
    count = save_chat_words(folder, ("<image>",), "", ("<bos>", "<eos>"))
    config = transformers.PaliGemmaConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION, vision_use_head=False),
        text_config=text_config(words, count, **settings),
        image_token_index=4,
        projection_dim=24,
        hidden_size=24,
    )
    network = scrambled(transformers.PaliGemmaForConditionalGeneration(config))
    with torch.no_grad():
        network.get_input_embeddings().weight.mul_(0.1)  # tied: or every token would be followed by itself
    network.save_pretrained(folder)
    square = {"height": 32, "width": 32}
    pixels = transformers.SiglipImageProcessorPil(size=square, image_seq_length=16)
    pixels.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "PaliGemmaProcessor"}))
    return network


def given_to_pali_gemma(folder: Path, images: Sequence[np.ndarray], said: Said) -> dict[str, torch.Tensor]:
    """A prompt behind images, as PaliGemma's processor prepares it; it refuses to go without images."""
    words = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not images:
        found = words(f"<bos>{said}\n", return_tensors="pt", add_special_tokens=False)
        return {**found, "token_type_ids": torch.zeros_like(found["input_ids"])}
    pixels = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    pixels.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(pixels, words)
    shown = [Image.fromarray(one) for one in images]
    found = processor(text="<image>" * len(images) + str(said), images=shown, return_tensors="np")
    return {name: torch.tensor(value) for name, value in found.items() if name != "labels"}


def blip_2_folder(folder: Path, words: str = "opt") -> Any:
    """Write a BLIP-2 around an OPT that ends an answer by a line break, as published; or around a T5."""
    torch.manual_seed(0)
    count = save_chat_words(folder, ("<image>",), "", ("</s>", "</s>"))
    pieces = transformers.AutoTokenizer.from_pretrained(folder)
    if words == "opt":
        shape = {"hidden_size": 24, "word_embed_proj_dim": 24, "ffn_dim": 32, "num_hidden_layers": 2}
        ids = {"bos_token_id": 1, "pad_token_id": 2, "eos_token_id": pieces.convert_tokens_to_ids("Ċ")}
        shape |= {"num_attention_heads": 2, "max_position_embeddings": 256, "vocab_size": count, **ids}
        text: Any = transformers.OPTConfig(**shape)
    else:
        text = transformers.T5Config(vocab_size=count, d_model=24, d_ff=32, num_layers=1, num_heads=2, d_kv=12)
    queries = {**SMALL, "cross_attention_frequency": 2, "encoder_hidden_size": 16, "vocab_size": 30}
    config = transformers.Blip2Config(
        vision_config=transformers.Blip2VisionConfig(**VISION),
        qformer_config=transformers.Blip2QFormerConfig(**queries),
        text_config=text,
        num_query_tokens=5,
        image_token_index=pieces.convert_tokens_to_ids("<image>"),
    )
    network = scrambled(transformers.Blip2ForConditionalGeneration(config))
    network.save_pretrained(folder)
    square = {"height": 32, "width": 32}
    transformers.BlipImageProcessorPil(size=square).save_pretrained(folder)
    told = {"processor_class": "Blip2Processor", "num_query_tokens": 5}
    (folder / "processor_config.json").write_text(json.dumps(told))
    return network


def given_to_blip_2(folder: Path, images: Sequence[np.ndarray], said: Said) -> dict[str, torch.Tensor]:
    """A prompt behind an image, as BLIP-2's processor prepares it; behind several, as many queries more."""
    words = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if not images:
        return dict(words(str(said), return_tensors="pt", return_token_type_ids=False))
    pixels = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    processor = transformers.Blip2Processor(pixels, words, num_query_tokens=5 * len(images))
    processor.image_token = transformers.AddedToken("<image>")
    shown = [Image.fromarray(one) for one in images]
    return dict(processor(text=str(said), images=shown, return_tensors="pt"))


def _tiled(name: str, folder: Path) -> Any:
    return tiled_folder(folder, f"{name}ForConditionalGeneration")


def _by(processor: Callable[[Path], Any], folder: Path, images: Sequence[np.ndarray], said: Said) -> dict[str, Any]:
    return given_to(processor(folder), images, said)


class Whole(NamedTuple):
    """How a network of one class is written and prepared for by transformers.

    Attributes:
        write: writes a folder, and returns the network of transformers that is in it.
        given: what it takes of images and a prompt or conversation, without chiasm.
        turns: whether it takes several, and as its template writes them: LLaVA's puts no end token behind an earlier
            answer, and chiasm does.
        reader: what of the network reads a text without images.
    """

    write: Callable[[Path], Any]
    given: Callable[[Path, Sequence[np.ndarray], Said], dict[str, torch.Tensor]]
    turns: Literal["one", "several", "as its template"] = "as its template"
    reader: Callable[[Any], Any] = lambda network: network


_TILING = partial(_by, tiling_processor_of)
WHOLE: dict[str, Whole] = {
    "llava": Whole(llava_folder, partial(_by, processor_of), "several"),
    "LlavaNext": Whole(partial(_tiled, "LlavaNext"), _TILING, "several"),
    "LlavaOnevision": Whole(partial(_tiled, "LlavaOnevision"), _TILING, "several"),
    "Idefics3": Whole(partial(_tiled, "Idefics3"), _TILING),
    "SmolVLM": Whole(partial(_tiled, "SmolVLM"), _TILING),
    "Qwen2VL": Whole(partial(qwen_folder, "Qwen2VL"), _TILING),
    "Qwen2_5_VL": Whole(partial(qwen_folder, "Qwen2_5_VL"), _TILING),
    "PaliGemma": Whole(pali_gemma_folder, given_to_pali_gemma, "one"),
    "PaliGemma 2": Whole(partial(pali_gemma_folder, words="gemma2"), given_to_pali_gemma, "one"),
    "Blip2": Whole(blip_2_folder, given_to_blip_2, "one", lambda network: network.language_model),
}
