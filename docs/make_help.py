"""Write docs/help.md from the command line itself: `python docs/make_help.py`, or `make docs`."""

from pathlib import Path
from typing import Any, get_args, get_type_hints

from chiasm.cli import verbs

PAGE = Path(__file__).resolve().parent / "help.md"


_KINDS = {Path: "PATH", int: "NUMBER"}


def _words(parameter: Any, hints: dict[str, Any]) -> str:
    """How a parameter is typed: `RUN`, `IMAGES...`, `--out PATH`."""
    hint = hints[parameter.name]
    plain = [part for part in (hint, *get_args(hint)) if part in _KINDS]
    kind = parameter.metavar or (_KINDS[plain[0]] if plain else "TEXT")
    if parameter.param_type_name == "argument":
        name = parameter.metavar or parameter.name.upper()
        return name if parameter.nargs == 1 else f"{name}..."
    options = ", ".join([*parameter.opts, *parameter.secondary_opts])
    return options if parameter.is_flag else f"{options} {kind}"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    shown = parameter.default
    return "" if shown in (None, "", False) or callable(shown) else str(shown)


def _verb(name: str, command: Any) -> list[str]:
    told, _, example = command.help.partition("Example:")
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    hints = get_type_hints(command.callback)
    usage = " ".join([f"chiasm {name}", "[OPTIONS]", *(_words(one, hints) for one in arguments)])
    lines = [f"## {name}", "", told.strip(), "", "```bash", example.strip(), "```", "", f"`{usage}`", ""]
    rows = [(_words(one, hints), one.help or "", _default(one)) for one in command.params if one.name != "help"]
    if rows:
        lines += ["| word | meaning | default |", "| --- | --- | --- |"]
        lines += [f"| `{word}` | {' '.join(meaning.split())} | {default} |" for word, meaning, default in rows]
        lines.append("")
    return lines


def text() -> str:
    """The page: every verb with its example, arguments and options."""
    lines = ["# chiasm: every verb", "", "Made by `make docs` from the command line itself; do not edit.", ""]
    lines += ["`chiasm --debug VERB ...` shows a traceback when something fails, `chiasm --version` the version.", ""]
    lines += ["Exit status: 0 done, 1 the job failed, 2 wrong input, 130 stopped by Ctrl-C.", ""]
    for name, command in verbs().items():
        lines += _verb(name, command)
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
