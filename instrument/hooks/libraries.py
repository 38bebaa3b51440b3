"""Retrieval, embeddings, rerankers, prompts and tools of the libraries that services use: one row a function.

A row names the stage that owns the function's time. What a row sees is counted, never kept: results, sizes, a hash of a
tool's arguments.
"""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from opentelemetry import context as otel_context
from opentelemetry.util.types import AttributeValue

from ..guard import Guard
from ..spans import Activation, arguments_hash
from ..stages import OpenStage
from ..vocabulary import RETRIEVAL_DOCUMENTS, TOOL_CALL_HASH, Stage
from .patching import SUPPRESSED, replace, set_value, suppressed

guard = Guard("library hook")
Arguments = Mapping[str, Any]
#: What a row's function says: of the call's arguments, and of its result.
Says = Callable[[Arguments, Any], Mapping[str, AttributeValue]]


class Row(NamedTuple):
    """`function`, `Class.name` or `name` in `module`, belongs to `stage`.

    `name` finds the span's name in the arguments, `says` attributes in arguments and result, `wanted` tells whether
    this call is one of the stage at all.
    """

    library: str
    module: str
    function: str
    stage: Stage
    name: Callable[[Arguments], object]
    says: Says | None = None
    wanted: Callable[[Arguments], bool] = lambda _: True
    attributes: Mapping[str, AttributeValue] = {}


def _class(arguments: Arguments) -> str:
    return type(arguments["self"]).__name__


def _own(*fields: str) -> Callable[[Arguments], object]:
    """Return what finds a name: a field of the object itself, else one of its arguments, else its class."""

    def find(arguments: Arguments) -> object:
        for field in fields:
            found = arguments.get(field) or getattr(arguments.get("self"), field, None)
            if isinstance(found, str) and found:
                return found
        return _class(arguments)

    return find


def _documents(*path: str | int) -> Says:
    """Return what counts the documents at `path` of the result."""

    def count(_: Arguments, result: Any) -> Mapping[str, AttributeValue]:
        for step in path:
            by_key = isinstance(step, int) or isinstance(result, Mapping) or hasattr(result, "keys")
            result = result[step] if by_key or not hasattr(result, str(step)) else getattr(result, str(step))
        return {RETRIEVAL_DOCUMENTS: len(result)}

    return count


def _hashed(field: str) -> Says:
    """Return what hashes a tool's arguments, so that the same call made twice shows."""

    def digest(arguments: Arguments, _: Any) -> Mapping[str, AttributeValue]:
        return {TOOL_CALL_HASH: arguments_hash(arguments.get(field))}

    return digest


#: Names of pages and mails: a template that is one makes no prompt.
PAGES = re.compile(r"\.(html?|xml|txt|css|js|svg)(\.j2|\.jinja2?)?$")
#: Operators of distance of pgvector, and of PostgreSQL itself.
DISTANCE = re.compile(r"<->|<=>|<#>|<\+>|<~>|<%>")
EMBEDDINGS: Mapping[str, AttributeValue] = {"gen_ai.operation.name": "embeddings"}
POSTGRES: Mapping[str, AttributeValue] = {"db.system.name": "postgresql", "db.operation.name": "query"}


def _is_prompt(arguments: Arguments) -> bool:
    return not PAGES.search(str(getattr(arguments["self"], "name", None) or ""))


def _is_vector_query(arguments: Arguments) -> bool:
    return bool(DISTANCE.search(str(arguments.get("query") or "")))


def _in_both(row: Row, asynchronous: str, *, module: str | None = None) -> tuple[Row, Row]:
    """Return the row, and the same for the asynchronous twin of its function."""
    return row, row._replace(function=asynchronous, module=module or row.module)


