"""The plain texts and questions are about no image, and each question has an answer that can be found."""

from chiasm.data.plain_texts import QUESTIONS, TEXTS


def test_texts_are_distinct_sentences_and_answers_lower_case_words() -> None:
    assert len(set(TEXTS)) == len(TEXTS) >= 32
    assert len({text for text, _ in QUESTIONS}) == len(QUESTIONS) >= 20
    for text, words in QUESTIONS:
        assert text.endswith("?") and words
        assert all(word == word.casefold() and word.isalnum() for word in words)
