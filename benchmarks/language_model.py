"""Speed of the packaged language model: opening, training through the bridge, and writing, each beside its baseline.

    python benchmarks/language_model.py [open] [train] [write]
    python benchmarks/language_model.py pack FOLDER

Everything runs in one process on this machine, baselines interleaved with what they are compared with, and the median
of the rounds is printed. Image tokens are random numbers, since towers are frozen and cached. `pack` counts the tokens
that the recipe's conversations about the images of a folder take, in a row each and as trees, and times steps on both.
"""

import datetime
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from chiasm.core.device import environment, keep_freed_memory
from chiasm.core.files import write_bytes
from chiasm.core.types import IMAGE, IMAGE_ID, Tokens, Turn
from chiasm.data.conversations import turns_of
from chiasm.data.files import FilesConfig
from chiasm.data.opening import open_dataset
from chiasm.models.decoding import DecodingConfig
from chiasm.models.encoders import widths
from chiasm.models.encoders.language_model import LanguageModel
from chiasm.models.lora import LORA_NAMES
from chiasm.models.vision_language import VisionLanguageModel
from chiasm.objectives.language_modelling import next_word_of_states
from chiasm.pipeline.pipeline import Pipeline
from chiasm.recipes.table import find_recipe
from chiasm.tasks.conversation_packing import common_length, packed, padded
from chiasm.tasks.conversation_writing import replies, target_states

RESULTS = Path(__file__).resolve().parent / "results"
ROUNDS = 5
IMAGES, CAPTIONS, GRID_TOKENS = 8, 5, 64
REPLY_TOKENS = 32
PACKED, ALL = 40, 1 << 30
OPENING = """
import time; started = time.perf_counter()
from chiasm.models.encoders.base import EncoderShape
from chiasm.models.encoders.language_model import SmolLM2Config
imported = time.perf_counter()
SmolLM2Config().build(EncoderShape(8, 2))
print(imported - started, time.perf_counter() - imported)
"""


def seconds(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def opening() -> dict[str, float]:
    """Seconds to open the packaged model a second time, in fresh processes, imports apart."""
    runs = []
    for _ in range(ROUNDS):
        said = subprocess.run([sys.executable, "-c", OPENING], capture_output=True, text=True, check=True).stdout
        runs.append([float(word) for word in said.split()[-2:]])
    return {
        "imports_s": statistics.median(r[0] for r in runs[1:]),
        "opening_s": statistics.median(r[1] for r in runs[1:]),
    }


def product_limit() -> float:
    """Floating-point operations a second of bf16 products of the network's sizes: tokens x 576 x 1536."""
    left, right = torch.randn(1280, 576).bfloat16(), torch.randn(576, 1536).bfloat16()
    count = 60
    return count * 2 * 1280 * 576 * 1536 / seconds(lambda: [left @ right for _ in range(count)])


def pipeline() -> Pipeline:
    """The recipe llava before training."""
    return Pipeline.build(find_recipe("llava"), [], torch.device("cpu"))


def image_tokens(count: int, width: int) -> Tokens:
    """Random grids of a tower."""
    values = torch.rand(count, GRID_TOKENS, width)
    return Tokens(values, torch.ones(count, GRID_TOKENS, dtype=torch.bool), values.mean(1))


def training(model: VisionLanguageModel, tokenizer: Any) -> dict[str, float]:
    """Tokens a second of steps on images with five captions each, against the products' limit of the same round."""
    language = model.language
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith(LORA_NAMES) or name.startswith("heads."))
    said = "a brown dog runs over the wet grass behind a ball"
    row = packed(
        [
            tokenizer.conversation(
                (Turn("user", "<image>\nDescribe this image in one sentence."), Turn("assistant", f"{n} {said}"))
            )
            for n in range(CAPTIONS)
        ]
    )
    fields = padded(row * IMAGES, tokenizer.pad_id)
    index, image = torch.arange(IMAGES), image_tokens(IMAGES, widths(model.image_encoder)[0])
    tokens = IMAGES * (len(row[0].ids) + model.image_tokens("conversation") - 1)
    counted = int(fields["target_is_real"].sum())

    def step() -> None:
        states = target_states(model, "conversation", image, fields, index)
        target = fields["target_ids"][fields["target_is_real"]]
        next_word_of_states(states, language.output_layer, target)["loss"].backward()

    blocks = sum(p.numel() for n, p in language.network.named_parameters() if "embed" not in n and "lm_head" not in n)
    head = language.vocabulary * language.dim
    # Words before the image are the same in all rows and computed in one.
    computed = tokens - (IMAGES - 1) * row[0].ids.index(IMAGE_ID)
    operations = 4 * (blocks * computed + head * counted)
    step()
    rounds = [(product_limit(), seconds(step)) for _ in range(ROUNDS)]
    share = statistics.median(operations / spent / limit for limit, spent in rounds)
    return {
        "images_per_s": IMAGES / statistics.median(spent for _, spent in rounds),
        "tokens_per_s": computed / statistics.median(spent for _, spent in rounds),
        "limit_gflop_per_s": statistics.median(limit for limit, _ in rounds) / 1e9,
        "share_of_limit": share,
    }


