"""Typed configuration: frozen dataclass trees to and from JSON, and `key=value` overrides.

Nothing here imports, evaluates or instantiates by name: a value can only become the annotated plain type.
"""

import dataclasses
import json
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import SequenceMatcher, get_close_matches
from typing import Any, TypeVar

from chiasm.core.errors import InputError, nearest

T = TypeVar("T")

SYNONYMS = {
    "accumulate": ("gradient_accumulation", "gradient_accumulation_steps", "grad_accum", "accum", "accumulation"),
    "batch_size": ("batch", "bs", "batchsize", "minibatch", "per_device_batch_size", "train_batch_size"),
    "beams": ("num_beams", "beam_size", "beam_width", "n_beams"),
    "clip_norm": ("grad_clip", "gradient_clip", "max_grad_norm", "clip_grad", "clip_grad_norm", "gradient_clipping"),
    "decoder_layers": ("num_decoder_layers", "decoder_depth"),
    "dim": ("hidden_size", "hidden_dim", "d_model", "width", "embed_dim"),
    "dropout": ("dropout_rate", "drop_rate", "dropout_prob"),
    "ema_decay": ("ema", "ema_rate", "ema_momentum"),
    "embedding_dim": ("projection_dim", "embed_size", "embedding_size"),
    "epochs": ("num_epochs", "n_epochs", "max_epochs", "num_train_epochs", "epoch"),
    "frozen": ("freeze", "is_frozen", "lock", "locked"),
    "heads": ("num_heads", "n_heads", "nhead", "attention_heads"),
    "images": ("image_dir", "image_folder", "image_root", "images_dir", "img_dir", "image_path"),
    "init_from": ("checkpoint", "pretrained", "from_pretrained", "weights", "resume_from", "load_from", "init"),
    "kind": ("type", "arch", "architecture", "backbone", "encoder"),
    "label_smoothing": ("smoothing",),
    "languages": ("language", "lang", "langs"),
    "layers": ("num_layers", "n_layers", "depth"),
    "limit_s": ("time_limit", "max_time", "timeout", "limit"),
    "lora_rank": ("lora_r", "rank"),
    "lr": ("learning_rate", "learningrate", "rate", "base_lr", "peak_lr", "max_lr", "eta"),
    "max_tokens": ("max_length", "max_len", "max_seq_length", "context_length", "seq_len"),
    "max_rejected": ("max_broken", "max_errors", "rejected", "tolerance"),
    "method": ("decoding", "strategy", "search"),
    "path": ("dir", "folder", "root", "data_dir", "dataset", "file", "data_path", "data"),
    "patience": ("early_stopping", "early_stop", "early_stopping_patience"),
    "precision": ("dtype", "amp", "fp16", "bf16", "mixed_precision"),
    "primary_metric": ("metric", "monitor", "best_metric"),
    "seed": ("random_seed", "random_state"),
    "size_px": ("image_size", "img_size", "resolution", "input_size", "size", "pixels"),
    "steps": ("max_steps", "num_steps", "iterations", "iters", "max_iter", "num_train_steps", "n_steps"),
    "test_split": ("eval_split", "split"),
    "validate_every": ("eval_every", "eval_steps", "val_every", "eval_interval", "val_check_interval"),
    "vocabulary": ("vocab", "vocab_size", "vocabulary_size"),
    "warmup_steps": ("warmup", "num_warmup_steps", "warm_up", "warmup_iters"),
    "weight_decay": ("wd", "decay", "l2"),
    "workers": ("num_workers", "n_workers", "threads", "dataloader_workers"),
}
"""Last word of a key -> what others call it."""

