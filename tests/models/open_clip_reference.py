"""open_clip's CLIP as its layout is documented, written anew and small: what a state dict of it must mean."""

import json
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 2 * width))
        self.mlp.add_module("gelu", act())
        self.mlp.add_module("c_proj", nn.Linear(2 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, heads: int, layers: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, act) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = x.transpose(0, 1)  # nn.MultiheadAttention's own order: length first
        for block in self.resblocks:
            x = block(x, mask)
        return x.transpose(0, 1)


class Visual(nn.Module):
    def __init__(self, width: int, heads: int, layers: int, out: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 8, 8, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(17, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = Transformer(width, heads, layers, act)
        self.proj = nn.Parameter(torch.empty(width, out))

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv1(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        x = self.transformer(self.ln_pre(x))
        return self.ln_post(x[:, 0]) @ self.proj


class OpenCLIP(nn.Module):
    """32 px in patches of 8, texts of 32 tokens."""

    def __init__(self, words: int, quick_gelu: bool) -> None:
        super().__init__()
        act = QuickGELU if quick_gelu else nn.GELU
        self.visual = Visual(32, 2, 2, 12, act)
        self.transformer = Transformer(24, 3, 1, act)
        self.token_embedding = nn.Embedding(words, 24)
        self.positional_embedding = nn.Parameter(torch.empty(32, 24))
        self.ln_final = nn.LayerNorm(24)
        self.text_projection = nn.Parameter(torch.empty(24, 12))
        self.logit_scale = nn.Parameter(torch.tensor(3.5))
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name != "logit_scale":
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)

    def encode_image(self, image: Tensor) -> Tensor:
        return nn.functional.normalize(self.visual(image), dim=-1)

    def encode_text(self, ids: Tensor) -> Tensor:
        mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        x = self.ln_final(self.transformer(x, mask))
        return nn.functional.normalize(x[torch.arange(len(x)), ids.argmax(-1)] @ self.text_projection, dim=-1)


MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def description(words: int, quick_gelu: bool) -> dict:
    """`open_clip_config.json` of `OpenCLIP`."""
    return {
        "model_cfg": {
            "embed_dim": 12,
            "quick_gelu": quick_gelu,
            "vision_cfg": {
                "image_size": 32,
                "layers": 2,
                "width": 32,
                "head_width": 16,
                "mlp_ratio": 2.0,
                "patch_size": 8,
            },
            "text_cfg": {
                "context_length": 32,
                "vocab_size": words,
                "width": 24,
                "heads": 3,
                "layers": 1,
                "mlp_ratio": 2.0,
            },
        },
        "preprocess_cfg": {
            "mean": MEAN,
            "std": STD,
            "interpolation": "bicubic",
            "resize_mode": "shortest",
            "size": [32, 32],
        },
    }


def open_clip_folder(folder: Path, words: int, quick_gelu: bool) -> OpenCLIP:
    """Write weights and description beside a tokenizer that is there already, and return the model."""
    model = OpenCLIP(words, quick_gelu).eval()
    safetensors.torch.save_file(dict(model.state_dict()), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(description(words, quick_gelu)))
    return model