def writing(model: VisionLanguageModel, tokenizer: Any) -> dict[str, float]:
    """Tokens a second at 1 and 8 rows, against transformers' generate in fp32 on the same prompts."""
    from transformers import AutoModelForCausalLM

    from chiasm.models.pretrained.gguf_file import language_model_folder

    theirs = AutoModelForCausalLM.from_pretrained(language_model_folder("smollm2"), dtype=torch.float32).eval()
    prompt = tokenizer.prompt((Turn("user", "Tell me a long story about a dog and a river."),))
    decoding = DecodingConfig(min_words=REPLY_TOKENS, max_words=REPLY_TOKENS)
    found = {}
    for rows in (1, 8):
        given = torch.tensor([prompt] * rows)

        def ours(rows: int = rows) -> None:
            replies(
                model,
                "conversation",
                tokenizer,
                {IMAGE: image_tokens(rows, widths(model.image_encoder)[0])},
                [(row, prompt) for row in range(rows)],
                decoding,
            )

        def other(given: torch.Tensor = given) -> None:
            theirs.generate(
                given,
                attention_mask=torch.ones_like(given),
                min_new_tokens=REPLY_TOKENS,
                max_new_tokens=REPLY_TOKENS,
                do_sample=False,
                pad_token_id=tokenizer.pad_id,
            )

        with torch.no_grad():
            ours(), other()
            rounds = [(seconds(ours), seconds(other)) for _ in range(ROUNDS)]
        mine = statistics.median(a for a, _ in rounds)
        found[f"tokens_per_s_{rows}"] = rows * REPLY_TOKENS / mine
        found[f"times_transformers_{rows}"] = statistics.median(b / a for a, b in rounds)
    return found


def packing(model: VisionLanguageModel, tokenizer: Any, folder: str) -> dict[str, float]:
    """Tokens an image, and seconds of steps on `IMAGES` images with captions and questions after objects."""
    language, recipe = model.language, find_recipe("llava")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.endswith(LORA_NAMES) or name.startswith("heads."))
    assert isinstance(recipe.data, FilesConfig)
    data = open_dataset(replace(recipe.data, path=folder), "train", 0)
    examples = [data.example(number) for number in range(PACKED)]
    spans = [[tokenizer.conversation(one) for one in turns_of(example, 0, 0, CAPTIONS, ALL)] for example in examples]
    more = model.image_tokens("conversation") - 1
    beginnings = [common_length([one.ids for one in some]) for some in spans]
    alone = sum(len(one.ids) + more for some in spans for one in some)
    shared = sum(
        length + more + sum(len(one.ids) - length for one in some)
        for some, length in zip(spans, beginnings, strict=True)
    )
    trees = [packed(some)[0] for some in spans]
    width = widths(model.image_encoder)[0]

    def step(shares: bool, first: int) -> None:
        made = [packed(some, shares) for some in spans[first : first + IMAGES]]
        fields = padded([row for rows in made for row in rows], tokenizer.pad_id)
        index = torch.tensor([number for number, rows in enumerate(made) for _ in rows])
        states = target_states(model, "conversation", image_tokens(IMAGES, width), fields, index)
        target = fields["target_ids"][fields["target_is_real"]]
        next_word_of_states(states, language.output_layer, target)["loss"].backward()

    step(True, 0)
    starts = range(0, PACKED, IMAGES)
    rounds = [(seconds(lambda at=at: step(False, at)), seconds(lambda at=at: step(True, at))) for at in starts]
    return {
        "tokens_per_image_alone": alone / PACKED,
        "tokens_per_image_common_beginning_once": shared / PACKED,
        "tokens_per_image_tree": sum(len(row.ids) + more for row in trees) / PACKED,
        "step_s_alone": statistics.median(one for one, _ in rounds),
        "step_s_tree": statistics.median(other for _, other in rounds),
        "times_as_fast": statistics.median(one / other for one, other in rounds),
    }


def main() -> None:
    """Print one JSON object, and keep it with its date in benchmarks/results."""
    chosen = sys.argv[1:] or ["open", "train", "write"]
    keep_freed_memory()
    result: dict[str, Any] = {"environment": environment()}
    if "open" in chosen:
        result["open"] = opening()
    if {"train", "write", "pack"} & set(chosen):
        made = pipeline()
        tokenizer = made.codec.tokenizer
        assert isinstance(made.model.language, LanguageModel)
        if "write" in chosen:
            result["write"] = writing(made.model, tokenizer)
        if "train" in chosen:
            result["train"] = training(made.model, tokenizer)
        if "pack" in chosen:
            result["pack"] = packing(made.model, tokenizer, chosen[chosen.index("pack") + 1])
    text = json.dumps(result, indent=2)
    print(text)
    name = "packing" if "pack" in chosen else "language_model"
    write_bytes(RESULTS / f"{datetime.date.today()}-{name}.json", text.encode() + b"\n")


if __name__ == "__main__":
    main()
