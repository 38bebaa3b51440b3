"""Unhappy clients and services by name: what a load run does beside plain traffic."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final, get_type_hints

from tailbudget.instrument.errors import UserError

from .behaviour import Behaviour

#: Name -> the clients that are mixed into the traffic.
CROWDS: Final[dict[str, Behaviour]] = {
    "leave-before": Behaviour(share=0.2, leaves_after_s=0.1),
    "leave-amid": Behaviour(share=0.2, leaves_after_chunks=3),
    "slow-reader": Behaviour(share=0.2, reads_s=0.25),
    "slow-retrieval": Behaviour(share=0.3, fault="retrieval=slow:800"),
    "failing-retrieval": Behaviour(share=0.3, fault="retrieval=fail"),
    "slow-tools": Behaviour(share=0.3, fault="tools=slow:800"),
    "failing-tools": Behaviour(share=0.3, fault="tools=fail"),
    "oversized": Behaviour(share=0.1, longer=100.0),
    "noisy-tenant": Behaviour(share=0.05, tenant="noisy", burst=20),
    "rate-limits": Behaviour(share=1.0, retries=3),
}
#: Presets that need the commands of --break and --mend, since only you know how your parts are stopped and started.
DISRUPTIONS: Final = ("exporter-outage", "restart")
PRESETS: Final = (*CROWDS, *DISRUPTIONS)


def crowd(presets: Sequence[str], clients: Sequence[str]) -> list[Behaviour]:
    """Return the clients of the presets and those written out, as `share=0.1,leaves_after_s=2`; raises UserError."""
    return [*(CROWDS[name] for name in presets if name in CROWDS), *map(client, clients)]


def client(text: str) -> Behaviour:
    """Return a client whose ways are written as `name=value,...`; raises UserError."""
    kinds = get_type_hints(Behaviour)
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        kind = kinds.get(name.strip())
        try:
            convert = next(one for one in (str, int, float) if kind in (one, one | None))
            found[name.strip()] = convert(value.strip())
        except (StopIteration, ValueError) as error:
            known = ", ".join(one.name for one in fields(Behaviour))
            raise UserError(f"--client {text!r}: {part!r} is not understood: expected NAME=VALUE of {known}") from error
    if not 0 < found.get("share", 1.0) <= 1 or found.get("burst", 1) < 1:
        raise UserError(f"--client {text!r}: expected a share above 0 and up to 1, and a burst of 1 or more")
    return Behaviour(**found)
