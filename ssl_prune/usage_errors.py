"""What a parser says of wrong arguments, in one line: the key, what was got, what was expected, the nearest right name."""

import importlib
import inspect
import os
import re
import sys
from argparse import ArgumentError, _SubParsersAction
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NoReturn

from ssl_prune.utils.nearest import nearest

__all__ = ["in_one_line", "refuse", "say_in_one_line", "wants_traceback"]

_LISTED = 12  # names; of more, --help has the list
_KEY = re.compile(r"Parser key \"(.+)\":(.*)")
_CLASS = re.compile(r"Problem with given class_path '(.+)':")
_EXPECTED = re.compile(r"Expected an? (.+?)(?:\. Got value: (.*))?$")
# What stands around the one line that tells something.
_FRAME = re.compile(r"(Does not validate against|Subtypes: |Errors:|Expected a path but |$)")


def wants_traceback() -> bool:
    """Whether the place of an error was asked for, by SSL_PRUNE_TRACEBACK."""
    return bool(os.environ.get("SSL_PRUNE_TRACEBACK"))


def refuse(said: object) -> NoReturn:
    """End the program with one line and status 2."""
    print(f"ssl-prune: {' '.join(str(said).split())}", file=sys.stderr)
    raise SystemExit(2)


def say_in_one_line(parser: Any, commands: Sequence[str] = ()) -> Any:
    """Let a parser end with one line where it would print its usage around it.

    Args:
        parser: jsonargparse's; it is changed and returned.
        commands: what can be asked for beside the subcommands that it knows.
    """

    def error(message: str, ex: BaseException | None = None) -> NoReturn:
        if wants_traceback():
            raise ArgumentError(None, message) from ex
        of = getattr(ex, "subcommand_parser", None) or parser
        refuse(in_one_line(str(message), partial(_options, of), [*_commands(parser), *commands]))

    parser.error = error
    return parser


def in_one_line(message: str, options: Any = tuple, commands: Sequence[str] = ()) -> str:
    """A message of jsonargparse without what stands around it.

    Of a value that fits none of several types the first branch tells most: the list of callbacks before "or nothing".

    Args:
        message: as it came.
        options: returns the names of the options that there are.
        commands: that there are.

    Example:
        >>> in_one_line('''Parser key "tolerance":
        ...   Expected a <class 'float'>. Got value: small''')
        "tolerance: got 'small', expected float"
    """
    lines = message.splitlines()
    where: list[str] = []
    owner = ""
    for number, line in enumerate(lines):
        text = line.strip().removeprefix("- ")
        if key := _KEY.fullmatch(text):
            where.append(key[1])
            text = key[2].strip()
        elif found := _CLASS.fullmatch(text):
            owner = found[1]
            where.append(owner.rpartition(".")[2])
            continue
        # Of a list of branches one that got into a class knows more than one that names a type.
        if _FRAME.match(text) or (_EXPECTED.match(text) and any(_CLASS.match(each) for each in _level(lines[number:]))):
            continue
        return ": ".join([*where, _leaf(text, lines[number:], owner, options, commands)])
    return message


def _leaf(text: str, rest: list[str], owner: str, options: Any, commands: Sequence[str]) -> str:
    """The innermost message: of the parser in the house's words, of anyone else as it is."""
    if found := re.search(r"^(?:Option|(?:Subcommand|Group) '(.+)' does not accept option) '(.+?)'", text):
        names = _parameters(owner) or ["class_path", "init_args"] if owner else options()
        return f"got the key {found[2]!r}, expected {_among(found[2], names)}"
    if found := re.match(r"unrecognized arguments: (\S+)", text):
        return f"got {found[1]!r}, expected {_among(found[1].partition('=')[0], [f'--{n}' for n in options()], 'an option')}"
    if found := re.match(r"(?:argument )?subcommand: invalid choice: '(.*?)' |expected \"subcommand\"", text):
        got = found[1] or "no command"
        return f"got {got!r}, expected one of {', '.join(commands)}{nearest(got, commands)}"
    if found := re.search(r"Expected a dot import path string: (\S*)", text):
        return (
            f"got {found[1]!r}, expected the name of a class, such as my_package.MyClass{nearest(found[1], _classes())}"
        )
    if found := re.match(r"module '(.+)' has no attribute '(.+)'", text):
        return f"got {found[2]!r}, which {found[1]} does not have{nearest(found[2], dir(sys.modules.get(found[1])))}"
    if found := re.match(r"No module named '(.+)'", text):
        return f"got {owner or found[1]!r}, expected a module that can be imported from here, found no {found[1]}"
    if found := re.match(r"(?:the following arguments are required|Key \"\S+\" is required).*?: ?(.+)", text):
        return f"{found[1].partition('.')[2] or found[1]}: got none, expected one; --help says what it is"
    if text.startswith(("Not a valid subclass", "Import path does not correspond", "Does not implement protocol")):
        return f"{_given(rest)}expected a class or {{class_path: ..., init_args: ...}} ({text.partition('. Got')[0]})"
    if _EXPECTED.match(text):
        return _expected(rest)
    if text.startswith("Unexpected config"):
        return "config: got no mapping, expected YAML with the keys of this command, as --print_config shows them"
    return " ".join([text, *_continued(rest)])


