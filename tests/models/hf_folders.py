"""Tiny folders in Hugging Face layout, written by transformers itself, weights random and far from zero."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

LINES = [
    "a red circle left of a blue square",
    "two green dogs run over the snow",
    "what is there",
    "紅 狗 在 雪 里 跑 一 只",
]
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SMALL, "image_size": 32, "patch_size": 8}


def scrambled(model: Any) -> Any:
    """The model in evaluation mode with every weight moved, so that each of them counts."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def save_words(folder: Path, style: str) -> None:
    """Train a tokenizer on a few lines and save it: "bert", "roberta", "clip", "xlnet" or "siglip"."""
    folder.mkdir(parents=True, exist_ok=True)
    if style == "bert":
        characters = sorted({one for line in LINES for one in line if one != " "})
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *("##" + one for one in characters)]
        (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
        transformers.BertTokenizer.from_pretrained(folder).save_pretrained(folder)
        return
    wrap = {
        "roberta": (["<s>", "<pad>", "</s>", "<unk>", "<mask>"], "<s> $A </s>"),
        "clip": (["<|startoftext|>", "<|endoftext|>"], "<|startoftext|> $A <|endoftext|>"),
        "xlnet": (["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>"], "$A <sep> <cls>"),
        "siglip": (["<pad>", "</s>", "<unk>"], "$A </s>"),
    }
    special, template = wrap[style]
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    pieces.train_from_iterator(
        LINES,
        trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    named = [(one, pieces.token_to_id(one)) for one in special]
    pieces.post_processor = processors.TemplateProcessing(single=template, special_tokens=named)
    names = {"pad_token": "<|endoftext|>" if style == "clip" else "<pad>"}
    names |= {"mask_token": "<mask>"} if "<mask>" in special else {}
    transformers.PreTrainedTokenizerFast(tokenizer_object=pieces, **names).save_pretrained(folder)


def vocabulary(folder: Path) -> int:
    return len(transformers.PreTrainedTokenizerFast.from_pretrained(folder))


def save_pixels(folder: Path, style: str) -> None:
    """Save a preprocessing of 32 px."""
    square = {"height": 32, "width": 32}
    made = {
        "clip": lambda: transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=square),
        "bit": lambda: transformers.BitImageProcessorPil(size={"shortest_edge": 37}, crop_size=square),
        "vit": lambda: transformers.ViTImageProcessorPil(size=square),
        "siglip": lambda: transformers.SiglipImageProcessorPil(size=square),
        "convnext": lambda: transformers.ConvNextImageProcessorPil(size={"shortest_edge": 32}),
    }
    made[style]().save_pretrained(folder)


def vision_folder(folder: Path, kind: str) -> Any:
    """Write a vision folder and return its model."""
    if kind == "vit":
        model, pixels = transformers.ViTModel(transformers.ViTConfig(**VISION), add_pooling_layer=False), "vit"
    elif kind == "dinov2":
        model, pixels = transformers.Dinov2Model(transformers.Dinov2Config(**{**VISION, "mlp_ratio": 2})), "bit"
    elif kind == "convnext":
        sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "image_size": 32}
        model, pixels = transformers.ConvNextModel(transformers.ConvNextConfig(**sizes)), "convnext"
    elif kind == "siglip_vision":
        model, pixels = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**VISION)), "siglip"
    else:
        model, pixels = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION)), "clip"
    scrambled(model).save_pretrained(folder)
    save_pixels(folder, pixels)
    return model


def text_folder(folder: Path, kind: str) -> Any:
    """Write a text folder and return its model."""
    style = {"clip_text": "clip", "siglip_text": "siglip", "chinese_clip_text": "bert"}.get(kind, kind)
    save_words(folder, style)
    words = vocabulary(folder)
    if kind == "roberta":
        config = transformers.RobertaConfig(vocab_size=words, **SMALL, max_position_embeddings=34, pad_token_id=1)
        model = transformers.RobertaModel(config, add_pooling_layer=False)
    elif kind == "xlnet":
        model = transformers.XLNetModel(
            transformers.XLNetConfig(vocab_size=words, d_model=16, n_layer=2, n_head=2, d_inner=32)
        )
    elif kind == "clip_text":
        ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
        model = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(vocab_size=words, **SMALL, max_position_embeddings=32, **ends)
        )
    elif kind == "siglip_text":
        config = transformers.SiglipTextConfig(
            vocab_size=words, **SMALL, max_position_embeddings=32, projection_size=16
        )
        model = transformers.SiglipTextModel(config)
    else:
        model = transformers.BertModel(transformers.BertConfig(vocab_size=words, **SMALL), add_pooling_layer=False)
    scrambled(model).save_pretrained(folder)
    return model


