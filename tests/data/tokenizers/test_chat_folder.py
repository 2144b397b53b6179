"""Chat templates that take images: parts of a turn in their order, the image token where the template writes it."""

from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs the extra [llm]")
from vlm_folders import IDEFICS_TEMPLATE, save_chat_words

from chiasm.core.errors import InputError
from chiasm.core.types import IMAGE_ID, Turn
from chiasm.data.tokenizers.chat import ChatTokenizer
from chiasm.data.tokenizers.chat_folder import read_chat_tokenizer
from chiasm.data.tokenizers.chat_template import ChatFormat, ChatLayout, Shape


def tokenizer_of(folder: Path, template: str) -> ChatTokenizer:
    save_chat_words(folder, ("<image>", "<end_of_utterance>"), template)
    (folder / "config.json").write_text('{"image_token_id": 4, "vision_config": {}}')
    return read_chat_tokenizer(folder, 64, takes_images=True)


def test_images_stand_where_the_template_writes_them(tmp_path: Path) -> None:
    """Guards the order of images and texts in a turn, the start token, and what the template writes around them."""
    own = tokenizer_of(tmp_path, IDEFICS_TEMPLATE)
    turns = [Turn("user", "<image>\na <image> dog"), Turn("assistant", "snow"), Turn("user", "red <image>")]
    ids = own.prompt(turns)
    written = "".join("[image]" if one == IMAGE_ID else own.tokenizer.decode([one], False) for one in ids)
    assert written == (
        "<s>User:[image]a [image]dog<end_of_utterance>\nAssistant: snow<end_of_utterance>\n"
        "User: red [image]<end_of_utterance>\nAssistant:"
    )
    again = ChatTokenizer.from_json(own.to_json(), 64)
    assert again.prompt(turns) == ids


def test_what_a_user_types_is_no_image(tmp_path: Path) -> None:
    """Guards against a typed image token that stands for an image that nobody gave."""
    own = tokenizer_of(tmp_path, IDEFICS_TEMPLATE.replace("<image>", "<end_of_utterance>"))
    assert own.form.image == "<image>"
    with pytest.raises(InputError, match="0 of 1 images"):
        own.prompt([Turn("user", "<image>a")])


def test_a_template_of_texts_takes_no_parts() -> None:
    """Guards templates of language models, whose images stand within the text."""
    template = "{% for message in messages %}{{ message['content'] }}</s>{% endfor %}"
    layout = ChatLayout(ChatFormat(template, {"eos_token": "</s>"}, ("</s>",), "plain"), ["</s>"])
    assert [type(one).__name__ for one in layout.parts((Shape("user"), Shape("assistant")))] == [
        "Words",
        "str",
        "Reply",
    ]
