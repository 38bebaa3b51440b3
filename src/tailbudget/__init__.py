"""tailbudget: where every millisecond of an LLM request went, and whether it was within budget.

The names below are what a service needs; they come from `tailbudget.instrument`.
"""

from tailbudget.instrument.asgi import ASGIMiddleware
from tailbudget.instrument.budget import Budget, OverBudgetError
from tailbudget.instrument.calls import calls
from tailbudget.instrument.caps import check, deadline_s, remaining_ms
from tailbudget.instrument.errors import UserError
from tailbudget.instrument.feedback import feedback, request_id
from tailbudget.instrument.hygiene import count_tokens_with, describe_prompt
from tailbudget.instrument.jobs import job, job_headers
from tailbudget.instrument.lifecycle import init, shutdown
from tailbudget.instrument.loop_lag import watch_loop
from tailbudget.instrument.request import annotate, request, usable
from tailbudget.instrument.stages import stage, within
from tailbudget.instrument.streams import stream
from tailbudget.instrument.wsgi import WSGIMiddleware

__all__ = [
    "ASGIMiddleware",
    "Budget",
    "OverBudgetError",
    "UserError",
    "WSGIMiddleware",
    "annotate",
    "calls",
    "check",
    "count_tokens_with",
    "deadline_s",
    "describe_prompt",
    "feedback",
    "init",
    "job",
    "job_headers",
    "remaining_ms",
    "request",
    "request_id",
    "shutdown",
    "stage",
    "stream",
    "usable",
    "watch_loop",
    "within",
]
