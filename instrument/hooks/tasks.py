"""Other processes: tasks of celery, dramatiq and rq go on with who sent them, forked children deliver at the end."""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from ..calls import covered
from ..guard import Guard
from ..jobs import ENQUEUED, JobScope, job, job_headers
from ..lifecycle import shutdown
from .patching import on_restore, replace

guard = Guard("tasks")
#: Where a job of rq carries its headers, in its `meta`.
RQ_META = "tailbudget"
#: Tasks that run in this process, by id.
_running: dict[str, JobScope] = {}


def celery(module: ModuleType) -> None:
    """Carry the context in a task's headers, and open its span around it in the worker."""
    for signal, receiver in (
        (module.before_task_publish, _sent),
        (module.task_prerun, _started),
        (module.task_postrun, _ended),
        (module.worker_process_shutdown, _worker_ends),
    ):
        signal.connect(receiver, weak=False)
        on_restore(partial(signal.disconnect, receiver))


@guard
def _sent(headers: dict[str, Any] | None = None, **_: Any) -> None:
    if headers is not None and not covered("celery"):
        for name, value in job_headers().items():
            headers.setdefault(name, value)


@guard
def _started(task_id: str, task: Any, **_: Any) -> None:
    if covered("celery"):
        return
    headers = task.request.headers or {name: task.request.get(name) for name in job_headers()}
    scope = job(task.name, {k: v for k, v in headers.items() if v is not None}, messaging_system="celery")
    _running[task_id] = scope
    scope.__enter__()


@guard
def _ended(task_id: str, retval: Any = None, state: str | None = None, **_: Any) -> None:
    scope = _running.pop(task_id, None)
    if scope:
        error = retval if state == "FAILURE" and isinstance(retval, BaseException) else None
        scope.__exit__(type(error) if error else None, error, None)


def _worker_ends(**_: Any) -> None:
    shutdown()  # a process of the pool ends by os._exit, past every exit handler


#: Where a message of dramatiq carries its headers, in its `options`.
DRAMATIQ_OPTION = "tailbudget"


def dramatiq(module: ModuleType) -> None:
    """Carry the context in a message's options, and open a task's span around its actor in the worker."""
    replace(module.Broker, "emit_before", _before)
    replace(module.Broker, "emit_after", _after)


def _before(original: Callable[..., Any]) -> Callable[..., Any]:
    def emit_before(self: Any, signal: str, *args: Any, **kwargs: Any) -> Any:
        if signal == "enqueue":
            _sent_by_dramatiq(*args)
        answer = original(self, signal, *args, **kwargs)  # raises where the message is to be skipped
        if signal == "process_message":
            _begun_by_dramatiq(*args)
        return answer

    return emit_before


def _after(original: Callable[..., Any]) -> Callable[..., Any]:
    def emit_after(self: Any, signal: str, *args: Any, **kwargs: Any) -> Any:
        if signal == "process_message":  # before the others: they send it once more if it failed
            _ended_by_dramatiq(*args, **kwargs)
        return original(self, signal, *args, **kwargs)

    return emit_after


@guard
def _sent_by_dramatiq(message: Any, *_: Any) -> None:
    known = message.options.get(DRAMATIQ_OPTION, {})  # of one that is tried again
    now = job_headers()
    if due_ms := message.options.get("eta"):  # until then it was not to be begun
        now[ENQUEUED] = str(int(due_ms) * 1_000_000)
    message.options[DRAMATIQ_OPTION] = {**now, **known, ENQUEUED: now[ENQUEUED]}


@guard
def _begun_by_dramatiq(message: Any) -> None:
    headers = message.options.get(DRAMATIQ_OPTION)
    _running[message.message_id] = scope = job(message.actor_name, headers, messaging_system="dramatiq")
    scope.__enter__()


@guard
def _ended_by_dramatiq(message: Any, *, exception: BaseException | None = None, **_: Any) -> None:
    if scope := _running.pop(message.message_id, None):
        scope.__exit__(type(exception) if exception else None, exception, None)


class _Ending:
    """What multiprocessing knows its children's end by: it must stay alive."""


_ending = _Ending()


def multiprocessing(module: ModuleType) -> None:
    """Deliver what a forked child holds when it ends: it runs finalizers of multiprocessing and no exit handlers."""
    module.register_after_fork(_ending, lambda _: module.Finalize(None, shutdown, exitpriority=-100))


def rq_queue(module: ModuleType) -> None:
    """Carry the context in a job's `meta`."""

    def carrying(original: Callable[..., Any]) -> Callable[..., Any]:
        def enqueue(self: Any, job: Any, *args: Any, **kwargs: Any) -> Any:
            with guard:
                known = job.meta.get(RQ_META, {})  # of one that is tried again, or waited for another
                now = job_headers()
                job.meta[RQ_META] = {**now, **known, ENQUEUED: now[ENQUEUED]}
            return original(self, job, *args, **kwargs)

        return enqueue

    replace(module.Queue, "_enqueue_job", carrying)


def rq_job(module: ModuleType) -> None:
    """Open a job's span around it in the worker."""

    def working(original: Callable[..., Any]) -> Callable[..., Any]:
        def perform(self: Any) -> Any:
            scope = _scope_of(self)
            if scope is None:
                return original(self)
            with scope:
                return original(self)

        return perform

    replace(module.Job, "perform", working)


@guard
def _scope_of(rq_job: Any) -> JobScope:
    return job(str(rq_job.func_name), rq_job.meta.get(RQ_META), messaging_system="rq")


def rq_worker(module: ModuleType) -> None:
    """Deliver what a forked worker of one job holds: it ends by os._exit."""

    def ending(original: Callable[..., Any]) -> Callable[..., Any]:
        def perform_job(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return original(self, *args, **kwargs)
            finally:
                if getattr(self, "is_horse", False):
                    shutdown()

        return perform_job

    for name in ("BaseWorker", "Worker"):
        if kind := getattr(module, name, None):
            replace(kind, "perform_job", ending)
