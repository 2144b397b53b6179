"""Conversations as ids: equal to transformers' apply_chat_template, only the assistant counted, nothing smuggled in."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from chiasm.core.errors import InputError
from chiasm.core.types import Turn
from chiasm.data.tokenizers.chat import IMAGE_ID, ChatTokenizer
from chiasm.data.tokenizers.chat_folder import read_chat_tokenizer
from chiasm.models.pretrained.gguf_file import language_model_folder
from chiasm.models.pretrained.packaged_language_models import packaged_parts

transformers = pytest.importorskip("transformers", reason="needs the extra [llm]")

CHATML = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful assistant<|im_end|>
' }}{% endif %}{{ '<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN3 = (
    "{% set ns = namespace(last=-1) %}{% for message in messages %}{% if message.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{% if message.role == 'assistant' %}{% if loop.index0 > ns.last and loop.last %}{{ '<think>\n\n</think>\n\n' }}"
    "{% endif %}{{ message.content.lstrip('\n') }}{% else %}{{ message.content }}{% endif %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n'"
    " + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}"
    "{% for message in rest %}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role'])"
    " + '\n' + (first if loop.first else '') + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI3 = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set told = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set told = false %}{% endif %}{% for message in rest %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' }}{% if loop.first and told %}"
    "{{ '<<SYS>>\n' + told + '\n<</SYS>>\n\n' }}{% endif %}{{ message['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set told = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% endif %}{{ bos_token }}{% for message in rest %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' }}"
    "{% if loop.last and told is defined %}{{ told + '\n\n' }}{% endif %}"
    "{{ message['content'] + '[/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
TEMPLATES = {
    "chatml": (CHATML, "<|im_end|>"),
    "llama3": (LLAMA3, "<|eot_id|>"),
    "qwen3": (QWEN3, "<|im_end|>"),
    "gemma": (GEMMA, "<end_of_turn>"),
    "gemma3": (GEMMA3, "<end_of_turn>"),
    "phi3": (PHI3, "<|end|>"),
    "llama2": (LLAMA2, "</s>"),
    "mistral": (MISTRAL, "</s>"),
}
SPECIAL = [
    "<unk>",
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
SPECIAL += ["<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
LINES = [
    "\n\n\n a\n\n\n\n b",
    "a dog runs over the snow",
    "user\nassistant\nsystem\nmodel\n",
    "两只狗在雪地里 一张照片",
    "What is there? A dog.",
]
LLAMA3_SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
KINDS = ("bytes", "gemma", "llama")
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def pieces(kind: str) -> Tokenizer:
    """Byte-level as Llama-3; without and with the space that Llama's sentencepiece puts before a text."""
    if kind == "bytes":
        found = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated")
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        found.pre_tokenizer = pre_tokenizers.Sequence([split, level])
        found.decoder = decoders.ByteLevel()
        found.post_processor = processors.ByteLevel(trim_offsets=True)
        start = pre_tokenizers.ByteLevel.alphabet()
    else:
        found = Tokenizer(models.BPE(unk_token=SPECIAL[0], byte_fallback=True, fuse_unk=True))
        found.normalizer = normalizers.Replace(" ", "▁")
        found.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")  # as in sentencepiece, where it is a byte
        if kind == "llama":
            found.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        found.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if kind == "llama" else steps)
        start = ["▁"]
    bytes_ = [] if kind == "bytes" else [f"<0x{one:02X}>" for one in range(256)]
    special = SPECIAL + bytes_
    found.train_from_iterator(
        LINES, trainers.BpeTrainer(vocab_size=700, special_tokens=special, initial_alphabet=start, show_progress=False)
    )
    if bytes_:  # the bytes are pieces, not special tokens
        stored = json.loads(found.to_str())
        stored["added_tokens"] = [one for one in stored["added_tokens"] if one["content"] in SPECIAL]
        found = Tokenizer.from_str(json.dumps(stored))
    return found


def save(folder: Path, kind: str, template: str | None, eos: str = "</s>", **more: Any) -> Path:
    """A folder as a language model has it, without weights."""
    names = {"bos_token": "<s>", "eos_token": eos, "unk_token": "<unk>"} | more
    found = transformers.PreTrainedTokenizerFast(tokenizer_object=pieces(kind), chat_template=template, **names)
    found.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 2}))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    root = tmp_path_factory.mktemp("models")
    kinds = {(kind, name) for kind in KINDS for name in TEMPLATES}
    return {(kind, name): save(root / f"{kind}-{name}", kind, TEMPLATES[name][0]) for kind, name in sorted(kinds)}


