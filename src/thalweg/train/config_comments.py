"""A config as TOML in which a comment above every key explains its meaning, unit and range.

The explanations are the docstrings under the fields of the config classes, and the ranges are the bounds in their types, so that
nothing is written twice.
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
"""Characters in a line of a comment."""


def explained_text(config: RunConfig) -> str:
    """The config as TOML with a comment above every key; reading it gives the same config."""
    heading = "Config of a run: give this file to `thalweg train`. Keys that are left out take their default values."
    return "\n".join([*_comment(heading), *_section_lines(config, ())]) + "\n"


def _section_lines(values: Any, path: tuple[str, ...]) -> list[str]:
    """The lines of one dataclass: its own keys first, then the sections inside it.

    Args:
        values: the dataclass.
        path: names of the sections that lead to it.
    """
    docs, hints = docs_of(type(values)), bounds_of(type(values))
    lines, inner = [], []
    if path and hasattr(values, "kind"):
        lines += ["", *_comment(inspect.getdoc(type(values)) or ""), f"kind = {_toml(values.kind)}"]
    for field in dataclasses.fields(values):
        value, explanation = getattr(values, field.name), docs.get(field.name, "")
        if dataclasses.is_dataclass(value):
            inner_path = (*path, field.name)
            comment = _comment(f"{explanation} {_kinds(hints[field.name])}")
            inner += ["", "", *comment, f"[{'.'.join(inner_path)}]", *_section_lines(value, inner_path)]
        else:
            comment = _comment(f"{explanation} {_allowed(hints[field.name])}")
            lines += ["", *comment, f"{field.name} = {_toml(to_dict(value))}"]
    return [*lines, *inner]


def _toml(value: Any) -> str:
    """A value in TOML syntax, on one line."""
    if isinstance(value, dict):
        table = tomlkit.inline_table()
        table.update(value)
        return table.as_string()
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return tomlkit.item(value).as_string()


def _comment(text: str) -> list[str]:
    """The first paragraph of a text as lines of a comment."""
    return textwrap.wrap(" ".join(text.split("\n\n")[0].split()), _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _allowed(hint: Any) -> str:
    """A sentence with the range or the choices of a key; empty for text and booleans."""
    bound = bound_in(hint)
    if isinstance(bound, Bound):
        return f"Each {bound.range}." if typing.get_origin(hint) is tuple else f"{bound.range.capitalize()}."
    if typing.get_origin(hint) is Literal:
        return f"One of {', '.join(map(str, typing.get_args(hint)))}."
    return ""


def _kinds(hint: Any) -> str:
    """A sentence with the kinds of section that a key may hold; empty if there is only one."""
    options = [option for option in typing.get_args(hint) if hasattr(option, "kind")]
    several = typing.get_origin(hint) in (Union, types.UnionType) and len(options) > 1
    return f"kind is one of {', '.join(option.kind for option in options)}." if several else ""


@functools.cache
def docs_of(cls: type) -> dict[str, str]:
    """The docstrings under the fields of a dataclass, by field, from the source of the class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for node, after in zip(body.body, body.body[1:], strict=False):
        is_docstring = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and is_docstring:
            docs[node.target.id] = inspect.cleandoc(after.value.value)  # type: ignore[union-attr]
    return docs
