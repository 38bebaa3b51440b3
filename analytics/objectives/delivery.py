"""Who is told of alerts, and when not: channels, stages' owners, maintenance, heartbeat of an objectives file."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tailbudget.instrument.vocabulary import STAGES

from . import diagnosed, words
from .diagnosed import Diagnosed
from .model import Objective
from .tree import Tree

#: Type of a channel -> the fields that it must have, and those that it may have.
TYPES: Final = {
    "webhook": (("url",), ("headers",)),
    "alertmanager": (("url",), ("headers", "api")),
    "slack": (("url",), ()),
    "pagerduty": (("routing_key",), ("url",)),
    "email": (("host", "from", "to"), ("port", "user", "password", "starttls", "tls")),
    "stdout": ((), ()),
}
COMMON: Final = ("name", "type", "default", "owners", "severities", "repeat", "resolved")
#: Keys of a document that holds more than one objective.
SECTIONS: Final = ("objectives", "channels", "maintenance", "stages", "diagnoses", "heartbeat", "dashboard")
DETAILS: Final = ("owner", "runbook", "degrade_first")
VARIABLE: Final = re.compile(r"\$\{(\w+)\}")
URL: Final = re.compile(r"(https?://[^\s/]+\S*|\S*\$\{\w+\}\S*)")
REPEAT_S: Final = 4 * 3600
#: Where `tailbudget app` serves.
DASHBOARD: Final = "http://127.0.0.1:8501"


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """A way to people; `fields` are as the file has them, `${NAME}` not yet replaced, and are never shown."""

    name: str
    type: str
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)
    default: bool = False
    owners: tuple[str, ...] = ()
    severities: tuple[str, ...] = ()
    repeat_s: int = REPEAT_S
    resolved: bool = True

    def expanded(self, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
        """Return the fields with `${NAME}` replaced. Raises KeyError, its argument the name of what is not set."""
        return {name: _expand(value, environment) for name, value in self.fields.items()}

    def secrets(self, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return what must never be shown -> what to show instead."""
        names = VARIABLE.findall(repr(dict(self.fields)))
        return {environment[name]: f"${{{name}}}" for name in names if environment.get(name)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintenance:
    """Nobody is told of alerts with these labels from `start` to `end`, and again every `every`."""

    start: datetime
    end: datetime
    labels: Mapping[str, str] = field(default_factory=dict)
    every: timedelta | None = None

    def holds(self, now: datetime) -> bool:
        """Whether it is now."""
        since = now - self.start
        if self.every is not None and since >= timedelta():
            since %= self.every
        return timedelta() <= since < self.end - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """An address that is called while all is well, so that its silence pages through somebody else."""

    url: str = field(repr=False)
    every_s: int = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """All that files say about who is told.

    `stages` maps a stage to its owner, runbook and degrade_first, `diagnoses` a rule to how its findings are alerts.
    """

    channels: tuple[Channel, ...] = ()
    maintenance: tuple[Maintenance, ...] = ()
    heartbeat: Heartbeat | None = None
    stages: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    diagnoses: Mapping[str, Diagnosed] = field(default_factory=dict)
    dashboard: str = DASHBOARD

    def route(
        self, *, notify: Iterable[str], owner: str | None, severity: str, by_default: bool = True
    ) -> list[Channel]:
        """Return the channels of an alert: those named, else the owner's, else the default one (or the first).

        Without `by_default` nobody is told where none is named and nobody's it is.
        """
        named = [one for one in self.channels if one.name in notify]
        owned = [one for one in self.channels if owner in one.owners]
        default = [one for one in self.channels if one.default] or list(self.channels[:1]) if by_default else []
        return [one for one in named or owned or default if not one.severities or severity in one.severities]


def read(sections: Iterable[Mapping[str, Tree]], objectives: Iterable[Objective]) -> Delivery:
    """Return what the sections of all documents say together. Raises ObjectivesError."""
    found: dict[str, Any] = {"channels": [], "maintenance": [], "stages": {}, "diagnoses": {}}
    told = []
    for section in sections:
        told += diagnosed.notified(section["diagnoses"]) if section.get("diagnoses") else []
        for key, tree in section.items():
            if tree.value is not None and key in READ:
                READ[key](found, tree)
    names = [one.name for one in found["channels"]]
    for objective in objectives if names else ():  # OpenSLO files name targets that others know
        for name in objective.notify:
            _known(name, names, Tree(name, *_place(objective)))
    for tree in told:
        _known(tree.text(), names, tree)
    return Delivery(**{**found, "channels": tuple(found["channels"]), "maintenance": tuple(found["maintenance"])})


def _known(name: str, names: Sequence[str], tree: Tree) -> None:
    if name not in names:
        tree.fail(f"no channel {name!r}: expected one of {', '.join(names) or 'those under `channels:`'}")


def _place(objective: Objective) -> tuple[Any, int]:
    file, _, line = objective.place.rpartition(":")
    return file, int(line)


def _channels(found: dict[str, Any], tree: Tree) -> None:
    for one in tree.items():
        channel = _channel(one)
        if any(channel.name == other.name for other in found["channels"]):
            one.fail(f"the channel {channel.name!r} is set already: expected another `name`")
        found["channels"].append(channel)


def _channel(tree: Tree) -> Channel:
    kind = tree.need("type").one_of(tuple(TYPES))
    needed, optional = TYPES[kind]
    tree.only((*COMMON, *needed, *optional))
    fields = {}
    for name in (*needed, *optional):
        value = tree.need(name) if name in needed else tree.get(name)
        if value is not None:
            fields[name] = _field(name, value)
    repeat, owners, severities = tree.get("repeat"), tree.get("owners"), tree.get("severities")
    return Channel(
        name=tree.need("name").text(),
        type=kind,
        fields=fields,
        default=_flag(tree, "default", missing=False),
        owners=tuple(one.text() for one in owners.items()) if owners else (),
        severities=tuple(one.one_of(("page", "ticket")) for one in severities.items()) if severities else (),
        repeat_s=words.seconds(repeat) if repeat else REPEAT_S,
        resolved=_flag(tree, "resolved", missing=True),
    )


def _field(name: str, value: Tree) -> Any:
    if name == "headers":
        return {key: one.text() for key, one in value.mapping().items()}
    if name == "to":
        return [one.text() for one in value.items()]
    if name == "port":
        return int(value.number(low=1, high=65_535))
    if name in ("starttls", "tls"):
        return value.one_of(("True", "False")) == "True"
    if name == "api":
        return value.one_of(("v2",))
    if name == "url":
        return _url(value)
    return value.text()


def _url(tree: Tree) -> str:
    if not URL.fullmatch(tree.text()):
        tree.fail("this is no address: expected one such as https://hooks.example/x, or ${NAME} of the environment")
    return tree.text()


def _flag(tree: Tree, name: str, *, missing: bool) -> bool:
    value = tree.get(name)
    return missing if value is None else value.one_of(("True", "False")) == "True"


def _maintenance(found: dict[str, Any], tree: Tree) -> None:
    for one in tree.items():
        one.only(("from", "to", "labels", "every"))
        start, end, every = _instant(one.need("from")), _instant(one.need("to")), one.get("every")
        if end <= start:
            one.fail("the maintenance ends before it begins: expected `from` before `to`")
        labels = one.get("labels")
        window = Maintenance(
            start=start,
            end=end,
            labels={key: value.text() for key, value in labels.mapping().items()} if labels else {},
            every=timedelta(seconds=words.seconds(every)) if every else None,
        )
        found["maintenance"].append(window)


def _instant(tree: Tree) -> datetime:
    value = tree.value
    try:
        instant = value if isinstance(value, datetime) else datetime.fromisoformat(tree.text())
    except ValueError:
        tree.fail(f"{tree.text()!r} is no instant: expected as in 2026-03-20T22:00:00Z")
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)  # YAML has turned it into UTC


