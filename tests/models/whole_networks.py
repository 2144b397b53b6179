"""Every whole network around a language model that opens, as a tiny folder: what `tests/contract` runs over."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from hf_folders import scrambled
from vlm_folders import WORDS, llava_folder, processor_of, save_chat_words, tiled_folder, tiling_processor_of

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


def _tiled(name: str, folder: Path) -> Any:
    return tiled_folder(folder, f"{name}ForConditionalGeneration")


class Whole(NamedTuple):
    """How a network of one class is written and prepared for by transformers.

    Attributes:
        write: writes a folder, and returns the network of transformers that is in it.
        processor: the folder's, without chiasm.
        talks: it takes several images and turns.
        closes: its template writes an end token behind an earlier answer, which chiasm adds where it does not.
    """

    write: Callable[[Path], Any]
    processor: Callable[[Path], Any]
    talks: bool = True
    closes: bool = True


WHOLE: dict[str, Whole] = {
    "llava": Whole(llava_folder, processor_of, closes=False),
    "LlavaNext": Whole(partial(_tiled, "LlavaNext"), tiling_processor_of, closes=False),
    "LlavaOnevision": Whole(partial(_tiled, "LlavaOnevision"), tiling_processor_of, closes=False),
    "Idefics3": Whole(partial(_tiled, "Idefics3"), tiling_processor_of),
    "SmolVLM": Whole(partial(_tiled, "SmolVLM"), tiling_processor_of),
    "Qwen2VL": Whole(partial(qwen_folder, "Qwen2VL"), tiling_processor_of),
    "Qwen2_5_VL": Whole(partial(qwen_folder, "Qwen2_5_VL"), tiling_processor_of),
}
