"""A config as TOML in which every key is explained: what it is, its unit, its range.

The words are the docstrings under the fields, the ranges are the bounds in their types; neither stands anywhere else.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import textwrap
import types
import typing
from typing import Any, Literal, Union

import tomlkit

from thalweg.bounds import Bound, bound_in, bounds_of
from thalweg.serialization import to_dict
from thalweg.train.config import RunConfig

_WIDTH = 110
"""Letters of a comment's line."""


def explained_text(config: RunConfig) -> str:
    """The config as TOML, a comment above every key; read back it is the same config."""
    heading = "A run of thalweg: give this file to `thalweg train`; keys that are left out have their defaults."
    return "\n".join([*_comment(heading), *section(config, ())]) + "\n"


def section(values: Any, path: tuple[str, ...]) -> list[str]:
    """Lines of one dataclass: its own keys first, then the sections in it."""
    docs, hints = docs_of(type(values)), bounds_of(type(values))
    lines, inner = [], []
    if path and hasattr(values, "kind"):
        lines += ["", *_comment(inspect.getdoc(type(values)) or ""), f"kind = {toml(values.kind)}"]
    for field in dataclasses.fields(values):
        value, told = getattr(values, field.name), docs.get(field.name, "")
        if dataclasses.is_dataclass(value):
            name = ".".join((*path, field.name))
            inner += ["", "", *_comment(f"{told} {_kinds(hints[field.name])}"), f"[{name}]", *section(value, (*path, field.name))]
        else:
            lines += ["", *_comment(f"{told} {_allowed(hints[field.name])}"), f"{field.name} = {toml(to_dict(value))}"]
    return [*lines, *inner]


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    return tomlkit.item(value).as_string()


def _comment(words: str) -> list[str]:
    """Lines of a comment from the first paragraph of some words."""
    return textwrap.wrap(" ".join(words.split("\n\n")[0].split()), _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _allowed(hint: Any) -> str:
    """What a key may hold, in words; nothing for text and for yes and no."""
    bound = bound_in(hint)
    if isinstance(bound, Bound):
        return f"Each {bound.range}." if typing.get_origin(hint) is tuple else f"{bound.range.capitalize()}."
    if typing.get_origin(hint) is Literal:
        return f"One of {', '.join(map(str, typing.get_args(hint)))}."
    return ""


def _kinds(hint: Any) -> str:
    """The kinds of section that a key may hold, where there are several."""
    options = [option for option in typing.get_args(hint) if hasattr(option, "kind")]
    several = typing.get_origin(hint) in (Union, types.UnionType) and len(options) > 1
    return f"kind is one of {', '.join(option.kind for option in options)}." if several else ""


@functools.cache
def docs_of(cls: type) -> dict[str, str]:
    """Field -> the docstring under it, from the source of the class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for one, after in zip(body.body, body.body[1:], strict=False):
        told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and told:
            found[one.target.id] = inspect.cleandoc(after.value.value)  # type: ignore[union-attr]
    return found