def _stages(found: dict[str, Any], tree: Tree) -> None:
    for name, value in tree.mapping().items():
        if name not in STAGES:
            value.fail(f"{name!r} is no stage: expected one of {', '.join(STAGES)}")
        value.only(DETAILS)
        found["stages"][name] = {key: one.text() for key, one in value.mapping().items()}


def _diagnoses(found: dict[str, Any], tree: Tree) -> None:
    found["diagnoses"] |= diagnosed.read(tree)


def _heartbeat(found: dict[str, Any], tree: Tree) -> None:
    """Read `{url: ..., every: 1m}`, or the same in one line: `https://... every 1m`."""
    if isinstance(tree.value, str):
        url, _, length = tree.text().partition(" every ")
        parts = {"url": url, **({"every": length} if length else {})}
        tree = replace(tree, value={name: replace(tree, value=text) for name, text in parts.items()})
    tree.only(("url", "every"))
    every = tree.get("every")
    found["heartbeat"] = Heartbeat(url=_url(tree.need("url")), every_s=words.seconds(every) if every else 60)


def _dashboard(found: dict[str, Any], tree: Tree) -> None:
    try:
        found["dashboard"] = expand(_url(tree)).rstrip("/")
    except KeyError as missing:
        tree.fail(f"the environment has no {missing.args[0]}: set it, or write the address")


READ: Final[dict[str, Callable[[dict[str, Any], Tree], None]]] = {
    "channels": _channels,
    "maintenance": _maintenance,
    "stages": _stages,
    "diagnoses": _diagnoses,
    "heartbeat": _heartbeat,
    "dashboard": _dashboard,
}


def expand(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return the text with `${NAME}` replaced. Raises KeyError, its argument the name of what is not set."""
    return VARIABLE.sub(lambda found: environment[found[1]], text)


def _expand(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return expand(value, environment)
    if isinstance(value, dict):
        return {name: expand(one, environment) for name, one in value.items()}
    return [expand(one, environment) for one in value] if isinstance(value, list) else value
