"""YAML documents whose every value knows its line, so that an error can name it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from tailbudget.instrument.errors import UserError


class ObjectivesError(UserError):
    """A file of objectives that cannot be used: the text begins with file and line."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A value of a YAML file: a dict or list of trees, or a scalar."""

    value: Any
    file: Path
    line: int

    def fail(self, text: str) -> NoReturn:
        """Raise ObjectivesError at this value."""
        raise ObjectivesError(f"{self.file}:{self.line}: {text}")

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.file}:{self.line}"

    def get(self, key: str) -> "Tree | None":
        """Return the value of a key; None when it is absent or null. Fails where this is no mapping."""
        found: Tree | None = self.mapping().get(key)
        return None if found is None or found.value is None else found

    def need(self, key: str) -> "Tree":
        """Return the value of a key that must be there."""
        found = self.get(key)
        return found if found is not None else self.fail(f"{key!r} is missing")

    def mapping(self) -> "dict[str, Tree]":
        """Return the value as a mapping."""
        if not isinstance(self.value, dict):
            self.fail(f"{self.value!r} is no mapping: expected `key: value` lines")
        return self.value

    def items(self) -> "list[Tree]":
        """Return the value as a list; one value that is no list is a list of one."""
        return self.value if isinstance(self.value, list) else [self]

    def text(self) -> str:
        """Return a scalar as text."""
        if isinstance(self.value, dict | list):
            self.fail("expected a text here, found a mapping or a list")
        return str(self.value).strip()

    def number(self, *, low: float, high: float) -> float:
        """Return a number from `low` to `high`."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.fail(f"{value!r} is no number from {low:g} to {high:g}")
        return float(value)

    def one_of(self, allowed: Sequence[str]) -> str:
        """Return a text that is one of these."""
        text = self.text()
        return (
            text if text in allowed else self.fail(f"{text!r} is not known here: expected one of {', '.join(allowed)}")
        )

    def only(self, allowed: Sequence[str]) -> None:
        """Fail at the first key that is none of these."""
        for key, value in self.mapping().items():
            if key not in allowed:
                value.fail(f"unknown key {key!r}: expected one of {', '.join(allowed)}")


def documents(file: Path) -> Iterator[Tree]:
    """Yield the documents of a file. Raises ObjectivesError when it cannot be read or is no YAML."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ObjectivesError(f"{file} cannot be read ({error.strerror}): expected a file of objectives") from error
    except UnicodeDecodeError as error:
        raise ObjectivesError(f"{file} is not in UTF-8: byte {error.start} is no text") from error
    try:
        for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
            if node is not None:
                yield _tree(node, file, depth=0)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ObjectivesError(f"{file}:{line}: no YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ObjectivesError(f"{file}: no YAML: {error}") from error


def _tree(node: yaml.Node, file: Path, *, depth: int) -> Tree:
    line = node.start_mark.line + 1
    if depth > 20:
        raise ObjectivesError(f"{file}:{line}: nested more than 20 deep: an alias that holds itself?")
    if isinstance(node, yaml.MappingNode):
        return Tree(_mapping(node, file, depth), file, line)
    if isinstance(node, yaml.SequenceNode):
        return Tree([_tree(item, file, depth=depth + 1) for item in node.value], file, line)
    try:
        return Tree(yaml.SafeLoader("").construct_object(node), file, line)
    except (yaml.YAMLError, ValueError) as error:
        raise ObjectivesError(f"{file}:{line}: {node.value!r} cannot be read: {error}") from error


def _mapping(node: yaml.MappingNode, file: Path, depth: int) -> dict[str, Tree]:
    found: dict[str, Tree] = {}
    for key, value in node.value:
        name = str(key.value)
        if name in found:
            raise ObjectivesError(f"{file}:{key.start_mark.line + 1}: {name!r} is here twice")
        child = _tree(value, file, depth=depth + 1)
        # A value on a line of its own is named by the line of its key, where one looks for it.
        found[name] = Tree(child.value, file, key.start_mark.line + 1)
    return found
