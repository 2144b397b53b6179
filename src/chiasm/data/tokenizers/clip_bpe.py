"""CLIP's tokenizer from the one file that CLIP and open_clip publish: the list of byte-pair merges.

The vocabulary is no file of its own but follows from the merges (Radford et al. 2021, section 2.4, and the layout of
`bpe_simple_vocab_16e6.txt.gz`): 256 bytes, the same at the end of a word, one piece a merge, start and end. Texts are
normalised as transformers does it (NFC, spaces, lower case); the original also repairs broken encodings (ftfy).
"""

import gzip
import zlib
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from chiasm.core.errors import InputError
from chiasm.data.tokenizers.pretrained import PretrainedTokenizer

BPE_FILE = "bpe_simple_vocab_16e6.txt.gz"
NUM_MERGES = 49152 - 256 - 2
"""Of the file's lines, after its head, so many are CLIP's; the rest was cut off in training."""
START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
MAX_UNPACKED_BYTES = 16 * 2**20
PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def read_clip_words(path: Path, max_tokens: int) -> PretrainedTokenizer:
    """Read the merges, plain or gzipped.

    Args:
        path: the file, whose first line is a head.
        max_tokens: longest text, start and end included (77 in CLIP).

    Raises:
        InputError: no such list of merges.
    """
    merges = _merges(path)
    bytes_ = _bytes_in_order()
    pieces = [*bytes_, *(one + WORD_END for one in bytes_), *("".join(pair) for pair in merges), START, END]
    ids = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocab=ids, merges=merges, unk_token=END, continuing_subword_prefix="", end_of_word_suffix=WORD_END)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([START, END])
    return PretrainedTokenizer(tokenizer, max_tokens, [START], [END], END)


def _merges(path: Path) -> list[tuple[str, str]]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read(MAX_UNPACKED_BYTES + 1)
        lines = content.decode("utf-8").split("\n")[1 : NUM_MERGES + 1]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise _no_merges(path, f"cannot be read ({error})") from None
    pairs = [tuple(line.split()) for line in lines]
    if len(content) > MAX_UNPACKED_BYTES or len(pairs) < NUM_MERGES or any(len(pair) != 2 for pair in pairs):
        raise _no_merges(path, f"holds {len(pairs)} lines after its head")
    return [(pair[0], pair[1]) for pair in pairs]


def _no_merges(path: Path, problem: str) -> InputError:
    return InputError(f"{path} {problem}", f"{NUM_MERGES} merges of two pieces a line", "take CLIP's own file")


def _bytes_in_order() -> list[str]:
    """A printable character for each byte: printable ones stand for themselves and come first, others follow.

    The order of byte-level BPE (Radford et al. 2019), which CLIP's ids begin with.
    """
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(one) for one in plain] + [chr(256 + number) for number in range(256 - len(plain))]