@pytest.fixture(scope="module")
def tokenizers(folders: dict[tuple[str, str], Path]) -> dict[tuple[str, str], ChatTokenizer]:
    return {key: read_chat_tokenizer(folder, 64) for key, folder in folders.items()}


def turns_of(*texts: str, system: str = "") -> list[Turn]:
    roles: Any = ("user", "assistant")
    told = [Turn("system", system)] if system else []
    return told + [Turn(roles[number % 2], text) for number, text in enumerate(texts)]


def messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.text} for turn in turns]


CONVERSATIONS = [
    turns_of("What is there?", "A dog."),
    turns_of("What is there?", "A dog.", "两只狗?", "在雪地里", "And?", "snow"),
    turns_of("  white space \n", " around it ", "ok", "yes"),
    turns_of("What is there?", "A dog.", "Where?", system="Short answers."),
]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(len(CONVERSATIONS)))
def test_ids_are_those_of_transformers(
    folders: dict[tuple[str, str], Path],
    tokenizers: dict[tuple[str, str], ChatTokenizer],
    name: str,
    kind: str,
    number: int,
) -> None:
    """Guards against a model that is asked in another way than it was trained."""
    turns = CONVERSATIONS[number]
    if turns[0].role == "system" and name in ("gemma", "mistral"):
        pytest.skip("takes no system text; see below")
    theirs = transformers.AutoTokenizer.from_pretrained(folders[kind, name])
    own = tokenizers[kind, name]
    expected = theirs.apply_chat_template(messages(turns), enable_thinking=False)["input_ids"]
    asked = turns if turns[-1].role == "user" else turns[:-1]
    prompt = theirs.apply_chat_template(messages(asked), add_generation_prompt=True, enable_thinking=False)["input_ids"]
    if name == "qwen3" and len(turns) > 2:
        text = theirs.apply_chat_template(messages(turns), tokenize=False, enable_thinking=False)
        think = "<think>\n\n</think>\n\n"
        head = "<|im_start|>assistant\n"
        text = text.replace(head + think, head).replace(head, head + think)
        expected = theirs(text, add_special_tokens=False).input_ids
        prompt = own.prompt(asked)
    assert own.conversation(turns).ids == expected
    assert own.prompt(asked) == prompt


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_counted_is_what_the_assistant_wrote(
    tokenizers: dict[tuple[str, str], ChatTokenizer], name: str, kind: str
) -> None:
    """Guards against a loss over questions or headers, and against a model that never learns to stop."""
    own, end = tokenizers[kind, name], TEMPLATES[name][1]
    spans = own.conversation(turns_of("What is there?", "A dog.", "两只?", "在雪"))
    counted = [one for one, told in zip(spans.ids, spans.is_counted, strict=True) if told]
    written = own.tokenizer.decode(counted, skip_special_tokens=False).replace(" ", "")
    assert written == f"Adog.{end}在雪{end}"
    assert own.tokenizer.token_to_id(end) in own.end_ids
    assert not own.conversation(turns_of("What is there?")).is_counted.count(True)


@pytest.mark.parametrize("name", ["chatml", "phi3"])
def test_no_piece_goes_across_the_start_of_an_answer(
    tokenizers: dict[tuple[str, str], ChatTokenizer], name: str
) -> None:
    """Guards against an answer that starts with a line break and is learned after a prompt that is never asked."""
    own = tokenizers["bytes", name]
    turns = turns_of("What?", "\n\n yes", "And?", "\n\n no")
    spans = own.conversation(turns)
    for turn in (1, 3):
        prompt = own.prompt(turns[:turn])
        assert spans.ids[: len(prompt)] == prompt
        assert spans.is_counted[len(prompt)] and not spans.is_counted[len(prompt) - 1]


TEXTS = st.text("ab\n 狗雪<|>[/]s_mi", min_size=0, max_size=8) | st.sampled_from(
    [*SPECIAL, "<image>", "<think>", "\ue000"]
)


