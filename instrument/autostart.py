"""Telemetry that starts without a line in the service: from `tailbudget run`, or as an OpenTelemetry instrumentor."""

import logging
import os
import sys

from . import hooks, lifecycle
from .errors import UserError

logger = logging.getLogger("tailbudget")


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
        if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() != "true":
            hooks.install()

    def uninstrument(self, **options: object) -> None:  # noqa: ARG002
        """Put the libraries back."""
        hooks.uninstall()
