"""The bundled inference runtime: an OpenAI-compatible server that times queue, prefill and decode."""

from .settings import RuntimeSettings

__all__ = ["RuntimeSettings", "serve"]


def serve(settings: RuntimeSettings) -> None:
    """Serve a model until SIGTERM or SIGINT; UserError when it cannot start. Loads torch only when called."""
    from .server import serve as run

    run(settings)
