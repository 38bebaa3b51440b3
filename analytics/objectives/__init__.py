"""Objectives: what share of requests must meet which limits, read from files in YAML."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from . import openslo, short
from .model import Limit, Objective, Period
from .tree import ObjectivesError, Tree, documents

__all__ = ["Limit", "Objective", "ObjectivesError", "Period", "load"]


def load(files: Sequence[Path]) -> tuple[Objective, ...]:
    """Return the objectives of the files, in their order, each name once.

    A file holds OpenSLO documents, short ones, or both. Raises ObjectivesError, whose text begins with file and line.
    """
    found: dict[str, Objective] = {}
    for objective in _read([tree for file in files for tree in documents(file)]):
        if objective.name in found:
            raise ObjectivesError(
                f"{objective.place}: {objective.name!r} is set at {found[objective.name].place} already: "
                "expected another `name`"
            )
        found[objective.name] = objective
    return tuple(found.values())


def _read(trees: Sequence[Tree]) -> Iterator[Objective]:
    standard = [tree for tree in trees if isinstance(tree.value, dict) and "apiVersion" in tree.value]
    yield from openslo.read(standard)
    for tree in trees:
        if tree in standard:
            continue
        listed = tree.get("objectives") if isinstance(tree.value, dict) else None
        if listed is not None:
            tree.only(("objectives",))
        for one in (listed or tree).items():
            yield from short.read(one, name=tree.file.stem)
