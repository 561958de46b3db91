"""YAML and JSON as this package reads and writes them: nothing is guessed, nothing is dropped.

YAML is that of version 1.2's core schema, in which `yes` is a word, `1:30` is text and `010` is
ten. A key that stands twice is an error, and so is an alias, since no file of ours needs one and a
few lines of them can stand for gigabytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from typing import Any

import yaml

from .errors import UserError


def parse_document(text: str, source: str) -> Any:
    """The value that a text in JSON or YAML holds.

    Args:
        text: of the document.
        source: what the text is, for messages.

    Raises:
        UserError: it is neither, or a key stands twice in it.
    """
    try:
        try:
            # First, because YAML garbles JSON's escapes of emoji.
            return json.loads(text, object_pairs_hook=_unique)
        except ValueError:
            return yaml.load(text, _Loader)
    except _DocumentError as error:
        raise UserError(f"{source}: {error}") from error
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise UserError(f"{source} is not valid YAML or JSON{line}; correct it") from error
    except RecursionError as error:
        raise UserError(f"{source} is nested too deeply; correct it") from error


def write_document(value: Any) -> str:
    """A value as YAML, from which `parse_document` and other readers get it back."""
    # Long keys stay on their line instead of becoming a "? key" over two.
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=float("inf"))


class _DocumentError(Exception):
    """A document that says something twice, or too much."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            raise _DocumentError(f"the key '{key}' stands twice; keep one of them")
        mapping[key] = value
    return mapping


_CORE: dict[str, tuple[str, str]] = {
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
}
"""YAML 1.2, section 10.3: what untagged scalars of a type look like, and begin with."""


class _Loader(yaml.SafeLoader):
    """Reads YAML's core schema."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML fills it per class.)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node in self.constructed_objects or node in self.recursive_objects:
            line = node.start_mark.line + 1
            raise _DocumentError(f"what begins at line {line} is used again by an alias; repeat it")
        return super().construct_object(node, deep)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[Any, int] = {}
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, Hashable):
                raise _DocumentError(f"the key at line {line} is no single value; write one")
            if key in lines:
                raise _DocumentError(
                    f"the key '{key}' stands twice, at lines {lines[key]} and {line}; keep one of "
                    "them"
                )
            lines[key] = line
            mapping[key] = self.construct_object(value_node, deep=True)
        return mapping

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        """A number in its notation; a leading 0 alone means nothing."""
        text = str(self.construct_scalar(node))
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


class _Dumper(yaml.SafeDumper):
    """Quotes what any version of YAML would take for something else than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node)


for _name, (_pattern, _first) in _CORE.items():
    _resolver = (f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})\Z"))
    _Loader.add_implicit_resolver(*_resolver, [*_first] + ([""] if _name == "null" else []))
    _Dumper.add_implicit_resolver(*_resolver, [*_first])
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
