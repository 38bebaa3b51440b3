"""Telemetry that starts without a line in the service: from `tailbudget run`, or as an OpenTelemetry instrumentor."""

import sys

from . import lifecycle
from .errors import UserError


def start() -> None:
    """Start as `init()` does. A setting that cannot be is told in one line, and the service runs without telemetry."""
    try:
        lifecycle.init()
    except UserError as error:
        sys.stderr.write(f"tailbudget: {error}\ntailbudget: the service runs without telemetry\n")


class Instrumentor:
    """What `opentelemetry-instrument` loads under the name `slo`: hooks for the providers that it has set up."""

    def instrument(self, **options: object) -> None:  # noqa: ARG002 - a distribution may pass any
        """Hook the libraries; spans and metrics go to the global providers."""
        if not lifecycle.disabled():
            lifecycle.join()

    def uninstrument(self, **options: object) -> None:  # noqa: ARG002
        """Put the libraries back."""
        lifecycle.leave()
