"""Conversations by templates, and checks of the conversations that files hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chiasm.core.types import IMAGE_PLACEHOLDER, Caption, Example, ImageRef, Question, Role, Source, Turn
from chiasm.data.conversations import (
    TEMPLATES,
    Kind,
    TurnsError,
    caption_turns,
    check_turns,
    label_turns,
    prompt_turns,
    question_turns,
    turns_of,
)
from chiasm.data.image_refs import image_ref_from_array
from chiasm.data.script import language_of

HERE = Source("talk.json", 7)
WORDS = st.text(min_size=1, max_size=30) | st.sampled_from(["<image>", "<<image>>", "{question}{shown}", "两只狗"])


def spoken(turns: tuple[Turn, ...]) -> str:
    """All words of a conversation without its placeholders."""
    return " ".join(turn.text.replace(IMAGE_PLACEHOLDER, "") for turn in turns)


def image() -> ImageRef:
    return image_ref_from_array(np.zeros((4, 4, 3), dtype=np.uint8))


def test_the_table_has_different_wordings_in_each_language() -> None:
    """Guards against a wording that stands twice, that lacks its place, or that is in another language."""
    assert set(TEMPLATES) == {"en", "zh"}
    for language, templates in TEMPLATES.items():
        assert len(set(templates.captions)) == len(templates.captions) >= 6
        assert len(set(templates.short_answers)) == len(templates.short_answers) == 3
        assert all(wording.count("{shown}") == 1 for wording in templates.captions)
        assert all(wording.count("{question}") == 1 for wording in templates.short_answers)
        for wording in (*templates.captions, *templates.short_answers, *templates.labels):
            assert language_of(wording) == language
            assert IMAGE_PLACEHOLDER not in wording


@given(
    words=WORDS, images=st.integers(1, 4), language=st.sampled_from(["", "en", "zh", "de", "xx"]), draw=st.integers()
)
def test_a_conversation_has_a_placeholder_for_each_image_and_passes_the_check(
    words: str, images: int, language: str, draw: int
) -> None:
    """Guards against words that are taken for an image, and against a template that a check refuses."""
    question = Question(f"{words}?", (f"a{words}",), language=language)
    for turns in (
        caption_turns(Caption(f"a{words}", language), images, (draw,)),
        question_turns(question, question.answers[0], images, (draw,)),
        label_turns(f"a{words}", images, language, (draw,)),
    ):
        assert [turn.role for turn in turns] == ["user", "assistant"]
        assert turns[0].text.startswith("<image>\n" * images)
        assert sum(turn.text.count(IMAGE_PLACEHOLDER) for turn in turns) == images
        assert check_turns(turns, images, HERE) == turns


@given(st.integers(), st.integers(0, 3))
def test_chinese_stays_chinese_and_english_english(draw: int, images: int) -> None:
    """Guards against an instruction in another language than the words it asks for."""
    chinese = question_turns(Question("图里有什么？", ("狗",), language="zh"), "狗", images, (draw,))
    assert not any(letter.isascii() and letter.isalpha() for letter in spoken(chinese))
    described = caption_turns(Caption("两只狗在雪地里", "zh"), max(images, 1), (draw,))
    assert not any(letter.isascii() and letter.isalpha() for letter in spoken(described))
    assert spoken(caption_turns(Caption("Two dogs.", "en"), 1, (draw,))).isascii()


def test_other_languages_are_asked_for_by_name() -> None:
    """Guards against a German caption taught as the answer to an instruction that asks for English."""
    (asked,) = prompt_turns("caption", 1, "de")
    assert asked.text.endswith("Describe this image in one sentence. Answer in German.")
    assert "Answer in" not in prompt_turns("caption", 1, "")[0].text


@pytest.mark.parametrize("kind", ["caption", "question", "label"])
def test_evaluation_uses_the_first_wording_and_training_all(kind: Kind) -> None:
    """Guards against scores that depend on a draw, and a draw that never takes some wordings."""
    text = "How many?" if kind == "question" else ""
    templates = TEMPLATES["en"]
    wordings = {"caption": templates.captions, "question": templates.short_answers, "label": templates.labels}[kind]
    first = wordings[0].replace("{shown}", "this image").replace("{question}", text)
    assert prompt_turns(kind, 1, "en", text)[0].text == f"<image>\n{first}"
    drawn = {prompt_turns(kind, 1, "en", text, (0, epoch))[0].text for epoch in range(200)}
    assert len(drawn) == len(wordings)


def test_several_images_are_spoken_of_as_several_and_none_as_none() -> None:
    """Guards against "this image" beside two images, and a placeholder without an image."""
    assert prompt_turns("caption", 2, "en")[0].text == "<image>\n<image>\nDescribe these images in one sentence."
    assert prompt_turns("question", 0, "en", "Why?")[0].text.endswith("\nWhy?")


def test_short_answers_alone_are_asked_for_as_short() -> None:
    """Guards against a sentence as the answer to "a single word or phrase"."""
    asked = Question("What is he doing?", ("running",), language="en")
    assert "single word" in question_turns(asked, "running", 1)[0].text
    long = question_turns(asked, "He is running along the beach with a dog.", 1)
    assert long[0].text == "<image>\nWhat is he doing?"
    chinese = Question("他在做什么？", ("跑步",), language="zh")
    assert "短语" in question_turns(chinese, "跑步", 1)[0].text
    assert question_turns(chinese, "他和一只黑色的狗一起沿着海滩跑步", 1)[0].text == "<image>\n他在做什么？"


def test_an_example_gives_its_own_conversation_first_then_drawn_captions_and_questions() -> None:
    """Guards against draws that stay the same in all epochs, or that depend on anything but seed, epoch and id."""
    own = (Turn("user", "<image>\nHi"), Turn("assistant", "Hello."))
    captions = tuple(Caption(f"caption {number}", "en") for number in range(5))
    questions = tuple(Question(f"question {number}?", ("yes",)) for number in range(5))
    example = Example("e", {"image": image()}, captions, questions, own)
    found = turns_of(example, 0, 0, 2, 3)
    assert found[0] == own
    assert [turns[1].text.startswith("caption") for turns in found[1:]] == [True] * 2 + [False] * 3
    assert found == turns_of(example, 0, 0, 2, 3)
    assert len({tuple(turns_of(example, 0, epoch, 2, 3)) for epoch in range(20)}) > 10
    assert turns_of(example, 0, 0, 0, 0) == [own]
    assert len(turns_of(example, 0, 0, 9, 9)) == 11


def test_a_label_is_asked_for_where_there_are_no_other_words() -> None:
    """Guards against an example of a class folder that nothing is learned from."""
    (turns,) = turns_of(Example("e", {"image": image()}, label="fire_engine"), 0, 0, 1, 1)
    assert turns[1] == Turn("assistant", "fire engine")
    (chinese,) = turns_of(Example("e", {"image": image()}, label="消防车"), 0, 0, 1, 1)
    assert language_of(chinese[0].text) == "zh"
    captioned = Example("e", {"image": (image(), image())}, (Caption("A dog."),), label="dog")
    assert [turns[1].text for turns in turns_of(captioned, 0, 0, 1, 1)] == ["A dog."]
    assert turns_of(Example("e", {}, (Caption("A dog."),), label="dog"), 0, 0, 1, 1) == []


def talk(*said: tuple[Role, str]) -> tuple[Turn, ...]:
    return tuple(Turn(role, text) for role, text in said)


def test_images_without_a_placeholder_stand_before_the_first_turn_of_the_user() -> None:
    """Guards against a conversation trained without its image, and against an image before the system's words."""
    turns = check_turns(talk(("system", "Be brief."), ("user", "What?"), ("assistant", "A dog.")), 2, HERE)
    assert [turn.text for turn in turns] == ["Be brief.", "<image>\n<image>\nWhat?", "A dog."]


