"""tailbudget: where every millisecond of an LLM request went, and whether it was within budget.

The names below are what a service needs; they come from `tailbudget.instrument`.
"""

from tailbudget.instrument.asgi import ASGIMiddleware
from tailbudget.instrument.calls import calls
from tailbudget.instrument.errors import UserError
from tailbudget.instrument.jobs import job, job_headers
from tailbudget.instrument.lifecycle import init, shutdown
from tailbudget.instrument.request import annotate, request, usable
from tailbudget.instrument.stages import stage
from tailbudget.instrument.streams import stream
from tailbudget.instrument.wsgi import WSGIMiddleware

__all__ = [
    "ASGIMiddleware",
    "UserError",
    "WSGIMiddleware",
    "annotate",
    "calls",
    "init",
    "job",
    "job_headers",
    "request",
    "shutdown",
    "stage",
    "stream",
    "usable",
]
