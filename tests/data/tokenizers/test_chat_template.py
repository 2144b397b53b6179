"""Where a template puts each text, what it strips, and what the assistant has to write."""

import pytest

from chiasm.core.errors import InputError
from chiasm.data.tokenizers.chat_template import PLAIN_TEMPLATE, ChatFormat, ChatLayout, Reply, Shape, Words

pytest.importorskip("transformers", reason="needs the extra [llm]")

SPECIAL = ["<s>", "</s>", "<end>", "<user>", "<assistant>"]
ROLES = tuple(Shape(role) for role in ("user", "assistant", "user", "assistant"))
EACH = "{% for m in messages %}"


def layout(template: str) -> ChatLayout:
    return ChatLayout(ChatFormat(template, {"bos_token": "<s>", "eos_token": "</s>"}, ("</s>",), "small"), SPECIAL)


def test_static_text_and_answers_are_told_apart() -> None:
    """Guards against an end token outside the answer, and a header in it."""
    found = layout(
        "{{ bos_token }}" + EACH + "{{ '<' + m.role + '>' + m.content + '<end>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert found.parts(ROLES[:2]) == [
        "<s><user>",
        Words(0, "", ""),
        "<end>\n<assistant>",
        Reply("", Words(1, "", ""), "<end>"),
        "\n",
    ]
    assert found.ends == ("</s>", "<end>")
    assert found.takes_system


def test_the_role_is_no_word_of_an_answer_where_the_prompt_lacks_it() -> None:
    """Guards against a loss over headers for templates that know no generation prompt."""
    found = layout(EACH + "{{ '<' + m.role + '>' + m.content + '<end>' }}{% endfor %}")
    assert found.parts(ROLES[:2])[-2:] == ["<end><assistant>", Reply("", Words(1, "", ""), "<end>")]


def test_white_space_that_only_the_answer_has_is_written_by_the_model() -> None:
    """Guards against Llama-2's answers, which start with a space that its prompt lacks."""
    found = layout(EACH + "{{ (' ' if m.role == 'assistant' else '') + m.content + ' ' + eos_token }}{% endfor %}")
    replies = [part for part in found.parts(ROLES) if isinstance(part, Reply)]
    assert replies == [Reply(" ", Words(turn, "", ""), " </s>") for turn in (1, 3)]


@pytest.mark.parametrize(
    ("strips", "expected"),
    [
        ("", "\n  a \n"),
        (".lstrip('\n')", "  a \n"),
        (".rstrip('\n')", "\n  a "),
        (" | trim", "a"),
        (".lstrip()", "a \n"),
    ],
)
def test_texts_are_stripped_as_the_template_strips_them(strips: str, expected: str) -> None:
    """Guards against ids that differ from transformers' by a space."""
    found = layout(EACH + "{{ m.content" + strips + " }}{{ '<end>' }}{% endfor %}")
    words = found.parts(ROLES[:1])[0]
    assert isinstance(words, Words)
    assert words.of("\n  a \n") == expected


def test_an_answer_without_an_end_gets_the_models() -> None:
    """Guards against a model that never learns to stop."""
    found = layout(EACH + "{{ m.role + ': ' + m.content + '\n' }}{% endfor %}")
    assert [part.end for part in found.parts(ROLES) if isinstance(part, Reply)] == ["</s>", "</s>"]
    assert layout(PLAIN_TEMPLATE).ends == ("</s>",)


def test_the_next_role_ends_an_answer_where_the_template_has_it_so() -> None:
    """Guards against GLM-4, whose answers end where the next user's token stands."""
    found = layout(EACH + "{{ '<' + m.role + '>' + m.content }}{% endfor %}")
    assert [part.end for part in found.parts(ROLES) if isinstance(part, Reply)] == ["<user>", ""]
    assert found.ends == ("</s>", "<user>")


def test_what_the_template_cannot_write_is_refused_by_name() -> None:
    """Guards against answers that are learned after another history than they are asked after."""
    with pytest.raises(InputError, match="of small: the template writes 2 turns in another way"):
        layout("{{ messages | length }}" + EACH + "{{ m.content + '<end>' }}{% endfor %}")
    with pytest.raises(InputError, match="the template says"):
        layout("{{ raise_exception('never') }}")
    with pytest.raises(InputError, match="writes those at"):
        layout(EACH + "{{ m.content + m.content + '<end>' }}{% endfor %}")