OPEN = {"is_open": True}
"""Metadata of a field that is a table: `override` may add an entry to it, made of its class's defaults."""
Classes = Callable[[], Mapping[str, type]]
"""Gives a visible table, word -> config class. Called when it is needed, so that entries may be added at run time."""


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """How the class of a field's value is found (`by_kind`), or of each entry of a table (`by_name`).

    Attributes:
        classes: word -> config class.
        key: the key of the value that holds the word; "" where the entry's own name is the word.
        is_table: the field is a table of such values.
    """

    classes: Classes
    key: str
    is_table: bool = False

    def find(self, word: Any, where: str) -> type:
        """The class of a word.

        Raises:
            InputError: there is none.
        """
        table = self.classes()
        if isinstance(word, str) and word in table:
            return table[word]
        place = f"{where}.{self.key}" if self.key else where
        given = f"{place} is {word!r}" if self.key else f"{place} is not known"
        raise InputError(given + nearest(str(word), table), "one of " + ", ".join(table), "choose one of them")

    def owners(self, name: str) -> list[str]:
        """The words whose classes have a key of this name."""
        return [word for word, cls in self.classes().items() if name in {one.name for one in dataclasses.fields(cls)}]


def by_kind(classes: Classes, key: str = "kind") -> dict[str, Any]:
    """Metadata of a field whose value is a dataclass chosen by a word among its own keys.

    The field is annotated with a base class; `classes()` maps each word to a subclass that has `key` with that word as
    its default, and the keys that mean something for it. `from_dict` picks the class by the word; `override` of the
    key itself changes the class and keeps the keys that both have; a key of another kind is refused.

    Example: `image: ImageTowerConfig = field(default_factory=ConvConfig, metadata=by_kind(lambda: IMAGE_CONFIGS))`
    """
    return {"choice": Choice(classes, key)}


def by_kind_each(classes: Classes, key: str = "kind") -> dict[str, Any]:
    """Metadata of an open table `dict[str, Base]` of sections, the class of each chosen as by `by_kind`.

    `override` of a key below a new name adds an entry of the first kind in `classes()`; its kind is set first:
    `--set model.inputs.depth.kind=conv --set model.inputs.depth.size_px=32`.
    """
    return {"choice": Choice(classes, key, is_table=True), **OPEN}


