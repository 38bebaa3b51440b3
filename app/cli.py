"""The `tailbudget` command line: its group, and how it ends."""

import sys
from collections.abc import Sequence
from itertools import chain
from typing import Final

import click

from tailbudget.instrument.errors import UserError

from . import config
from .commands import alerts, capacity, collector, feeds, load, questions, services, slo, upkeep, verdicts

#: In the order in which --help lists their commands.
TOPICS: Final = (
    services,
    collector,
    feeds,
    questions,
    verdicts,
    load,
    capacity,
    upkeep,
    slo,
    alerts,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 110})
@click.version_option(package_name="tailbudget")
def cli() -> None:
    """Where every millisecond of an LLM request went, and whether it was within budget."""


for command in chain.from_iterable(topic.COMMANDS for topic in TOPICS):
    cli.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit status."""
    from tailbudget.analytics.reader import QueryError

    try:
        settings = config.defaults(cli)
        ended = cli.main(list(arguments), prog_name="tailbudget", standalone_mode=False, default_map=settings)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except UserError as error:
        return _fail(str(error))
    except QueryError as error:
        return _fail(str(error) if not error.hint else f"{error}\n{error.hint}")
    return ended if isinstance(ended, int) else 0  # the status of a command that ended itself with one


def _fail(text: str) -> int:
    sys.stderr.write(f"tailbudget: {text}\n")
    return 1
