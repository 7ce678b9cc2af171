"""What the text of a plan and the header of a slim file may hold: nothing in a file is believed before it is looked at."""

import itertools
import json
import math
import reprlib
from collections.abc import Callable
from typing import Any, NoReturn

from ssl_prune.errors import SlimError

__all__ = ["MOST_STEPS", "check_header", "check_plan", "parsed"]

MOST_STEPS = 500  # of a plan: the parser's own bound lies a little higher
_LARGEST = 2**48
_CHECKSUM = 64
_MODES = ("constant", "reflect", "replicate", "circular")
_AXES = 3
_MOST_DIMS = 10

_Check = Callable[[Any, str], Any]


def parsed(text: str) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: no JSON, one of endless nesting, or one with NaN or an infinity.
    """
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def check_header(header: Any) -> None:
    """Refuse a header of a slim file with anything else in it than `save_slim` writes.

    Raises:
        SlimError: names the entry.
    """
    fields: dict[str, _Check] = {
        "format": _whole(1), "version": _text, "aliases": _names_of(_text), "plan_sha256": _checksum, "tensors_sha256": _checksum,
    }  # fmt: skip
    _record(header, "header", fields)


def check_plan(data: Any) -> None:
    """Refuse the data of a plan with anything else in it than `SlimPlan.to_json` writes.

    Types, key by key, positions that ascend, and numbers that are finite; whether they fit a network, that network says.

    Raises:
        SlimError: names the entry.
    """
    where, steps = "plan", 0
    while data is not None:
        steps += 1
        if steps > MOST_STEPS:
            _refuse("plan", f"more than {MOST_STEPS} steps", "fewer")
        fields: dict[str, _Check] = {"modules": _names_of(_module), "shapes": _names_of(_numbers)}
        data = _record(data, where, fields, {"format": _whole(1), "then": _anything}).get("then")
        where += ".then"


def _module(entry: Any, where: str) -> None:
    fields: dict[str, _Check] = {
        "keep": _names_of(_axes), "attributes": _names_of(_attribute), "fold": _optional(_fold), "becomes": _optional(_becomes),
    }  # fmt: skip
    _record(entry, where, fields, {"grouped": _optional(_grouped), "ordered": _optional(_names_of(_order))})


def _axes(axes: Any, where: str) -> None:
    for axis, kept in _mapping(axes, where).items():
        if not (isinstance(axis, str) and axis.isdecimal() and len(axis) == 1):
            _refuse(where, axis, "the number of an axis")
        _positions(kept, f"{where}[{axis}]", empty=False)


def _attribute(value: Any, where: str) -> None:
    for number in value if isinstance(value, list) else [value]:
        for inner in number if isinstance(number, list) else [number]:
            _whole(-_LARGEST)(inner, where)


def _fold(fold: Any, where: str) -> None:
    _record(fold, where, {"channels": _positions, "values": _finite}, {"into": _optional(_whole())})
    if len(fold["channels"]) != len(fold["values"]):
        _refuse(f"{where}.values", f"{len(fold['values'])} values", f"one for each of {len(fold['channels'])} channels")


def _grouped(grouped: Any, where: str) -> None:
    _record(grouped, where, {"groups": _whole(1), "columns": _rows(_positions)})
    columns = grouped["columns"]
    if len(columns) != grouped["groups"] or len({len(own) for own in columns if own}) != 1:
        _refuse(f"{where}.columns", columns, f"as many positions in each of {grouped['groups']} groups, or none")


def _order(order: Any, where: str) -> None:
    _record(order, where, {"axis": _whole(1, _MOST_DIMS), "rows": _rows(_numbers)})


def _becomes(becomes: Any, where: str) -> None:
    kind = _mapping(becomes, where).get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise SlimError(f"{where}.kind: the plan asks for {reprlib.repr(kind)}; this version knows {sorted(_KINDS)}")
    fields, more = _KINDS[kind]
    _record(becomes, where, {"kind": _text, **fields}, more)


def _columns(columns: Any, where: str) -> None:
    """Positions of a matrix, or of a kernel's columns with a place for each axis."""
    _sequence(columns, where)
    if columns and isinstance(columns[0], list):
        for column in columns:
            _numbers(column, where)
        if len({len(column) for column in columns}) != 1 or any(a >= b for a, b in itertools.pairwise(columns)):
            _refuse(where, columns, "ascending columns of one length")
    else:
        _positions(columns, where, empty=False)