def by_name(classes: Classes) -> dict[str, Any]:
    """Metadata of a table `dict[str, Base]` in which the class of an entry is `classes()[name of the entry]`.

    The table is open: `override` of a key below a name that is in `classes()` adds the entry.
    """
    return {"choice": Choice(classes, "", is_table=True), **OPEN}


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config tree as plain JSON-able values (tuples become lists)."""
    return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))


def from_dict(cls: type[T], values: Mapping[str, Any], where: str = "config", is_stored: bool = False) -> T:
    """Rebuild a config tree; unknown or missing keys and values of the wrong type are errors that name the key.

    Args:
        cls: dataclass of the tree's root.
        values: as `to_dict` made them.
        where: names the source in errors.
        is_stored: the values were written by an earlier version, which kept the keys of all kinds in one section:
            keys of other kinds are left out where they would be refused.
    """
    _require_section(values, where)
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise InputError(
            f"unknown key {unknown[0]!r} in {where}{nearest(unknown[0], hints)}",
            "one of " + ", ".join(hints),
            "remove or correct it",
        )
    found = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        place = f"{where}.{field.name}"
        if field.name in values:
            choice = field.metadata.get("choice")
            found[field.name] = (
                _typed(hints[field.name], values[field.name], place, is_stored)
                if choice is None
                else _chosen(choice, field, values[field.name], place, is_stored)
            )
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise InputError(f"{field.name!r} is missing in {where}", "an object that has it", "restore the file")
    return cls(**found)


def _require_section(value: Any, where: str) -> None:
    """Raise `InputError` for a value that is not an object with keys."""
    if not isinstance(value, Mapping):
        raise InputError(f"{where} is {value!r}", "an object with keys", "restore the file")


def _chosen(choice: Choice, field: "dataclasses.Field[Any]", value: Any, where: str, is_stored: bool) -> Any:
    """A value whose class a word decides, or a table of such values."""
    if value is None and field.default is None:
        return None
    _require_section(value, where)
    if choice.is_table:
        return {str(name): _entry(choice, str(name), one, f"{where}.{name}", is_stored) for name, one in value.items()}
    default = field.default_factory() if callable(field.default_factory) else None
    word = value.get(choice.key, getattr(default, choice.key, ""))
    return _of_class(choice, choice.find(word, where), value, where, is_stored)


def _entry(choice: Choice, name: str, value: Any, where: str, is_stored: bool) -> Any:
    """An entry of a table: its class is that of its name, or of the word among its own keys."""
    word = value.get(choice.key) if choice.key and isinstance(value, Mapping) else name
    return _of_class(choice, choice.find(word, where), value, where, is_stored)


def _of_class(choice: Choice, cls: type, value: Any, where: str, is_stored: bool) -> Any:
    _require_section(value, where)
    own = {one.name for one in dataclasses.fields(cls)}
    foreign = [name for name in value if name not in own and choice.owners(name)]
    if foreign and not is_stored:
        raise _foreign(choice, cls, f"{where}.{foreign[0]}", where)
    return from_dict(cls, {name: one for name, one in value.items() if name not in foreign}, where, is_stored)


def _foreign(choice: Choice, cls: type, key: str, where: str, text: str = "...") -> InputError:
    """The refusal of a key that another kind, or an entry of another name, has."""
    name = key.rpartition(".")[2]
    names = [one.name for one in dataclasses.fields(cls)]
    own = [f"{where}.{one}" for one in names]
    # By the last word alone: all keys share the section's name. The key that decides the class is never meant.
    near = meant_key(name, [one for one in names if one != choice.key])
    owners, meant = choice.owners(name), f"{where}.{near}" if near else ""
    what = f"{where}.{choice.key}" if choice.key else where.rpartition(".")[0]
    return InputError(
        f"config key {key!r} means something for {what} {' or '.join(owners)} alone"
        + (f" (did you mean {meant!r}?)" if meant else ""),
        "one of " + ", ".join(own),
        (f"--set {meant}={text}, or " if meant else "")
        + (f"--set {what}={owners[0]} before it" if choice.key else "drop it"),
    )


def check_positive(values: Mapping[str, float]) -> None:
    """Require numbers above 0.

    Args:
        values: dotted key -> its value.

    Raises:
        InputError: a number that is not above 0, by its key.
    """
    for key, value in values.items():
        if value <= 0:
            raise InputError(f"{key} is {value}", "a number above 0", f"--set {key}=...")


def override(config: T, assignments: Iterable[str]) -> T:
    """Apply `a.b=value` texts, in order, and return a new tree; values are parsed by the field's type.

    A key below an entry that a table lacks adds the entry where the table is `OPEN`, and is unknown elsewhere.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(f"--set {assignment}", "key=value, such as train.steps=200", "add the = and a value")
        config = _set(config, key.strip(), key.strip().split("."), text.strip(), config)
    return config


def meant_key(key: str, known: Iterable[str]) -> str:
    """The key that an unknown one probably means: by its last word or a synonym of it, else by its spelling.

    Among keys that end in the same word, the one whose sections are most alike. "" where nothing is near.
    """
    names = list(known)
    word = key.rpartition(".")[2].strip().lower().replace("-", "_")
    for wanted in (word, next((one for one, others in SYNONYMS.items() if word in others), word)):
        found = [name for name in names if name.rpartition(".")[2] == wanted]
        if found:
            return max(found, key=lambda name: (SequenceMatcher(None, key, name).ratio(), -len(name)))
    return next(iter(get_close_matches(key, names, n=1, cutoff=0.5)), "")


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