def _expected(rest: list[str]) -> str:
    """All that would have been taken, from the lines on one level."""
    level = _level(rest)
    kinds = [_kind(found[1]) for line in level if (found := _EXPECTED.match(line))]
    kinds += [f"a {line.rpartition(' ')[2]}" for line in level if line.startswith("Not a valid subclass of")]
    return f"{_given(rest)}expected {' or '.join(dict.fromkeys(kinds))}"


def _level(rest: list[str]) -> list[str]:
    """The lines that stand as far in as the first."""
    indent = len(rest[0]) - len(rest[0].lstrip())
    return [line.strip().removeprefix("- ") for line in rest if len(line) - len(line.lstrip()) == indent]


def _given(rest: list[str]) -> str:
    inside = _EXPECTED.match(rest[0].strip().removeprefix("- "))
    if inside and inside[2] is not None:
        return f"got {inside[2]!r}, "
    for line in rest:
        if found := re.match(r"(?:.*Got value|Given value): (.+)", line.strip()):
            nested = re.match(r"NestedArg\(key='(.+)', val=(.+)\)", found[1])
            return f"got {nested[1]}={nested[2]}, " if nested else f"got {found[1]!r}, "
    return ""


def _kind(text: str) -> str:
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text).replace("NoneType", "null").replace("typing.Literal", "")
    text = text.replace("Sequence", "list").replace("Mapping", "mapping")
    return text.strip("[]") if text.startswith("[") else re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text)


def _continued(rest: list[str]) -> list[str]:
    """The further lines of a message, up to the next branch or the frame."""
    found: list[str] = []
    for line in rest[1:]:
        if line.strip().startswith(("- ", "Given value")):
            break
        found.append(line.strip())
    return found


def _among(got: str, names: Iterable[str], what: str = "a key") -> str:
    listed = list(dict.fromkeys(names))
    kind = f"one of {', '.join(listed)}" if len(listed) <= _LISTED else f"{what} that --help lists"
    return kind + (nearest(got, listed) or nearest(got.partition(".")[0], {name.partition(".")[0] for name in listed}))


def _options(parser: Any) -> list[str]:
    """Names of a parser's options, of nested ones as a whole."""
    return _commands(parser) + [
        option.removeprefix("--")
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and not option.endswith(("+", ".help"))
    ]


def _commands(parser: Any) -> list[str]:
    found = [action for action in parser._actions if isinstance(action, _SubParsersAction)]
    return [*(found[0].choices if found else ())]


def _parameters(path: str) -> list[str]:
    """What a class or function takes; with **kwargs also what its bases take."""
    module, _, name = path.rpartition(".")
    taker = getattr(importlib.import_module(module), name)
    names: list[str] = []
    for each in taker.__mro__[:-1] if inspect.isclass(taker) else [taker]:
        try:
            parameters = inspect.signature(each).parameters.values()
        except (TypeError, ValueError):  # written in C
            break
        names += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names


def _classes() -> list[str]:
    """Classes whose short names may stand in a file: this package's, the optimizers of torch, and Lightning's."""
    ours = ("ssl_prune.", "torch.optim", "pytorch_lightning.", "lightning.pytorch.")
    spaces = [vars(module) for name, module in sys.modules.items() if name.startswith(ours) and module is not None]
    return [
        name
        for space in spaces
        for name, value in space.items()
        if isinstance(value, type) and value.__module__.startswith(ours) and not name.startswith("_")
    ]