_LLAMA = "llama_index.core."
_llama_embedding = Row(
    "llama-index-core", f"{_LLAMA}base.embeddings.base", "BaseEmbedding.get_query_embedding", "retrieval",
    _own("model_name"), attributes=EMBEDDINGS,
)  # fmt: skip
_llama_texts = _llama_embedding._replace(function="BaseEmbedding.get_text_embedding_batch")
_chroma = Row(
    "chromadb", "chromadb.api.models.Collection", "Collection.query", "retrieval", _own("name"), _documents("ids", 0)
)
_qdrant = Row(
    "qdrant-client", "qdrant_client.qdrant_client", "QdrantClient.query_points", "retrieval", _own("collection_name"),
    _documents("points"),
)  # fmt: skip
_elastic = Row(
    "elasticsearch", "elasticsearch._sync.client", "Elasticsearch.search", "retrieval", _own("index"),
    _documents("hits", "hits"),
)  # fmt: skip
_opensearch = _elastic._replace(library="opensearch-py", module="opensearchpy.client", function="OpenSearch.search")
_psycopg = Row(
    "psycopg", "psycopg.cursor", "Cursor.execute", "retrieval", lambda _: "postgresql", wanted=_is_vector_query,
    attributes=POSTGRES,
)  # fmt: skip

ROWS: tuple[Row, ...] = (
    *_in_both(
        Row("langchain-core", "langchain_core.retrievers", "BaseRetriever.invoke", "retrieval", _class, _documents()),
        "BaseRetriever.ainvoke",
    ),
    *_in_both(
        Row(
            "langchain-core", "langchain_core.tools.base", "BaseTool.run", "tools", _own("name"), _hashed("tool_input")
        ),
        "BaseTool.arun",
    ),
    *_in_both(
        Row("langchain-core", "langchain_core.prompts.base", "BasePromptTemplate.invoke", "prompt", _class),
        "BasePromptTemplate.ainvoke",
    ),
    *_in_both(
        Row(
            "llama-index-core", f"{_LLAMA}base.base_retriever", "BaseRetriever.retrieve", "retrieval", _class,
            _documents(),
        ),
        "BaseRetriever.aretrieve",
    ),
    *_in_both(_llama_embedding, "BaseEmbedding.aget_query_embedding"),
    *_in_both(_llama_texts, "BaseEmbedding.aget_text_embedding_batch"),
    *_in_both(
        Row(
            "llama-index-core", f"{_LLAMA}postprocessor.types", "BaseNodePostprocessor.postprocess_nodes", "retrieval",
            _class, _documents(), attributes={"gen_ai.operation.name": "rerank"},
        ),
        "BaseNodePostprocessor.apostprocess_nodes",
    ),
    *_in_both(
        Row(
            "llama-index-core", f"{_LLAMA}tools.function_tool", "FunctionTool.call", "tools",
            lambda said: said["self"].metadata.name, _hashed("kwargs"),
        ),
        "FunctionTool.acall",
    ),
    Row("llama-index-core", f"{_LLAMA}prompts.base", "PromptTemplate.format", "prompt", _class),
    *_in_both(_chroma, "AsyncCollection.query", module="chromadb.api.models.AsyncCollection"),
    *_in_both(_qdrant, "AsyncQdrantClient.query_points", module="qdrant_client.async_qdrant_client"),
    *_in_both(_elastic, "AsyncElasticsearch.search", module="elasticsearch._async.client"),
    *_in_both(_opensearch, "AsyncOpenSearch.search", module="opensearchpy._async.client"),
    *_in_both(_psycopg, "AsyncCursor.execute", module="psycopg.cursor_async"),
    Row(
        "sentence-transformers", "sentence_transformers", "SentenceTransformer.encode", "retrieval", _class,
        attributes=EMBEDDINGS,
    ),
    Row(
        "sentence-transformers", "sentence_transformers", "CrossEncoder.predict", "retrieval", _class,
        attributes={"gen_ai.operation.name": "rerank"},
    ),
    *_in_both(
        Row("jinja2", "jinja2.environment", "Template.render", "prompt", _own("name"), wanted=_is_prompt),
        "Template.render_async",
    ),
    Row("mcp", "mcp.client.session", "ClientSession.call_tool", "tools", _own("name"), _hashed("arguments")),
    Row("mcp", "mcp.client.session", "ClientSession.read_resource", "retrieval", lambda _: "mcp"),
    Row("mcp", "mcp.client.session", "ClientSession.get_prompt", "prompt", _own("name")),
)  # fmt: skip

