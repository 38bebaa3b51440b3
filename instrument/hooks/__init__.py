"""Which libraries are instrumented where a service uses them, and by which module; nothing is imported for it."""

import os
from collections.abc import Callable, Collection
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

from ..imports import when_imported
from . import patching


class Hook(NamedTuple):
    """`module.function` of this package is called with `library`'s module `waits_for` once the service imports it."""

    library: str
    waits_for: str
    module: str
    function: str


HOOKS = (
    Hook("starlette", "starlette.applications", "servers", "starlette"),
    Hook("fastapi", "fastapi.applications", "servers", "fastapi"),
    Hook("litestar", "litestar.app", "servers", "litestar"),
    Hook("django", "django.core.handlers.base", "servers", "django_routes"),
    Hook("django", "django.core.handlers.asgi", "servers", "django_asgi"),
    Hook("django", "django.core.handlers.wsgi", "servers", "django_wsgi"),
    Hook("flask", "flask.app", "servers", "flask"),
    Hook("uvicorn", "uvicorn.server", "servers", "uvicorn"),
    Hook("httpx", "httpx", "http_httpx", "install"),
    Hook("httpx", "httpx2", "http_httpx", "install"),
    Hook("aiohttp", "aiohttp.client", "http_aiohttp", "install"),
    Hook("aiohttp", "aiohttp.streams", "http_aiohttp", "readers"),
    Hook("urllib3", "urllib3.connectionpool", "http_urllib3", "pools"),
    Hook("urllib3", "urllib3.connection", "http_urllib3", "connections"),
    Hook("openai", "openai._base_client", "stainless", "openai"),
    Hook("anthropic", "anthropic._base_client", "stainless", "anthropic"),
    Hook("botocore", "botocore.client", "bedrock", "botocore"),
    Hook("botocore", "aiobotocore.client", "bedrock", "aiobotocore"),
    Hook("google-genai", "google.genai.models", "model_sdks", "google_genai"),
    Hook("ollama", "ollama._client", "model_sdks", "ollama"),
    Hook("litellm", "litellm.main", "model_sdks", "litellm"),
    Hook("litellm", "litellm", "model_sdks", "litellm_package"),
    Hook("celery", "celery.signals", "tasks", "celery"),
    Hook("dramatiq", "dramatiq.broker", "tasks", "dramatiq"),
    Hook("rq", "rq.queue", "tasks", "rq_queue"),
    Hook("rq", "rq.job", "tasks", "rq_job"),
    Hook("rq", "rq.worker", "tasks", "rq_worker"),
    Hook("multiprocessing", "multiprocessing.util", "tasks", "multiprocessing"),
    Hook("openai-agents", "agents.tool", "libraries", "agents_tools"),
)
_stops: list[Callable[[], None]] = []


def install(only: Collection[str] = ()) -> None:
    """Hook the libraries of the tables, now where they are imported, else when they are; twice changes nothing.

    `only` names libraries; none means all but those in OTEL_PYTHON_DISABLED_INSTRUMENTATIONS.
    """
    if _stops:
        return
    from .libraries import ROWS, wrap_rows  # the tables of stages are needed by those alone who hook

    disabled = {name.strip() for name in os.environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").split(",")}

    def wanted(library: str) -> bool:
        return library in only if only else not {library, "*"} & disabled

    waiting = [(hook.library, hook.waits_for, _calling(hook)) for hook in HOOKS]
    rows = dict.fromkeys((row.library, row.module) for row in ROWS)
    waiting += [(library, module, partial(wrap_rows, library)) for library, module in rows]
    _stops.extend(when_imported(module, callback) for library, module, callback in waiting if wanted(library))


def uninstall() -> None:
    """Put every library's own functions back and wait for none any longer."""
    while _stops:
        _stops.pop()()
    patching.restore_all()


def _calling(hook: Hook) -> Callable[[ModuleType], None]:
    def call(module: ModuleType) -> None:
        getattr(import_module(f".{hook.module}", __name__), hook.function)(module)

    return call
