"""Config overrides, as Python and the command line write them."""

import json
from collections.abc import Iterable, Mapping
from os import PathLike, fspath

from chiasm.core.errors import InputError

Place = str | PathLike[str]
Overrides = Mapping[str, object]


def assignments(overrides: Overrides | None, keys: Overrides) -> list[str]:
    """Overrides as `core.config.override` reads them.

    Args:
        overrides: config keys with dots -> values.
        keys: the same as keywords, with two underscores for each dot; they come last.

    Returns:
        `key=value` texts, such as "train.steps=50".

    Raises:
        InputError: a value that no config key can have.
    """
    named = {**(overrides or {}), **{name.replace("__", "."): value for name, value in keys.items()}}
    return [f"{key}={_as_text(key, value)}" for key, value in named.items()]


def as_overrides(typed: Iterable[str]) -> dict[str, str]:
    """The texts of `--set` as overrides, in order; a repeated key takes the last value.

    Raises:
        InputError: a text without "=".
    """
    found: dict[str, str] = {}
    for one in typed:
        key, equals, value = one.partition("=")
        if not equals:
            raise InputError(f"--set {one}", "key=value, such as train.steps=200", "add the = and a value")
        found.pop(key.strip(), None)
        found[key.strip()] = value.strip()
    return found


def check_settable(typed: Iterable[str], allowed: tuple[str, ...]) -> None:
    """Check that overrides of a trained run only have the allowed key prefixes.

    Raises:
        InputError: a key that training has fixed.
    """
    words = ", ".join(f"{one}KEY=VALUE" if one.endswith(".") else f"{one}VALUE" for one in allowed) or "no such key"
    for assignment in typed:
        if not assignment.startswith(allowed):
            raise InputError(f"--set {assignment}", f"{words}; the model is what it is", "drop it")


def _as_text(key: str, value: object) -> str:
    if isinstance(value, str | PathLike):
        return fspath(value)
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise InputError(
            f"{key} is {value!r}, of type {type(value).__name__}",
            "a number, text, True, False, None, or a list of these",
            "give a plain value",
        ) from None
