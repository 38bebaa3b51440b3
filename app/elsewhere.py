"""Which engine answers a command: DuckDB through the collector, or the ClickHouse or Spark that `--reader` names."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import click

from tailbudget.analytics.reader import Reader
from tailbudget.instrument.errors import UserError

READERS: Final = ("duckdb", "clickhouse", "spark")
KEY: Final = "tailbudget.elsewhere"
EXPECTED: Final = {
    "clickhouse": "--url clickhouse://user:password@host:8123/database",
    "spark": "--url spark://host:7077 (or sc://host:15002, local[2]) and --lake s3://bucket/prefix, or a folder",
}


@dataclass(frozen=True)
class Elsewhere:
    """An engine, its address, and for Spark where collectors have sealed to."""

    reader: str
    url: str
    lake: str

    def open(self) -> Reader:
        """Return the engine's reader; raises UserError for what is missing, QueryError when nothing answers."""
        if not self.url or (self.reader == "spark" and not self.lake):
            raise UserError(f"--reader {self.reader} has no address: expected {EXPECTED[self.reader]}")
        if self.reader == "clickhouse":
            from tailbudget.collector.engines.clickhouse import ClickHouseReader

            return ClickHouseReader(self.url)
        from tailbudget.collector.engines.spark import SparkReader
        from tailbudget.collector.lake.manifest import Lake

        return SparkReader(self.url, Lake(self.lake).tables)


def elsewhere() -> Elsewhere | None:
    """Return the engine that the running command's options name, None for DuckDB."""
    context = click.get_current_context(silent=True)
    given: dict[str, str] = context.meta.get(KEY, {}) if context else {}
    reader = given.get("reader") or READERS[0]
    return None if reader == READERS[0] else Elsewhere(reader, given.get("url") or "", given.get("lake") or "")


def _kept(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    context.meta.setdefault(KEY, {})[parameter.name] = value


def reader_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --reader, --url and --lake to a command, which `elsewhere` reads: no parameter of its function."""
    options = (
        click.option(
            "--reader",
            type=click.Choice(READERS),
            default=READERS[0],
            help="Which engine answers; other than duckdb needs --url and the extra `scale`.",
            **_shared("READER"),
        ),
        click.option("--url", default=None, help="Of ClickHouse, or of Spark's master.", **_shared("URL")),
        click.option("--lake", default=None, help="For Spark: where collectors seal to.", **_shared("LAKE")),
    )
    for add in reversed(options):
        command = add(command)
    return command


def _shared(name: str) -> dict[str, Any]:
    return {"envvar": f"TAILBUDGET_{name}", "show_envvar": True, "expose_value": False, "callback": _kept}
