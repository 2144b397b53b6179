"""Captions to vectors with CLIP ViT-B/32's text tower: chiasm against transformers padded to the longest of 32.

    python benchmarks/text_encoding.py --texts 640 --out benchmarks/results/DATE-text_encoding.json

Captions are those of Flickr8k's validation split, in a drawn order; weights are random. Both run in one process, with
freed memory kept (`core.device.keep_freed_memory`), interleaved, and the ratio is the median over rounds. On a machine
that others use, `cpu_ratio` compares the processor time of both, which waits for nobody.
"""

import argparse
import copy
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from chiasm.core.device import environment, keep_freed_memory
from chiasm.core.types import TextTokens
from chiasm.data.tokenizers.clip_bpe import read_clip_words
from chiasm.data.tokenizers.pretrained import PretrainedTokenizer
from chiasm.models.batch_invariant import make_batch_invariant
from chiasm.models.dynamic_int8 import Int8Network
from chiasm.models.encoders.hugging_face import HuggingFaceTextEncoder
from chiasm.models.encoders.prefix_tree import prefix_tree
from chiasm.models.pretrained.hugging_face_folder import TowerSpec
from chiasm.tasks.text_batches import TOKENS_AT_ONCE, in_batches

BATCH = 32
DATA = Path(os.environ.get("CHIASM_DATA", "../shared/data"))


def captions(count: int) -> list[str]:
    """Drawn captions of the validation split."""
    lines = (DATA / "flickr8k/val/data.jsonl").read_text(encoding="utf-8").splitlines()
    found = [text for line in lines for text in json.loads(line)["captions"]]
    random.Random(0).shuffle(found)
    return found[:count]


@torch.no_grad()
def padded(network: CLIPTextModelWithProjection, tokenizer: PretrainedTokenizer, texts: list[str]) -> Tensor:
    """What a user of transformers does: batches of 32, each padded to its longest text."""
    found = []
    for start in range(0, len(texts), BATCH):
        ids, is_real = tokenizer.batch(texts[start : start + BATCH])
        found.append(network(input_ids=ids, attention_mask=is_real.long()).text_embeds)
    return torch.cat(found)


@torch.no_grad()
def in_budget(
    tower: HuggingFaceTextEncoder,
    projection: torch.nn.Module,
    tokenizer: PretrainedTokenizer,
    texts: list[str],
    budget: int,
) -> Tensor:
    """As `tasks.text_batches.encode_texts` does it."""
    place: dict[str, int] = {}
    parts = []
    for batch in in_batches(texts, tokenizer, tower.shares_prefixes, budget):
        parts.append(projection(tower.vectors(TextTokens(*tokenizer.batch(batch)))))
        place |= {text: len(place) + number for number, text in enumerate(batch)}
    return torch.cat(parts)[[place[text] for text in texts]]


def measured(candidates: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of each, and median ratios of the first to it, by the wall and by the processor."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, candidate in candidates.items():
            wall, processor = time.perf_counter(), time.process_time()
            candidate()
            times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    first = next(iter(times.values()))
    found = {}
    for name, values in times.items():
        ratios = [[base[kind] / value[kind] for base, value in zip(first, values, strict=True)] for kind in (0, 1)]
        found[name] = {
            "wall_s": statistics.median(value[0] for value in values),
            "cpu_s": statistics.median(value[1] for value in values),
            "ratio": statistics.median(ratios[0]),
            "cpu_ratio": statistics.median(ratios[1]),
        }
    return found


def main() -> None:
    """Print the table and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budgets", type=int, nargs="+", default=[TOKENS_AT_ONCE])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    tokenizer = read_clip_words(DATA / "clip_bpe/bpe_simple_vocab_16e6.txt.gz", 77)
    config = CLIPTextConfig(eos_token_id=49407, bos_token_id=49406, pad_token_id=49407)
    network = CLIPTextModelWithProjection(config).eval()
    own = CLIPTextModelWithProjection(config).eval()
    own.load_state_dict(network.state_dict())
    make_batch_invariant(own)
    short = copy.deepcopy(own)
    tower = HuggingFaceTextEncoder(own.text_model, TowerSpec(config.to_dict(), "pooler"))
    of_bytes = HuggingFaceTextEncoder(short.text_model, TowerSpec(config.to_dict(), "pooler"))
    Int8Network(of_bytes).put_in()
    texts = captions(args.texts)
    expected = padded(network, tokenizer, texts)
    found = in_budget(tower, own.text_projection, tokenizer, texts, TOKENS_AT_ONCE)
    rounded = in_budget(of_bytes, short.text_projection, tokenizer, texts, TOKENS_AT_ONCE)
    candidates: dict[str, Callable[[], object]] = {
        f"transformers, padded to the longest of {BATCH}": lambda: padded(network, tokenizer, texts),
        **{
            f"chiasm, {budget:,} tokens at once": lambda budget=budget: in_budget(
                tower, own.text_projection, tokenizer, texts, budget
            )
            for budget in args.budgets
        },
        "chiasm, weights and inputs of eight bits": lambda: in_budget(
            of_bytes, short.text_projection, tokenizer, texts, TOKENS_AT_ONCE
        ),
    }
    table = measured(candidates, args.rounds)
    ids, is_real = tokenizer.batch(texts)
    lengths = is_real.sum(1)
    longest = sum(int(part.max()) * len(part) for part in lengths.split(BATCH))
    result = {
        "texts": len(texts),
        "tokens": {
            "padded": longest,
            "real": int(lengths.sum()),
            "distinct beginnings": len(prefix_tree(ids, lengths).ids),
        },
        "threads": args.threads,
        "least_cosine": float(F.cosine_similarity(expected, found).min()),
        "least_cosine_int8": float(F.cosine_similarity(expected, rounded).min()),
        "table": table,
        "environment": environment(),
    }
    print(result["tokens"], f"least cosine {result['least_cosine']:.7f}, in int8 {result['least_cosine_int8']:.5f}")
    for name, row in table.items():
        print(
            f"  {name:<44} {len(texts) / row['wall_s']:7.1f} texts/s  {row['ratio']:.2f}x  "
            f"by processor time {row['cpu_ratio']:.2f}x"
        )
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