def _frame(frame: Any, where: str) -> None:
    for pair in _sequence(frame, where):
        if len(_sequence(pair, where)) != 2:
            _refuse(where, pair, "two numbers for each axis")
        for number in pair:
            _whole(-_LARGEST)(number, where)


def _mode(mode: Any, where: str) -> None:
    if mode not in _MODES:
        _refuse(where, mode, f"one of {', '.join(_MODES)}")


def _steps(steps: Any, where: str) -> None:
    for step in _sequence(steps, where):
        if not 1 <= len(_sequence(step, where)) <= _AXES:
            _refuse(where, step, f"one to {_AXES} axes")
        for axis in step:
            if len(_sequence(axis, where)) != 5:
                _refuse(where, axis, "kernel, stride, before, after, dilation")
            for number, low in zip(axis, (1, 1, -_LARGEST, -_LARGEST, 1), strict=True):
                _whole(low)(number, where)


def _finite(values: Any, where: str) -> None:
    for value in _sequence(values, where):
        if type(value) not in (int, float) or not math.isfinite(value):
            _refuse(where, value, "a finite number")


def _positions(kept: Any, where: str, empty: bool = True) -> None:
    _numbers(kept, where)
    if any(a >= b for a, b in itertools.pairwise(kept)) or not (kept or empty):
        _refuse(where, kept, "ascending positions")


def _numbers(values: Any, where: str) -> None:
    for value in _sequence(values, where):
        if type(value) is not int or not 0 <= value <= _LARGEST:
            _refuse(where, value, f"a whole number from 0 to {_LARGEST}")


def _whole(low: int = 0, high: int = _LARGEST) -> _Check:
    def check(value: Any, where: str) -> None:
        if type(value) is not int or not low <= value <= high:
            _refuse(where, value, f"a whole number from {low} to {high}")

    return check


def _text(value: Any, where: str) -> None:
    if not isinstance(value, str):
        _refuse(where, value, "a text")


def _flag(value: Any, where: str) -> None:
    if type(value) is not bool:
        _refuse(where, value, "true or false")


def _checksum(value: Any, where: str) -> None:
    if not isinstance(value, str) or len(value) != _CHECKSUM or set(value) - set("0123456789abcdef"):
        _refuse(where, value, f"{_CHECKSUM} hexadecimal digits")


def _anything(value: Any, where: str) -> None:
    pass


def _optional(check: _Check) -> _Check:
    return lambda value, where: None if value is None else check(value, where)


def _rows(check: _Check) -> _Check:
    return lambda rows, where: [check(row, f"{where}[{i}]") for i, row in enumerate(_sequence(rows, where))]


def _names_of(check: _Check) -> _Check:
    return lambda entries, where: [
        check(entry, f"{where}[{name!r}]") for name, entry in _mapping(entries, where).items()
    ]


def _record(value: Any, where: str, needed: dict[str, _Check], more: dict[str, _Check] | None = None) -> dict[str, Any]:
    """An object with all keys of `needed` and perhaps those of `more`, each as its check wants it."""
    fields = needed | (more or {})
    entries = _mapping(value, where)
    for key in needed.keys() - entries.keys():
        _refuse(f"{where}.{key}", "nothing", "an entry")
    for key, entry in entries.items():
        if key not in fields:
            _refuse(f"{where}.{key}", entry, f"only {', '.join(fields)}")
        fields[key](entry, f"{where}.{key}")
    return entries


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(where, value, "an object")
    return value


def _sequence(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        _refuse(where, value, "a list")
    return value


def _refuse(where: str, got: Any, expected: str) -> NoReturn:
    shown = got if isinstance(got, str) and " " in got else reprlib.repr(got)
    raise SlimError(f"{where}: got {shown}, expected {expected}; the file is damaged, write or copy it again")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


_KINDS: dict[str, tuple[dict[str, _Check], dict[str, _Check]]] = {
    "Identity": ({}, {}),
    "Blank": ({"steps": _steps}, {}),
    "Constant": ({"values": _finite, "dims": _whole(2, _MOST_DIMS)}, {"whole": _flag, "last": _flag}),
    "Columns": ({"columns": _columns}, {}),
    "Cropped": ({"frame": _frame, "mode": _mode, "channels": _optional(_positions)}, {}),
    "Uneven": ({}, {}),
    "Attention": ({"sizes": _numbers, "heads": _positions}, {}),
    "ResponseNorm": (
        {
            "axes": _positions,
            "channel": _whole(1, _MOST_DIMS),
            "width": _whole(1),
            "eps": _finite,
            "scale": _text,
            "shift": _text,
        },
        {},
    ),
    "Plain": ({}, {}),
}
