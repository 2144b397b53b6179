"""A run of the task conversation -> a LLaVA folder of transformers (`LlavaForConditionalGeneration`).

The layout has an image tower for images of one size, two linear layers with an activation between on each token, and a
causal language model. A norm before or after the projector cannot be folded into its layers, so such a run is refused;
a linear projector becomes two layers of which the second is the identity.
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import AddedToken, Tokenizer
from torch import Tensor, nn

from chiasm.core.errors import InputError, JobError
from chiasm.core.types import IMAGE, IMAGE_PLACEHOLDER, Example, Turn
from chiasm.data.conversations import prompt_turns
from chiasm.data.tokenizers.chat import ChatTokenizer
from chiasm.data.tokenizers.chat_template import with_fixed_date
from chiasm.models.bridge.language_bridge import LanguageBridge
from chiasm.models.bridge.projector import TokenwiseProjector
from chiasm.models.bridge.splicing import GivenRows
from chiasm.models.decoding import DecodingConfig
from chiasm.models.encoders.hugging_face import HuggingFaceImageEncoder
from chiasm.models.encoders.language_model import LanguageModel
from chiasm.models.lora import merge_lora
from chiasm.models.networks.base import PretrainedVLM
from chiasm.models.networks.llava_1_5 import Llava
from chiasm.models.pretrained.hugging_face_folder import reading
from chiasm.pipeline.interop.layouts import as_json, network_files, pixels
from chiasm.pipeline.pipeline import Pipeline
from chiasm.tasks.base import Query, Task

NETWORK = "LlavaForConditionalGeneration"
TOWERS = {"clip_vision_model": 1, "siglip_vision_model": 0, "vit": 1, "deit": 2}
"""Image towers that the layout can hold -> their tokens before the grid."""
FLAT = (
    "{%- set flat = namespace(messages=[]) -%}{%- for message in messages -%}"
    "{%- if message['content'] is string -%}{%- set flat.messages = flat.messages + [message] -%}{%- else -%}"
    "{%- set part = namespace(text='') -%}{%- for one in message['content'] -%}"
    "{%- set part.text = part.text + ('" + IMAGE_PLACEHOLDER + "\n' if one['type'] == 'image' else one['text']) -%}"
    "{%- endfor -%}"
    "{%- set flat.messages = flat.messages + [{'role': message['role'], 'content': part.text}] -%}"
    "{%- endif -%}{%- endfor -%}{%- set messages = flat.messages -%}"
)
"""Stands before a template of texts: joins contents that are lists of images and texts."""
COMPARED_WORDS = 16
"""Tokens of the greedy text that both write."""
TOLERANCE = 1e-3
"""Largest difference of logits, as a share of the largest logit."""


def is_conversation(pipeline: Pipeline) -> bool:
    """Whether a run converses and does nothing else."""
    return [task.needs for task in pipeline.tasks.values()] == ["conversations"]


def _talk(pipeline: Pipeline) -> Task[Any]:
    """The run's one task."""
    (task,) = pipeline.tasks.values()
    return task


@torch.no_grad()
def llava_files(pipeline: Pipeline) -> dict[str, bytes]:
    """Config, weights with low-rank changes merged, preprocessing, tokenizer and chat template, by name.

    The language model of `pipeline` is changed: float32, low-rank changes merged.

    Raises:
        InputError: names what LLaVA's layout cannot hold, and the keys to train with.
    """
    model, words = pipeline.model, pipeline.codec.chat_tokenizer
    if isinstance(model, PretrainedVLM) and not isinstance(model, Llava):
        raise _refused(f"a {model.spec.network}", "a LLaVA-1.5, or a bridge that was trained here")
    if isinstance(model, PretrainedVLM):
        preprocessing, before = model.spec.fixed, _tokens_before(model.spec.architecture["vision_config"])
    else:
        tower = _tower(model.image_encoder)
        preprocessing, before = tower.preprocessing, TOWERS[tower.spec.architecture["model_type"]]
    language = model.language
    merge_lora(language, also_kept=True)
    language.float()
    pieces = Tokenizer.from_str(words.tokenizer.to_str())
    pieces.post_processor = None  # the chat template writes the start of a text, and nothing else does
    image = words.form.image or IMAGE_PLACEHOLDER
    pieces.add_special_tokens([AddedToken(image, normalized=False, special=True)])
    image_id = cast(int, pieces.token_to_id(image))
    if isinstance(model, Llava):
        architecture = dict(model.spec.architecture)
        tensors = model.hugging_face_tensors()
    else:
        tensors = _tensors(model.bridge(_talk(pipeline).name), _tower(model.image_encoder), language, image_id)
        architecture = _architecture(pipeline, image_id, len(tensors["lm_head.weight"]))
    config = reading(Path(NETWORK), "the config", lambda: _config(architecture))
    try:
        files = network_files(NETWORK, config, tensors)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:200]
        raise _refused(f"a {type(language.network).__name__} inside ({said})", "Llama, Qwen, Mistral, Phi-3") from None
    strategy = architecture["vision_feature_select_strategy"]
    told = {"processor_class": "LlavaProcessor", "image_token": image, "num_additional_image_tokens": before}
    told |= {"patch_size": config.vision_config.patch_size, "vision_feature_select_strategy": strategy}
    banned = sorted({image_id, *(one for one in words.special_ids if one not in words.end_ids)})
    generation = {"eos_token_id": list(words.end_ids), "pad_token_id": words.pad_id, "suppress_tokens": banned}
    return {
        **files,
        "generation_config.json": as_json(generation),
        "preprocessor_config.json": as_json(pixels(preprocessing, "llava")),
        "processor_config.json": as_json(told),
        **_tokenizer_files(pieces, words),
    }