def _set(node: Any, key: str, path: list[str], text: str, root: Any, choice: Choice | None = None) -> Any:
    """`node` with one key below it changed; `choice` says how the class of `node` was found, if by a word."""
    names = dict(_items(node))
    if path[0] not in names:
        if choice is not None and choice.owners(path[0]) and len(path) == 1:
            raise _foreign(choice, type(node), key, key.rpartition(".")[0], text)
        prefix = key[: len(key) - len(".".join(path))]
        known = [prefix + name for name, _ in keys(node)] or [prefix + name for name in names]
        meant = meant_key(key, [*known, *(name for name, _ in keys(root))])
        raise InputError(
            f"unknown config key {key!r}" + (f" (did you mean {meant!r}?)" if meant else ""),
            "one of " + ", ".join(known),
            (f"--set {meant}={text}, or " if meant else "") + "`chiasm show RECIPE`, which prints every key",
        )
    child = names[path[0]]
    if len(path) > 1:
        if not (dataclasses.is_dataclass(child) or isinstance(child, Mapping)):
            raise InputError(f"config key {key!r} goes below a plain value", "a key that exists", f"drop .{path[1]}")
        new = _set(_with_entry(node, path, child), key, path[1:], text, root, _choice_below(node, path[0], choice))
    elif dataclasses.is_dataclass(child) or isinstance(child, Mapping):
        raise InputError(
            f"{key!r} is a section", "a key inside it: " + ", ".join(k for k, _ in keys(child, key + ".")), "name one"
        )
    elif choice is not None and path[0] == choice.key and dataclasses.is_dataclass(node):
        return of_kind(node, choice.find(text, key.rpartition(".")[0]), choice.key)
    else:
        hint = typing.get_type_hints(type(node))[path[0]] if dataclasses.is_dataclass(node) else type(child)
        new = _typed(hint, _parse(hint, text), key)
    if isinstance(node, Mapping):
        return {**node, path[0]: new}
    return dataclasses.replace(node, **{path[0]: new})


def _choice_below(node: Any, name: str, above: Choice | None) -> Choice | None:
    """How the class of the value `name` in `node` is found: a table hands its rule on to its entries."""
    if isinstance(node, Mapping):
        return above
    (field,) = (one for one in dataclasses.fields(node) if one.name == name)
    found: Choice | None = field.metadata.get("choice")
    return found


def of_kind(section: Any, cls: type[T], key: str) -> T:
    """A section of the class `cls`, with the values of the keys that both classes have beside `key`."""
    own = {one.name for one in dataclasses.fields(cls)} - {key}  # type: ignore[arg-type]
    return cls(**{name: value for name, value in _items(section) if name in own})


def _with_entry(node: Any, path: list[str], child: Any) -> Any:
    """The table `child` with the entry that the path leads through, where the table is open and lacks it."""
    if len(path) < 3 or not path[1] or isinstance(node, Mapping) or not isinstance(child, Mapping) or path[1] in child:
        return child
    (field,) = (one for one in dataclasses.fields(node) if one.name == path[0])
    if not field.metadata.get("is_open"):
        return child
    choice: Choice | None = field.metadata.get("choice")
    entry = typing.get_args(typing.get_type_hints(type(node))[path[0]])[1]
    if choice is not None and choice.key:
        entry = next(iter(choice.classes().values()))
    elif choice is not None:
        entry = choice.find(path[1], f"{path[0]}.{path[1]}")
    return {**child, path[1]: entry()}


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


def _typed(hint: Any, value: Any, where: str, is_stored: bool = False) -> Any:
    """Check `value` against a type hint and convert lists to tuples, ints to floats, objects to dataclasses."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, where, is_stored)
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
        return _typed(next(a for a in arguments if a is not type(None)), value, where, is_stored)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_typed(arguments[0], item, where, is_stored) for item in value)
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        return {str(key): _typed(arguments[1], item, f"{where}.{key}", is_stored) for key, item in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if abs(value) <= sys.float_info.max:  # False for NaN too
            return float(value)
    elif isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    name = "finite float" if hint is float else hint.__name__ if isinstance(hint, type) else str(hint)
    raise InputError(f"{where} is {value!r}", f"a value of type {name}", "correct the value")
