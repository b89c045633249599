"""A mistake on the command line, or in a settings file, in the words of the person who made it."""

from __future__ import annotations

import ast
import re
import types
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from actors.errors import nearest

MANY = 5
"""Options to name at most where a name fits several; as many networks have an optimizer."""


def type_of(kind: type, key: str) -> Any:
    """The type of a setting such as ``spatial.optimizer.lr``; None where there is none."""
    found: Any = kind
    for part in key.split("."):
        hints = get_type_hints(found) if isinstance(found, type) else {}
        if part not in hints:
            return None
        found = hints[part]
    return found


def type_in_words(kind: Any) -> str:
    """What a setting takes: ``a number``, ``tvl1, exact, fast or raft``, and so on."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        *first, last = map(str, inner)
        return f"{', '.join(first)} or {last}" if first else last
    if origin in (Union, types.UnionType):
        return ", or ".join(type_in_words(one) for one in inner)
    if origin in (tuple, list):
        return f"a list such as [{', '.join(['8' if inner[0] is int else '0.5'] * 2)}]"
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return "null" if kind is type(None) else plain.get(kind, "a YAML file with its settings")


def choices_of(kind: Any) -> list[str]:
    """The words among which a setting's value must be, if there are such."""
    if get_origin(kind) is Literal:
        return [str(one) for one in get_args(kind)]
    return [word for one in get_args(kind) for word in choices_of(one)]


def unknown(name: str, known: Iterable[str]) -> str:
    """``; did you mean ...?`` for a name that no setting has, or where to look."""
    known = list(known)
    group, last = _parts(name)
    # What differs in the last part alone is nearer than what is spelt alike all over.
    siblings = {_parts(other)[1]: other for other in known if _parts(other)[0] == group}
    near = [siblings[one] for one in get_close_matches(last, siblings, n=2, cutoff=0.65)]
    ends = [other for other in known if _parts(other)[1] == last]
    found = near or get_close_matches(name, known, n=1, cutoff=0.9) or ends[:MANY]
    if not found:
        return "; --help shows the main options, --help-all all of them"
    return f"; did you mean {' or '.join(map(repr, found))}?"


def _parts(name: str) -> tuple[str, str]:
    """The group of a setting, and its own name in it."""
    group, _, last = name.lstrip("-").rpartition(".")
    return group, last


def in_plain_words(
    message: str, kind: type, known: Sequence[str], arguments: Sequence[str], file: str | None
) -> str:
    """A parser's message without the parser.

    Args:
        message: in the parser's words; what it has no words for stays as it is.
        kind: dataclass of all settings.
        known: names of the settings, such as ``spatial.optimizer.lr``.
        arguments: the command line.
        file: a settings file on it, named where the mistake is not on the command line.
    """
    if found := re.match(r"unrecognized arguments: (\S+)", message):
        word = found[1].partition("=")[0]
        if not word.startswith("-"):
            return f"{word!r} is no option: options begin with --"
        return f"there is no option {word}{unknown(word, [f'--{name}' for name in known])}"
    if found := re.match(r"argument (--[\w.]+): expected one argument", message):
        wanted = type_of(kind, found[1].lstrip("-"))
        return f"{found[1]} needs a value" + (f": {type_in_words(wanted)}" if wanted else "")
    where = f"{file}: " if file else ""
    if found := re.match(r"(?:.*Group '([\w.]+)' does not accept|) ?[oO]ption '([\w.]+)'", message):
        name = ".".join(filter(None, found.groups()))
        return f"{where}there is no setting {name}{unknown(name, known)}"
    if found := re.match(r'(?:.*)Parser key "([\w.]+)": (.*)', message):
        return _wrong_value(found[1], found[2], kind, arguments, where)
    return message


def _wrong_value(key: str, message: str, kind: type, arguments: Sequence[str], where: str) -> str:
    told = any(a == f"--{key}" or a.startswith(f"--{key}=") for a in arguments)
    wanted = type_of(kind, key)
    found = re.search(r"(?:Got value|Given value): (.*)", message)
    value = found[1] if found else next(iter(re.findall(r"config ['\"](.*?)['\"]", message)), None)
    if wanted is None or value is None:
        return f"{key}: {message}"
    words = type_in_words(wanted)
    one_of = "one of " if choices_of(wanted) else ""
    near = nearest(value, choices_of(wanted))
    return f"{'--' if told else where}{key} takes {one_of}{words}, not {value!r}{near}"


def with_its_option(message: str, arguments: Sequence[str]) -> str:
    """A refusal that begins with a setting's own name, with where the refused value was given.

    Networks have settings of the same names: ``lr must be above 0, not -1.0`` does not tell whose.
    The value does: it is looked for on the command line and in the files that it names.
    """
    own = message.partition(" ")[0]
    refused = re.search(r", (?:not|got) ([^;]+)", message)
    if refused is None:
        return message
    value = _value(refused[1])
    places = [
        place
        for key, (given, place) in _given(arguments).items()
        if f".{key}".endswith(f".{own}") and _value(given) == value
    ]
    if len(places) == 1:
        return places[0] + message[len(own) :]
    return f"{' or '.join(places)}: {message}" if places else message


def _given(arguments: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Setting -> its value as text, and the option or the file and setting that gave it last."""
    given: dict[str, tuple[str, str]] = {}
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            continue
        value = value if equals else following
        if name == "--config":
            given |= {k: (v, f"{value}: {k}") for k, v in _in_file(Path(value)).items()}
        else:
            given[name[2:]] = value, name
    return given


def _in_file(path: Path) -> dict[str, str]:
    """Settings in a YAML file, by their whole names; of one that can't be read, none: the parser
    itself tells that."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}

    def flat(part: Any, name: str) -> Iterator[tuple[str, str]]:
        if not isinstance(part, dict):
            yield name, str(part)
            return
        for key, value in part.items():
            yield from flat(value, f"{name}.{key}" if name else str(key))

    return dict(flat(content, ""))


def _value(text: str) -> Any:
    """A value for comparison: -1 and -1.0 are the same, as are [0] and (0,)."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return list(value) if isinstance(value, tuple) else value
