"""Which attributes and events are known to carry prompts, answers, tool arguments or documents.

Rows were taken from the conventions of each dialect and from its captured telemetry. A trailing `*` matches any rest.
Sizes, counts, roles and ids are no content and stay, except where they lie under a prefix that is dropped whole.
"""

import re
from collections.abc import Iterable
from typing import Final

#: Attribute keys, wherever they stand: on spans, events, links, resources or points.
CONTENT_KEYS: Final[tuple[str, ...]] = (
    # OpenTelemetry GenAI conventions, present and past.
    "gen_ai.input.messages*",
    "gen_ai.output.messages*",
    "gen_ai.system_instructions*",
    "gen_ai.prompt",
    "gen_ai.prompt_json",
    "gen_ai.prompt.*",
    "gen_ai.completion",
    "gen_ai.completion_json",
    "gen_ai.completion.*",
    "gen_ai.content.*",
    "gen_ai.event.content",
    "gen_ai.tool.args",
    "gen_ai.tool.arguments",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
    "gen_ai.tool.input",
    "gen_ai.tool.message",
    "gen_ai.tool.output",
    "gen_ai.tool.result",
    "gen_ai.retrieval.documents*",
    "gen_ai.retrieval.query.text",
    "gen_ai.memory.query.text",
    "gen_ai.memory.records*",
    "gen_ai.evaluation.explanation",
    "gen_ai.request.prompt",
    "gen_ai.response.text",
    "gen_ai.thinking*",
    # OpenInference.
    "input.value",
    "output.value",
    "llm.input_messages*",
    "llm.output_messages*",
    "llm.prompts*",
    "llm.choices*",
    "llm.prompt_template.template",
    "llm.prompt_template.variables",
    "llm.function_call",
    "retrieval.documents*",
    "reranker.query",
    "reranker.input_documents*",
    "reranker.output_documents*",
    "document.content",
    "document.metadata",
    "message.content",
    "message.contents*",
    "tool_call.function.arguments",
    "embedding.text",
    "embedding.vector",
    "embedding.embeddings*",
    # OpenLLMetry (Traceloop).
    "traceloop.entity.input",
    "traceloop.entity.output",
    "traceloop.prompt.*",
    "llm.request.messages*",
    "llm.prompt",
    "llm.completion",
    "llm.completions*",
    "llm.content.*",
    "db.query.result.document",
    "db.query.result.metadata",
    "db.query.result.vector",
    "db.query.embeddings.vector",
    # Statements of a database carry literals: a document, a user's name, an embedding.
    "db.statement",
    "db.query.text",
    "db.query.parameter.*",
    # Logfire and Pydantic AI.
    "request_data",
    "response_data",
    "all_messages_events",
    "pydantic_ai.all_messages",
    "final_result",
    "tool_arguments",
    "tool_response",
    "events",
    # Vercel, Langfuse, LangSmith, MLflow, LiteLLM, Genkit, Haystack.
    "ai.prompt",
    "ai.prompt.*",
    "ai.response.text",
    "ai.response.object",
    "ai.response.reasoning",
    "ai.response.toolCalls",
    "ai.result.text",
    "ai.result.object",
    "ai.toolCall.args",
    "ai.toolCall.result",
    "ai.value",
    "ai.values",
    "ai.embedding",
    "ai.embeddings",
    "langfuse.observation.input",
    "langfuse.observation.output",
    "langfuse.trace.input",
    "langfuse.trace.output",
    "langsmith.span.inputs",
    "langsmith.span.outputs",
    "mlflow.spanInputs",
    "mlflow.spanOutputs",
    "llm.openai.messages",
    "genkit:input",
    "genkit:output",
    "haystack.component.input",
    "haystack.component.output",
    "crewai.agent.input",
    "crewai.agent.output",
    # What an exception says quotes what it was given; its type, `exception.type` or `error.type`, stays.
    "exception.message",
    "exception.stacktrace",
    # MCP and plain HTTP bodies.
    "mcp.request.argument*",
    "mcp.tool.arguments",
    "mcp.tool.result",
    "http.request.body",
    "http.response.body",
    "http.request.body.text",
    "http.response.body.text",
)

#: What a row above would take although it is no content.
KEPT_KEYS: Final[frozenset[str]] = frozenset({"gen_ai.prompt.name", "gen_ai.prompt.version"})

#: Events of which only name and time stay: all their attributes are content.
CONTENT_EVENTS: Final[tuple[str, ...]] = (
    "gen_ai.content.*",
    "llm.content.*",
    "gen_ai.user.message",
    "gen_ai.system.message",
    "gen_ai.assistant.message",
    "gen_ai.tool.message",
    "gen_ai.choice",
    "gen_ai.client.inference.operation.details",
)


#: What follows in a status message is text that an exception was given: SDKs write `Type: text`.
QUOTED: Final = re.compile(r"""[:\n"“{\[(]|(?:^|\s)['`]""")
MESSAGE_CHARS: Final = 200


def status_head(message: str) -> str:
    """Return a status message up to its first colon, quotation, bracket or line's end, at most 200 characters."""
    return QUOTED.split(message, maxsplit=1)[0][:MESSAGE_CHARS].rstrip()


class Rule(dict[str, bool]):
    """Whether a name is in a table, looked up as `rule[name]`; remembered, since senders repeat their names."""

    #: Indexed keys (`llm.input_messages.17...`) are without number: the memory starts over at this many.
    REMEMBERED = 20_000

    def __init__(self, rows: Iterable[str]) -> None:
        super().__init__()
        rows = tuple(rows)
        self._exact = frozenset(row for row in rows if not row.endswith("*"))
        self._prefixes = tuple(row[:-1] for row in rows if row.endswith("*"))

    def __missing__(self, name: str) -> bool:
        if len(self) >= self.REMEMBERED:
            self.clear()
        listed = (name in self._exact or name.startswith(self._prefixes)) and name not in KEPT_KEYS
        self[name] = listed
        return listed


#: By name: whether an attribute, and whether all attributes of an event, are content.
KEY_RULES: Final = Rule(CONTENT_KEYS)
EVENT_RULES: Final = Rule(CONTENT_EVENTS)
