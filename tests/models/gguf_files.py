"""Tiny GGUF files of the Llama architecture with random weights and a byte-level tokenizer."""

from pathlib import Path

import numpy as np
from tokenizers import pre_tokenizers

HIDDEN, HEADS, KEYS, INNER, LAYERS = 64, 4, 2, 96, 2
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def shapes(words: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes as llama.cpp writes them."""
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (words, HIDDEN), "output_norm.weight": (HIDDEN,)}
    width = HIDDEN // HEADS * KEYS
    for layer in range(LAYERS):
        each = {
            "attn_norm": (HIDDEN,),
            "ffn_norm": (HIDDEN,),
            "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (width, HIDDEN),
            "attn_v": (width, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN),
            "ffn_gate": (INNER, HIDDEN),
            "ffn_up": (INNER, HIDDEN),
            "ffn_down": (HIDDEN, INNER),
        }
        found |= {f"blk.{layer}.{name}.weight": shape for name, shape in each.items()}
    return found


def write_llama(path: Path, blocks: str, architecture: str = "llama", without: str = "") -> None:
    """Write a model whose matrices are stored as `blocks` (F32, F16, Q4_1, Q8_0)."""
    import gguf

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġa", "do", "dog"]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(special) + [1] * (len(tokens) - len(special)))
    writer.add_token_merges(["Ġ a", "d o", "do g"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    random = np.random.default_rng(0)
    kind = gguf.GGMLQuantizationType[blocks]
    for name, shape in shapes(len(tokens)).items():
        values = random.standard_normal(shape).astype(np.float32)
        if name == without:
            continue
        if len(shape) == 1 or blocks == "F32":
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