def _tower(encoder: nn.Module) -> HuggingFaceImageEncoder:
    if not isinstance(encoder, HuggingFaceImageEncoder):
        raise _refused(
            f"the image tower {type(encoder).__name__}, whose architecture transformers does not have",
            "a tower of CLIP's or SigLIP's kind out of a folder: model.image.kind=hugging_face",
        )
    kind = encoder.spec.architecture["model_type"]
    if kind not in TOWERS:
        raise _refused(f"the image tower {kind}", "one of " + ", ".join(TOWERS))
    return encoder


def _tokens_before(vision: dict[str, Any]) -> int:
    return TOWERS.get(str(vision["model_type"]), 0)


def _tensors(
    bridge: LanguageBridge, tower: HuggingFaceImageEncoder, language: LanguageModel, image_id: int
) -> dict[str, Tensor]:
    """All weights of a bridge that was trained here, under the names of transformers."""
    network = language.network
    head, table = cast(nn.Linear, network.get_output_embeddings()), cast(Any, network.get_input_embeddings()).weight
    if head.bias is not None:
        raise _refused(
            f"a {type(network).__name__}, whose output layer has a bias", "one without: Llama, Qwen, Mistral"
        )
    tensors = {f"model.vision_tower.{name}": value for name, value in tower.model.state_dict().items()}
    inner = network.base_model.state_dict()
    tensors |= {f"model.language_model.{name}": value for name, value in inner.items()}
    tensors["lm_head.weight"] = head.weight
    missing = image_id + 1 - len(table)
    if missing > 0:
        # The mean of all rows: its logit is the mean of all logits, which is never the largest.
        name = next(one for one, value in inner.items() if value.data_ptr() == table.data_ptr())
        for one, value in ((f"model.language_model.{name}", table), ("lm_head.weight", head.weight)):
            tensors[one] = torch.cat([value, value.mean(0, keepdim=True).expand(missing, -1)])
    return tensors | {f"model.multi_modal_projector.{name}": value for name, value in _projector(bridge).items()}


def _projector(bridge: LanguageBridge) -> dict[str, Tensor]:
    projector = bridge.projector
    if not isinstance(projector, TokenwiseProjector):
        raise _refused(
            f"the projector {type(projector).__name__}, which makes other tokens than the image tower has",
            "tasks.conversation.projector.kind mlp2x_gelu or linear",
        )
    if bridge.norm is not None or not isinstance(projector.norm, nn.Identity):
        raise _refused(
            "a projector with a LayerNorm before or after it, which cannot be folded into its layers",
            "a projector without norms: train with --set tasks.conversation.projector.input_norm=false "
            "--set tasks.conversation.projector.output_norm=false",
        )
    layers = [layer for layer in projector.modules() if isinstance(layer, nn.Linear)]
    found: dict[str, Tensor] = {}
    for number, layer in enumerate(layers, 1):
        found |= {f"linear_{number}.weight": layer.weight, f"linear_{number}.bias": layer.bias}
    if len(layers) == 1:
        width = layers[0].out_features
        found |= {"linear_2.weight": torch.eye(width), "linear_2.bias": torch.zeros(width)}
    return found


def _architecture(pipeline: Pipeline, image_id: int, vocabulary: int) -> dict[str, Any]:
    tower, network = _tower(pipeline.model.image_encoder), pipeline.model.language.network
    projector = cast(TokenwiseProjector, pipeline.model.bridge(_talk(pipeline).name).projector)
    text = network.config.get_text_config().to_dict()
    text["vocab_size"] = vocabulary
    is_linear = isinstance(projector.change, nn.Linear)
    return {
        "model_type": "llava",
        "vision_config": tower.spec.architecture,
        "text_config": text,
        "image_token_id": image_id,
        "projector_hidden_act": "linear" if is_linear else "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "image_seq_length": pipeline.model.image_tokens(_talk(pipeline).name),
        "tie_word_embeddings": bool(text.get("tie_word_embeddings")),
    }


