"""Objectives: what share of requests must meet which limits, read from files in YAML."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import delivery, openslo, short
from .delivery import Channel, Delivery
from .diagnosed import Diagnosed
from .model import Limit, Objective, Period
from .tree import ObjectivesError, Tree, documents

__all__ = [
    "Channel",
    "Delivery",
    "Diagnosed",
    "Limit",
    "Objective",
    "ObjectivesError",
    "Period",
    "Watched",
    "load",
    "read",
]


@dataclass(frozen=True, slots=True)
class Watched:
    """What files of objectives say: what is promised, and who is told when it is not kept."""

    objectives: tuple[Objective, ...]
    delivery: Delivery


def load(files: Sequence[Path]) -> tuple[Objective, ...]:
    """Return the objectives of the files, in their order, each name once; see `read`."""
    return read(files).objectives


def read(files: Sequence[Path]) -> Watched:
    """Return what the files say together.

    A file holds OpenSLO documents, short ones, or both. Raises ObjectivesError, whose text begins with file and line.
    """
    trees = [tree for file in files for tree in documents(file)]
    found: dict[str, Objective] = {}
    for objective in _read(trees):
        if objective.name in found:
            raise ObjectivesError(
                f"{objective.place}: {objective.name!r} is set at {found[objective.name].place} already: "
                "expected another `name`"
            )
        found[objective.name] = objective
    objectives = tuple(found.values())
    return Watched(objectives, delivery.read(map(_sections, trees), objectives))


def _sections(tree: Tree) -> Mapping[str, Tree]:
    """Return the sections of a document that holds more than one objective; none of any other."""
    value = tree.value
    return value if isinstance(value, dict) and not value.keys().isdisjoint(delivery.SECTIONS) else {}


def _read(trees: Sequence[Tree]) -> Iterator[Objective]:
    standard = [tree for tree in trees if isinstance(tree.value, dict) and "apiVersion" in tree.value]
    yield from openslo.read(standard)
    for tree in trees:
        if tree in standard:
            continue
        sections = _sections(tree)
        if sections:
            tree.only(delivery.SECTIONS)
        listed = sections.get("objectives")
        if sections and (listed is None or listed.value is None):
            continue
        for one in (listed or tree).items():
            yield from short.read(one, name=tree.file.stem)
