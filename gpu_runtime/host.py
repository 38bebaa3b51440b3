"""The model behind the server: loaded once, then handing requests to the engine and deltas back to their readers."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from prometheus_client import CollectorRegistry, ProcessCollector
from starlette.responses import Response

from tailbudget.instrument.errors import UserError

from . import models
from .doors import Doors, whole_s
from .engine import Engine, EngineFullError, EngineStoppedError
from .figures import LiveFigures
from .grammar import Grammar, GrammarError, Grammars
from .messages import RequestError
from .model import Llama
from .points import Point
from .protocol import Asked
from .reply import Deltas, Reply
from .reports import Delta
from .runner import placed
from .scheduler import Generation
from .settings import RuntimeSettings
from .telemetry import Telemetry
from .tenants import Tenant
from .tokenizer import ChatTemplateError, TextTokenizer
from .vitals import Vitals
from .watch import GpuWatch, gpu_of
from .weights import open_model

DRAIN_POLL_S = 0.05
#: When to come back where no rate is known yet.
RETRY_S = 2


class Runtime:
    """The server's state: the engine once it is loaded, and who waits for which generation."""

    def __init__(self, settings: RuntimeSettings, path: Path, *, address: str, watch: GpuWatch | None = None) -> None:
        self.settings = settings
        self.path = path
        of_path = path.name if path.is_dir() else path.stem
        self.name = settings.served_name or (settings.model if settings.model in models.CATALOG else of_path)
        self.address = address
        self.created_s = int(time.time())
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._watch = watch or GpuWatch()
        self.engine: Engine | None = None
        self.draining = False
        #: From the start of loading until every shape was warm; 0 before.
        self.cold_start_s = 0.0
        self._tokenizer: TextTokenizer | None = None
        self._grammars: Grammars | None = None
        self._vitals: Vitals | None = None
        self._doors = Doors(settings.api_keys)
        self._streams: dict[Generation, Deltas] = {}
        self._given_up = threading.Event()

    async def load(self) -> None:
        """Load the model, warm it up and start the engine; requests are taken from then on.

        UserError for a model that cannot be read, or has no room.
        """
        loop, start_s = asyncio.get_running_loop(), time.monotonic()

        def emit(deltas: Sequence[Delta]) -> None:
            loop.call_soon_threadsafe(self._deliver, deltas)

        device = placed(self.settings.device)
        telemetry = Telemetry(model=self.name, server_address=self.address, registry=self.registry, watch=self._watch)

        def build() -> tuple[Engine, TextTokenizer, Grammars]:
            torch.set_num_threads(1)
            file = open_model(self.path)
            tokenizer = TextTokenizer(file.vocabulary)
            model = Llama(file, form=self.settings.dtype, device=device)
            engine = Engine(model, tokenizer=tokenizer, settings=self.settings, observer=telemetry, emit=emit)
            engine.warm_up(given_up=self._given_up.is_set)
            self._watch.gpu = gpu_of(model.device)
            engine.energy = self._watch.energy
            engine.start()
            return engine, tokenizer, Grammars(tokenizer)

        try:
            engine, self._tokenizer, self._grammars = await asyncio.to_thread(build)
        except (MemoryError, RuntimeError) as error:  # torch has no narrower one on the CPU
            if "memory" not in str(error):
                raise
            message = f"{self.name} and its KV cache do not fit into memory: lower --max-running, --max-context"
            raise UserError(f"{message} or --kv-pages ({str(error).splitlines()[0]})") from error
        self.cold_start_s = time.monotonic() - start_s
        self._vitals = Vitals(engine, model=self.name, address=self.address, gpu=self._watch.gpu)
        figures = LiveFigures(
            engine, self._vitals, model=self.name, cold_start_s=self.cold_start_s,
            prefix_cache=self.settings.prefix_cache, dtype=self.settings.dtype,
        )  # fmt: skip
        self.registry.register(figures)
        self.engine = engine

    def give_up(self) -> None:
        """Let `load` return without the rest of its warm-up."""
        self._given_up.set()

    def card(self) -> dict[str, object]:
        """Return the model as /v1/models lists it, with vLLM's name for the longest context once that is known."""
        card = {"id": self.name, "object": "model", "created": self.created_s, "owned_by": "tailbudget"}
        return card | ({"max_model_len": self.engine.context} if self.engine else {})

    def points(self) -> Iterable[Point]:
        """Return the engine's state now, as metric points."""
        return self._vitals.points() if self._vitals else ()

    async def drain(self, hurried: Callable[[], bool]) -> None:
        """Take no more requests, and give those that are here `drain_s` to end; until `hurried`."""
        self.draining = True

        def wait(engine: Engine) -> None:
            until_s = time.monotonic() + self.settings.drain_s
            while engine.running + engine.waiting and time.monotonic() < until_s and not hurried():
                time.sleep(DRAIN_POLL_S)

        if self.engine:
            await asyncio.to_thread(wait, self.engine)

    async def close(self) -> None:
        """End every request and the engine."""
        if self.engine:
            await asyncio.to_thread(self.engine.stop)

    def ready(self) -> Engine:
        """Return the engine; RequestError 503 while it loads."""
        if self.draining:
            raise RequestError("the server is shutting down", status=503, code="draining", retry_s=RETRY_S)
        if self.engine is None:
            raise RequestError(f"{self.name} is being loaded", status=503, code="loading", retry_s=RETRY_S)
        return self.engine

    def tokenizer(self) -> TextTokenizer:
        """Return the tokenizer; RequestError 503 while the model loads."""
        if self._tokenizer is None:
            self.ready()
            raise RuntimeError("the engine is ready and its tokenizer is not")
        return self._tokenizer

    def caller(self, authorization: str) -> Tenant:
        """Return who asks, by the header `authorization`; RequestError 401 for a stranger, 429 beyond the quota."""
        return self._doors.caller(authorization, now_s=time.monotonic())

    async def encode(self, asked: Asked) -> Sequence[int]:
        """Return the prompt's token ids; RequestError for a chat that the template refuses or ids out of range."""
        tokenizer = self.tokenizer()
        if not all(0 <= token < tokenizer.size for token in asked.ids):
            raise RequestError(f"prompt has ids outside 0 to {tokenizer.size - 1}", param="prompt")
        if asked.ids:
            return asked.ids
        try:
            # In a worker: a prompt of megabytes takes seconds, and every stream goes through this event loop.
            if asked.chat:
                return await asyncio.to_thread(tokenizer.encode_chat, asked.messages, asked.tools)
            return await asyncio.to_thread(tokenizer.encode, asked.text)
        except ChatTemplateError as error:
            raise RequestError(str(error), param="tools" if asked.tools else "messages") from error

    async def grammar(self, asked: Asked) -> Grammar | None:
        """Return what holds the answer to the schema that was asked for; RequestError where nothing can."""
        if asked.schema is None or self._grammars is None:
            return None
        try:
            # In a worker: a large schema takes a second.
            return await asyncio.to_thread(self._grammars.compile, asked.schema)
        except GrammarError as error:
            message = f"response_format has a schema that this server cannot hold answers to: {error}"
            raise RequestError(message, param="response_format", code="invalid_json_schema") from error

    def submit(self, generation: Generation, asked: Asked) -> Response:
        """Queue a generation with its siblings; returns the response that carries the answers.

        RequestError 503 when there is no room, 400 when there never is for so many.
        """
        deltas: Deltas = asyncio.Queue()
        answers = generation.siblings or [generation]
        places = self.settings.max_running + self.settings.max_waiting
        if len(answers) > places:
            raise RequestError(f"n is {len(answers)}: this server has {places} places", param="n")
        self._streams |= dict.fromkeys(answers, deltas)
        forget = partial(self._forget, answers)
        try:
            self.ready().submit(generation)
        except (EngineFullError, EngineStoppedError) as error:
            forget()
            retry_s = error.retry_s if isinstance(error, EngineFullError) else RETRY_S
            raise RequestError(
                str(error), status=503, code="overloaded", retry_s=whole_s(retry_s or RETRY_S)
            ) from error
        self._doors.spent(generation, requests=1, tokens=len(generation.prompt))
        return Reply(answers, asked, deltas=deltas, tokenizer=self.tokenizer(), forget=forget)

    def _forget(self, answers: Sequence[Generation]) -> None:
        for generation in answers:
            del self._streams[generation]

    def _deliver(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            if delta.done:
                self._doors.spent(delta.generation, tokens=len(delta.generation.output))
            if waiting := self._streams.get(delta.generation):
                waiting.put_nowait(delta)