def _config(architecture: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    settings = {key: value for key, value in architecture.items() if key != "model_type"}
    made = AutoConfig.for_model("llava", **settings)
    made.architectures, made.dtype = [NETWORK], "float32"
    return made


def _tokenizer_files(pieces: Tokenizer, words: ChatTokenizer) -> dict[str, bytes]:
    """The tokenizer as transformers reads it, and a chat template that takes images."""
    from transformers import PreTrainedTokenizerFast

    form = words.form
    kept = {name: token for name, token in form.specials.items() if name.endswith("_token")}
    template = with_fixed_date(form.template)
    if "enable_thinking" in template:
        template = "{%- set enable_thinking = false -%}" + template
    if "start_tokens" in form.specials:
        template = f"{{%- set start_tokens = {form.specials['start_tokens']!r} -%}}" + template
    with tempfile.TemporaryDirectory() as place:
        made = PreTrainedTokenizerFast(
            tokenizer_object=pieces, model_max_length=words.max_tokens, **{**kept, "pad_token": words.pad}
        )
        made.chat_template = template if form.image else FLAT + template
        made.save_pretrained(place)
        return {path.name: path.read_bytes() for path in sorted(Path(place).iterdir())}


@torch.no_grad()
def compare_with_transformers(pipeline: Pipeline, folder: Path, example: Example) -> dict[str, Any]:
    """Logits and greedy text about the stored example, by chiasm and by transformers from the written folder.

    Returns:
        `words`, the prompt; `reply`, which both write; `logits_difference`, the largest of both.

    Raises:
        JobError: they differ.
    """
    import transformers
    from PIL import Image

    turns = prompt_turns("caption", 1)
    network: Any = transformers.LlavaForConditionalGeneration.from_pretrained(folder, local_files_only=True)
    words: Any = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    prepared = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    picture = example.inputs[IMAGE]
    shown = Image.fromarray(picture.load())
    parts = [{"type": "image"}, {"type": "text", "text": turns[0].text.partition("\n")[2]}]
    asked = words.apply_chat_template([{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True)
    token = words.convert_ids_to_tokens(network.config.image_token_id)
    asked = asked.replace(token, token * network.config.image_seq_length)
    given = words(asked, return_tensors="pt", add_special_tokens=True)
    ids = {"input_ids": given["input_ids"], "attention_mask": given["attention_mask"]}
    ids |= {"pixel_values": prepared([shown], return_tensors="pt")["pixel_values"]}
    theirs = network.eval()(**ids).logits[0].float()
    ours = _prompt_logits(pipeline, example, turns)
    if ours.shape[0] != theirs.shape[0]:
        raise JobError(
            f"the exported folder makes {len(theirs)} tokens of a prompt of {len(ours)}\n"
            "  do: report this; nothing was written"
        )
    difference = float((ours - theirs[:, : ours.shape[1]]).abs().max())
    if difference > TOLERANCE * max(float(ours.abs().max()), 1.0):
        raise JobError(
            f"transformers gives the exported folder other logits, by up to {difference:.1e}: its LLaVA computes "
            f"{type(pipeline.model.language.network).__name__} or the image tower in another way\n"
            "  do: keep the run folder, which chiasm opens as it is"
        )
    out = network.generate(**ids, max_new_tokens=COMPARED_WORDS, do_sample=False)[0, ids["input_ids"].shape[1] :]
    written = pipeline.codec.tokenizer.decode(out.tolist())
    reply = _reply(pipeline, example, turns)
    if written != reply:
        raise JobError(f"transformers writes {written!r}, chiasm {reply!r}\n  do: report this; nothing was written")
    return {"words": {"text": turns[0].text}, "reply": reply, "logits_difference": difference}


def _prompt_logits(pipeline: Pipeline, example: Example, turns: tuple[Turn, ...]) -> Tensor:
    tokenizer = cast(ChatTokenizer, pipeline.codec.tokenizer)
    ids = torch.tensor([tokenizer.prompt(turns)], device=pipeline.device)
    given = GivenRows(ids, torch.ones_like(ids, dtype=torch.bool))
    image, language = pipeline.encode_images([example.inputs[IMAGE]]), pipeline.model.language
    rows = pipeline.model.bridge(_talk(pipeline).name).rows(language, image, given, ids.new_zeros(1))
    return language.words(language.states(rows.embeddings, rows.allowed, rows.positions))[0].cpu()


def _reply(pipeline: Pipeline, example: Example, turns: tuple[Turn, ...]) -> str:
    codec = replace(pipeline.codec, decoding=DecodingConfig(max_words=COMPARED_WORDS))
    encoded = {IMAGE: pipeline.encode_images([example.inputs[IMAGE]])}
    return str(_talk(pipeline).predict(pipeline.model, codec, encoded, [Query(0, turns=turns)])[0].answer)


def _refused(given: str, allowed: str) -> InputError:
    return InputError(
        f"{given}, in the layout of LLaVA", allowed, "keep the run folder, which chiasm opens and serves as it is"
    )