@FEW
@given(st.sampled_from(sorted((kind, name) for kind in KINDS for name in TEMPLATES)), st.data())
def test_a_prompt_begins_its_conversation_and_nothing_is_smuggled_in(
    tokenizers: dict[tuple[str, str], ChatTokenizer], key: tuple[str, str], data: st.DataObject
) -> None:
    """Guards against a user who ends a turn by typing its token, and an answer learned after what is never asked."""
    own = tokenizers[key]
    texts = ["".join(data.draw(st.lists(TEXTS, max_size=3))) for _ in range(data.draw(st.sampled_from([2, 4])))]
    turns, plain = turns_of(*texts), turns_of(*["a"] * len(texts))
    spans = own.conversation(turns)
    special = set(own.special_ids)

    def specials(ids: list[int]) -> list[int]:
        return [one for one in ids if one in special and one != own.unknown_id]

    assert specials(spans.ids) == specials(own.conversation(plain).ids)
    assert spans.ids.count(IMAGE_ID) == sum(text.count("<image>") for text in texts)
    assert min(spans.ids) >= IMAGE_ID and max(spans.ids) < own.vocabulary
    assert not any(told for one, told in zip(spans.ids, spans.is_counted, strict=True) if one == IMAGE_ID)
    for turn in range(1, len(turns), 2):
        prompt = own.prompt(turns[:turn])
        assert spans.ids[: len(prompt)] == prompt
        assert spans.is_counted[len(prompt)] or spans.ids[len(prompt)] == IMAGE_ID
        assert not any(own.conversation(turns[:turn]).is_counted[-1:])


@FEW
@given(st.sampled_from(KINDS), st.text("abc 狗雪é🐕\n ", max_size=12), st.integers(0, 6))
def test_streamed_text_is_the_whole_text(
    tokenizers: dict[tuple[str, str], ChatTokenizer], kind: str, text: str, cut: int
) -> None:
    """Guards against broken characters on a reader's screen, and words that are lost in between."""
    own = tokenizers[kind, "chatml"]
    ids = own.pieces(text)
    whole = own.decode(ids)
    if "�" not in whole:
        assert whole == text.strip()
    for part in (ids, [*ids, own.end_ids[0], *ids], ids[: len(ids) - cut]):
        stream = own.stream()
        parts = [stream.add(one) for one in part]
        assert not any("�" in one for one in parts)
        last = stream.finish()
        sent = "".join(parts)
        if kind == "bytes" or "�" not in last:
            assert sent + last == own.decode(part)
        else:  # byte pieces are read in runs, and half a character at the end spoils its run
            assert text.strip().startswith(sent.strip())


def test_answers_are_read_without_special_tokens(tokenizers: dict[tuple[str, str], ChatTokenizer]) -> None:
    """Guards against tokens of the template in an answer, and text after its end."""
    own = tokenizers["bytes", "chatml"]
    start, end = (own.tokenizer.token_to_id(one) for one in ("<|im_start|>", "<|im_end|>"))
    assert own.decode([start, IMAGE_ID, *own.pieces(" 两只 dogs \n"), end, *own.pieces("more")]) == "两只 dogs"
    assert set(own.end_ids) == {end, own.tokenizer.token_to_id("</s>")}
    assert start in own.suppressed_ids
    assert not set(own.suppressed_ids) & set(own.end_ids)


@pytest.mark.parametrize("name", ["gemma", "mistral"])
def test_a_system_text_stands_before_the_first_question_where_the_template_takes_none(
    tokenizers: dict[tuple[str, str], ChatTokenizer], name: str
) -> None:
    """Guards against a system text that is refused, lost, or that moves from question to question."""
    own = tokenizers["bytes", name]
    told = own.conversation(turns_of("What?", "A dog.", "Where?", "snow", system="Short."))
    assert told == own.conversation(turns_of("Short.\n\nWhat?", "A dog.", "Where?", "snow"))


def test_base_models_get_lines(tmp_path: Path) -> None:
    """Guards against a base model that cannot be talked to, or never learns where an answer ends."""
    own = read_chat_tokenizer(save(tmp_path, "bytes", None), 64)
    spans = own.conversation(turns_of("What?", "A dog."))
    assert own.tokenizer.decode(spans.ids, skip_special_tokens=False) == "What?\nA dog.</s>\n"
    assert own.tokenizer.decode(own.prompt(turns_of("What?")), skip_special_tokens=False) == "What?\n"
    counted = [one for one, told in zip(spans.ids, spans.is_counted, strict=True) if told]
    assert own.tokenizer.decode(counted, skip_special_tokens=False) == "A dog.</s>"