#: Libraries at work in this context: what one of them calls of itself is no further stage.
_inside = otel_context.create_key("tailbudget-libraries")


def wrap_rows(library: str, module: ModuleType) -> None:
    """Wrap what the rows of `library` name in this module."""
    for row in ROWS:
        if (row.library, row.module) == (library, module.__name__):
            owner, _, name = row.function.rpartition(".")
            found = getattr(module, owner, None) if owner else module
            if found is not None:
                replace(found, name, functools.partial(_staged, row))


def agents_tools(module: ModuleType) -> None:
    """openai-agents: each tool holds its function as a field, so each is wrapped as it is made."""
    kind = module.FunctionTool
    row = Row("openai-agents", module.__name__, "FunctionTool", "tools", lambda said: said["tool"], _hashed("input"))

    def init(original: Callable[..., Any]) -> Callable[..., Any]:
        def made(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            with guard:
                call = self.on_invoke_tool

                async def tool_of(tool: str, context: Any, input: str) -> Any:  # noqa: A002, ARG001
                    return await call(context, input)

                object.__setattr__(self, "on_invoke_tool", functools.partial(_staged(row, tool_of), self.name))

        return made

    if "__init__" in vars(kind):
        set_value(kind, "__init__", functools.wraps(kind.__init__)(init(kind.__init__)))


def _staged(row: Row, original: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(original)

    def call(*args: Any, **kwargs: Any) -> Any:
        run = _open(row, signature, args, kwargs)
        if run is None:
            return original(*args, **kwargs)
        with run:
            result = original(*args, **kwargs)
            if not inspect.iscoroutine(result):
                return run.see(result)
        return run.awaited(result)  # a decorator of the library hides that the function is asynchronous

    async def call_async(*args: Any, **kwargs: Any) -> Any:
        run = _open(row, signature, args, kwargs)
        if run is None:
            return await original(*args, **kwargs)
        with run:
            return run.see(await original(*args, **kwargs))

    return call_async if inspect.iscoroutinefunction(original) else call


@guard
def _open(row: Row, signature: inspect.Signature, args: Any, kwargs: Any) -> "_Run | None":
    inside = otel_context.get_value(_inside)
    libraries = inside if isinstance(inside, frozenset) else frozenset()
    if row.library in libraries or suppressed(SUPPRESSED):
        return None
    arguments = signature.bind_partial(*args, **kwargs).arguments
    return _Run(row, arguments, libraries) if row.wanted(arguments) else None


class _Run:
    """One call of a row's function, as a context manager."""

    def __init__(self, row: Row, arguments: Arguments, libraries: frozenset[str]) -> None:
        self._row = row
        self._arguments = arguments
        self._stage = OpenStage(row.stage, str(row.name(arguments)), dict(row.attributes))
        self._inside = otel_context.set_value(_inside, libraries | {row.library}, self._stage.context)
        self._seen = False

    def __enter__(self) -> "_Run":
        self._activation = Activation(self._inside)
        return self

    def see(self, result: Any) -> Any:
        """Take what the result says, and hand it on."""
        self._seen = True
        with guard:
            if self._row.says and self._stage.span.is_recording():
                self._stage.span.set_attributes(self._row.says(self._arguments, result))
        return result

    async def awaited(self, result: Any) -> Any:
        """Go on with the stage while the result is awaited."""
        with self:
            return self.see(await result)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._activation.restore()
        if self._seen or error is not None:
            self._stage.end(error)
