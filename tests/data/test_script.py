"""Languages by script."""

import pytest

from chiasm.data.script import language_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("", "en"),
        ("Two dogs.", "en"),
        ("Zwei Hunde spielen für sich.", "en"),
        ("两只狗", "zh"),
        ("a 狗", "zh"),
        ("犬が走る", "ja"),
        ("개", "ko"),
    ],
)
def test_the_script_tells_chinese_japanese_and_korean(text: str, language: str) -> None:
    """Guards against Japanese, which has Chinese signs too, taken for Chinese."""
    assert language_of(text) == language