@pytest.mark.parametrize(
    ("turns", "images", "code", "said"),
    [
        (talk(), 0, "no_turns", "no turn of a user"),
        (talk(("system", "Be brief.")), 0, "no_turns", "no turn of a user"),
        (talk(("user", "<image> What?"), ("assistant", "A dog.")), 0, "placeholders", "1 <image> and 0 images"),
        (talk(("user", "<image><image> What?"), ("assistant", "A dog.")), 1, "placeholders", "2 <image> and 1 images"),
        (talk(("user", "<image> What?"), ("assistant", "A dog.")), 2, "placeholders", "1 <image> and 2 images"),
        (talk(("user", "What?"), ("assistant", "<image>")), 1, "placeholders", "the assistant's words in turn 2"),
        (talk(("user", "What?"), ("assistant", " \n")), 1, "empty_answer", "turn 2 are empty"),
        (talk(("user", ""), ("assistant", "A dog.")), 1, "empty_turn", "turn 1 are empty"),
        (talk(("assistant", "Hi."), ("user", "What?")), 0, "roles", "turn 1 is the assistant's"),
        (talk(("system", "."), ("user", "a"), ("user", "b")), 0, "roles", "turn 3 is the user's"),
        (talk(("user", "a"), ("system", "b"), ("assistant", "c")), 0, "roles", "turn 2 is the system's"),
        (talk(("user", "a"), ("assistant", "b"), ("user", "c")), 0, "roles", "the last turn is the user's"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_by_file_and_row(
    turns: tuple[Turn, ...], images: int, code: str, said: str
) -> None:
    """Guards against a lost or doubled image, roles out of order, and a turn that has nothing to learn."""
    with pytest.raises(TurnsError, match=r"talk\.json:7") as caught:
        check_turns(turns, images, HERE)
    assert (caught.value.code, said in caught.value.reason) == (code, True)


def test_a_conversation_that_is_answered_ends_with_the_user() -> None:
    """Guards against a model that is asked to answer its own answer."""
    turns = talk(("user", "What?"))
    assert check_turns(turns, 0, HERE, for_training=False) == turns
    with pytest.raises(TurnsError, match="not the user's"):
        check_turns((*turns, Turn("assistant", "A dog.")), 0, HERE, for_training=False)


def test_a_networks_own_wordings_replace_every_other() -> None:
    """Guards against a drawn wording, an instruction for short answers, and braces of the question that are filled."""
    own = {"question": "answer {language} {question}", "caption": ""}
    question = Question("what {language} is it?", ("yes",), language="zh")
    for key in ((), (1, 2, "x")):
        asked, answer = question_turns(question, "yes", 1, key, own)
        assert (asked.text, answer.text) == ("<image>\nanswer zh what {language} is it?", "yes")
        asked, _ = caption_turns(Caption("a dog", ""), 2, key, own)
        assert asked.text == "<image>\n<image>\n"
    assert prompt_turns("question", 0, question="why?", own=own)[0].text == "answer en why?"
    assert prompt_turns("label", 1, own=own) == prompt_turns("label", 1)
