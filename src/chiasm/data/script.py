"""The language of a text by its script."""

import re


def language_of(text: str) -> str:
    """Return "zh", "ja" or "ko" where the script shows it, else "en"."""
    if text.isascii():
        return "en"
    if re.search("[\u3040-\u30ff]", text):
        return "ja"
    if re.search("[\uac00-\ud7af]", text):
        return "ko"
    return "zh" if re.search("[\u3400-\u4dbf\u4e00-\u9fff]", text) else "en"