def save_clip_words(folder: Path) -> int:
    """A tokenizer in CLIP's manner, whose end token has the highest id; returns the number of ids."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    pieces.train_from_iterator(
        LINES, trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    )
    special = ["<|startoftext|>", "<|endoftext|>"]
    pieces.add_special_tokens(special)
    named = [(one, pieces.token_to_id(one)) for one in special]
    pieces.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=named
    )
    names = {"bos_token": special[0], "eos_token": special[1], "pad_token": special[1]}
    transformers.PreTrainedTokenizerFast(tokenizer_object=pieces, **names).save_pretrained(folder)
    return vocabulary(folder)


def dual_folder(folder: Path, kind: str, act: str = "quick_gelu") -> Any:
    """Write a folder with both towers and return its model: a family, or "vit_bert" and "clip_bert" for two towers."""
    side = {**SMALL, "hidden_act": act}
    vision = {**side, "image_size": 32, "patch_size": 8}
    if kind == "clip":
        words = save_clip_words(folder)
        ends = {"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1}
        text = {**side, "hidden_size": 24, "vocab_size": words, "max_position_embeddings": 32, **ends}
        config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=12)
        model, pixels = transformers.CLIPModel(config), "clip"
    elif kind == "siglip":
        save_words(folder, "siglip")
        text = {**SMALL, "vocab_size": vocabulary(folder), "max_position_embeddings": 32, "projection_size": 16}
        model, pixels = (
            transformers.SiglipModel(transformers.SiglipConfig(vision_config=VISION, text_config=text)),
            "siglip",
        )
    elif kind == "chinese_clip":
        save_words(folder, "bert")
        text = {**SMALL, "vocab_size": vocabulary(folder), "max_position_embeddings": 40}
        config = transformers.ChineseCLIPConfig(vision_config=vision, text_config=text, projection_dim=12)
        model, pixels = transformers.ChineseCLIPModel(config), "vit"
    else:
        save_words(folder, "bert")
        text = transformers.BertConfig(**SMALL, vocab_size=vocabulary(folder), max_position_embeddings=40)
        seen = transformers.ViTConfig(**VISION) if kind == "vit_bert" else transformers.CLIPVisionConfig(**vision)
        config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(seen, text, projection_dim=12)
        model, pixels = transformers.VisionTextDualEncoderModel(config), "vit"
    scrambled(model).save_pretrained(folder)
    save_pixels(folder, pixels)
    return model


ANSWERS = ("yes", "no", "red", "two", "紅")


def network_folder(folder: Path, kind: str) -> Any:
    """Write a folder with one of BLIP's or ViLT's networks, by the name of its class, and return it."""
    torch.manual_seed(0)
    save_words(folder, "bert")
    words = vocabulary(folder)
    if kind.startswith("Blip"):
        # The start of a written text is no word of the tokenizer, as in the published folders.
        # A decoder of answers looks at words, so that both towers are of one width there.
        width = 16 if kind == "BlipForQuestionAnswering" else 24
        text = {**SMALL, "encoder_hidden_size": width, "vocab_size": words + 2, "max_position_embeddings": 40}
        text |= {"bos_token_id": words, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0, "hidden_size": 16}
        vision = {**VISION, "hidden_size": width}
        config = transformers.BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=12)
        pixels = transformers.BlipImageProcessorPil(size={"height": 32, "width": 32})
    else:
        config = transformers.ViltConfig(
            **VISION,
            vocab_size=words,
            max_position_embeddings=40,
            id2label=dict(enumerate(ANSWERS)),
            label2id={answer: number for number, answer in enumerate(ANSWERS)},
        )
        pixels = transformers.ViltImageProcessorPil(size={"shortest_edge": 32}, size_divisor=8)
    model = scrambled(getattr(transformers, kind)(config))
    model.save_pretrained(folder)
    pixels.save_pretrained(folder)
    return model
