"""Typed configuration: frozen dataclass trees to and from JSON, and `key=value` overrides.

Nothing here imports, evaluates or instantiates by name: a value can only become the annotated plain type.
"""

import dataclasses
import json
import os
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from chiasm.core.errors import InputError, nearest

T = TypeVar("T")

OPEN = {"is_open": True}
"""Metadata of a field that is a table: `override` may add an entry to it, made of its class's defaults."""


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config tree as plain JSON-able values (tuples become lists)."""
    return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "config") -> T:
    """Rebuild a config tree; unknown or missing keys and values of the wrong type are errors that name the key."""
    if not isinstance(values, Mapping):
        raise InputError(f"{where} is {values!r}", "an object with keys", "restore the file")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise InputError(
            f"unknown key {unknown[0]!r} in {where}{nearest(unknown[0], hints)}",
            "one of " + ", ".join(hints),
            "remove or correct it",
        )
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise InputError(f"{field.name!r} is missing in {where}", "an object that has it", "restore the file")
    return cls(**{key: _typed(hints[key], value, f"{where}.{key}") for key, value in values.items()})


def override(config: T, assignments: Iterable[str]) -> T:
    """Apply `a.b=value` texts, in order, and return a new tree; values are parsed by the field's type.

    A key below an entry that a table lacks adds the entry where the table is `OPEN`, and is unknown elsewhere.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment}", "key=value, such as train.steps=200", "add the = and a value")
        config = _set(config, key.strip(), key.strip().split("."), text.strip())
    return config


def keys(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every settable dotted key with its current value."""
    for name, value in _items(config):
        if dataclasses.is_dataclass(value) or isinstance(value, Mapping):
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def as_typed(value: Any) -> str:
    """A value as `--set` reads it: lists with commas, booleans and none as in JSON."""
    if isinstance(value, tuple):
        return ",".join(as_typed(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)


def _items(config: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(config, Mapping):
        return config.items()
    return [(field.name, getattr(config, field.name)) for field in dataclasses.fields(config)]


def _set(node: Any, key: str, path: list[str], text: str) -> Any:
    names = dict(_items(node))
    if path[0] not in names:
        prefix = key[: len(key) - len(".".join(path))]
        known = [prefix + name for name, _ in keys(node)] or [prefix + name for name in names]
        raise InputError(
            f"unknown config key {key!r}{nearest(key, known)}",
            "one of " + ", ".join(known),
            "`chiasm show RECIPE` prints every key with its value",
        )
    child = names[path[0]]
    if len(path) > 1:
        if not (dataclasses.is_dataclass(child) or isinstance(child, Mapping)):
            raise InputError(f"config key {key!r} goes below a plain value", "a key that exists", f"drop .{path[1]}")
        new = _set(_with_entry(node, path, child), key, path[1:], text)
    elif dataclasses.is_dataclass(child) or isinstance(child, Mapping):
        raise InputError(
            f"{key!r} is a section", "a key inside it: " + ", ".join(k for k, _ in keys(child, key + ".")), "name one"
        )
    else:
        hint = typing.get_type_hints(type(node))[path[0]] if dataclasses.is_dataclass(node) else type(child)
        new = _typed(hint, _parse(hint, text), key)
    if isinstance(node, Mapping):
        return {**node, path[0]: new}
    return dataclasses.replace(node, **{path[0]: new})


def _with_entry(node: Any, path: list[str], child: Any) -> Any:
    """The table `child` with the entry that the path leads through, where the table is open and lacks it."""
    if len(path) < 3 or not path[1] or isinstance(node, Mapping) or not isinstance(child, Mapping) or path[1] in child:
        return child
    (field,) = (one for one in dataclasses.fields(node) if one.name == path[0])
    if not field.metadata.get("is_open"):
        return child
    return {**child, path[1]: typing.get_args(typing.get_type_hints(type(node))[path[0]])[1]()}


def _parse(hint: Any, text: str) -> Any:
    """Read a typed word from the command line: JSON where it is JSON, commas make lists, else the text itself."""
    if typing.get_origin(hint) is tuple and not text.startswith("["):
        item = typing.get_args(hint)[0]
        return [_parse(item, part.strip()) for part in text.split(",") if part.strip()]
    if hint is str:
        return os.path.expanduser(text)  # a shell leaves the ~ of --set data.path=~/photos as it is
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # no JSON, or more digits or brackets than Python reads
        return None if text.lower() == "none" else text


def _typed(hint: Any, value: Any, where: str) -> Any:
    """Check `value` against a type hint and convert lists to tuples, ints to floats, objects to dataclasses."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, where)
    if origin is typing.Literal:
        if value in arguments:
            return value
        hint_text = nearest(str(value), [str(a) for a in arguments])
        raise InputError(
            f"{where} is {value!r}{hint_text}", "one of " + ", ".join(map(str, arguments)), "choose one of them"
        )
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _typed(next(a for a in arguments if a is not type(None)), value, where)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_typed(arguments[0], item, where) for item in value)
    if origin is dict and isinstance(value, Mapping):
        return {str(key): _typed(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if abs(value) <= sys.float_info.max:  # False for NaN too
            return float(value)
    elif isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    name = "finite float" if hint is float else hint.__name__ if isinstance(hint, type) else str(hint)
    raise InputError(f"{where} is {value!r}", f"a value of type {name}", "correct the value")