def test_a_start_token_of_the_tokenizer_starts_a_base_models_lines(tmp_path: Path) -> None:
    """Guards against Gemma's base model without its <bos>, without which it goes astray."""
    folder = save(tmp_path, "bytes", None)
    stored = json.loads((folder / "tokenizer.json").read_text())
    found = Tokenizer.from_str(json.dumps(stored))
    found.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    found.save(str(folder / "tokenizer.json"))
    own = read_chat_tokenizer(folder, 64)
    assert own.before == ("<s>",)
    assert own.conversation(turns_of("What?", "A dog.")).ids[0] == 1
    assert own.ids("a")[0] == 1 and own.ids("a")[-1] == own.end_id == 2


def test_templates_that_rewrite_the_past_are_refused(tmp_path: Path) -> None:
    """Guards against answers learned after a history that no conversation has."""
    counts = "{% for m in messages %}{{ messages | length }}{{ m['content'] }}</s>{% endfor %}"
    with pytest.raises(InputError, match="chat template of counting"):
        read_chat_tokenizer(save(tmp_path / "counting", "bytes", counts), 64)
    own = read_chat_tokenizer(save(tmp_path / "gemma", "bytes", GEMMA), 64)
    with pytest.raises(InputError, match="must alternate, of turns by user, user"):
        own.conversation([Turn("user", "a"), Turn("user", "b")])
    drops = "{% for m in messages if m['role'] == 'assistant' %}{{ m['content'] }}</s>{% endfor %}"
    with pytest.raises(InputError, match="writes those at"):
        read_chat_tokenizer(save(tmp_path / "drops", "bytes", drops), 64)


def test_the_date_is_always_the_same(tmp_path: Path) -> None:
    """Guards against ids, and with them cached features, that change overnight."""
    dated = "{{ strftime_now('%d %B %Y') }}" + CHATML
    own = read_chat_tokenizer(save(tmp_path, "bytes", dated), 64)
    assert own.decode(own.conversation(turns_of("What?", "A dog.")).ids[:20]).startswith("26 Jul 2024")


def test_it_is_stored_and_read_again(tokenizers: dict[tuple[str, str], ChatTokenizer]) -> None:
    """Guards against a run that talks in another way after it was opened again."""
    for own in (tokenizers["bytes", "qwen3"], tokenizers["llama", "llama2"]):
        again = ChatTokenizer.from_json(own.to_json(), 64)
        turns = turns_of("<image> What </s>?", "A dog.", "两只?", "yes")
        assert again.conversation(turns) == own.conversation(turns)
        assert (again.end_ids, again.pad_id, again.to_json()) == (own.end_ids, own.pad_id, own.to_json())
    with pytest.raises(InputError, match="another kind"):
        ChatTokenizer.from_json("{}", 64)


def test_plain_texts_pad_with_a_real_token(tokenizers: dict[tuple[str, str], ChatTokenizer]) -> None:
    """Guards against a model without padding token, which most language models are."""
    own = tokenizers["bytes", "chatml"]
    batch = own.batch(["a dog", "a"])
    assert batch.ids.shape == batch.is_real.shape
    assert own.pad_id == own.end_id == batch.ids[1, -1] == own.tokenizer.token_to_id("</s>")
    assert batch.is_real.sum(1).tolist() == [len(own.ids("a dog")), len(own.ids("a"))]
    assert own.vocabulary == own.tokenizer.get_vocab_size()
    assert own.fits([0] * 64) and not own.fits([0] * 65)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_packaged_model_knows_the_capital_of_france() -> None:
    """Guards against weights, words and template that do not belong together."""
    pytest.importorskip("gguf", reason="needs the extra [llm]")
    try:
        packaged_parts("smollm2")
    except InputError as error:
        pytest.skip(error.given)
    folder = language_model_folder("smollm2")
    own = read_chat_tokenizer(folder, 64)
    turns = turns_of("What is the capital of France?")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    asked = own.prompt(turns)
    assert asked == theirs.apply_chat_template(messages(turns), add_generation_prompt=True)["input_ids"]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    import torch

    with torch.no_grad():
        written = model.generate(torch.tensor([asked]), max_new_tokens=12, do_sample=False, pad_token_id=own.pad_id)
    assert own.decode(written[0, len(asked) :].tolist()) == "The capital of France is Paris."
