"""The table of libraries against the real ones: the stage, its name, what it counts, and no second span."""

import importlib.metadata
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tailbudget.instrument.hooks.libraries import ROWS
from tests.instrument_support import Recorded, hooked, serve
from tests.support import free_port, wait_until

pytestmark = [pytest.mark.libraries, pytest.mark.filterwarnings("default")]
LIBRARIES = sorted({row.library for row in ROWS} | {"openai-agents"})


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with hooked(*LIBRARIES) as recorded:
        yield recorded


def stages(recorded: Recorded) -> list[tuple[str, str]]:
    return [(span.name, str((span.attributes or {})["slo.stage"])) for span in recorded.spans]


def test_the_versions_that_were_tried(record_property: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tried = {}
    asked = (Path(__file__).parent / "libraries.txt").read_text().splitlines()[1:]
    for library in [name.partition("[")[0] for name in asked]:
        try:
            tried[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            tried[library] = "not installed"
        record_property(library, tried[library])
    with capsys.disabled():
        print("\ntried:", ", ".join(f"{name} {version}" for name, version in tried.items()))
    assert any(version != "not installed" for version in tried.values())


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_row_finds_its_function(recorded: Recorded, library: str) -> None:
    """A library that moves a function away from where a row looks for it is found here."""
    for row in ROWS:
        if row.library != library:
            continue
        module = pytest.importorskip(row.module, reason=f"{library} is not installed")
        owner, _, name = row.function.rpartition(".")
        function = vars(getattr(module, owner)).get(name)
        assert function is not None, f"{row.module}.{row.function}"
        assert "libraries" in function.__code__.co_filename, f"{row.module}.{row.function} is not hooked"


async def test_langchain(recorded: Recorded) -> None:
    pytest.importorskip("langchain_core", reason="langchain-core is not installed")
    from langchain_core.documents import Document
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.tools import tool

    class Shelf(BaseRetriever):  # type: ignore[misc]
        def _get_relevant_documents(self, query: str, **_: Any) -> Any:
            return [Document(page_content=query)] * 3

    def weather(city: str) -> str:
        """Say the weather."""
        return f"sunny in {city}"

    weather_tool = tool(weather)
    assert len(Shelf().invoke("secret")) == 3
    assert len(await Shelf().ainvoke("secret")) == 3
    assert weather_tool.invoke({"city": "secret"}) == "sunny in secret"
    ChatPromptTemplate.from_messages([("user", "{q}")]).invoke({"q": "secret"})
    assert stages(recorded) == [
        ("retrieval Shelf", "retrieval"), ("retrieval Shelf", "retrieval"), ("execute_tool weather", "tools"),
        ("prompt ChatPromptTemplate", "prompt"),
    ]  # fmt: skip
    assert (recorded.spans[0].attributes or {})["slo.retrieval.documents"] == 3
    assert len(str(recorded.attributes("execute_tool weather")["slo.tool.call_hash"])) == 16
    assert "secret" not in json.dumps([dict(span.attributes or {}) for span in recorded.spans])


async def test_llama_index(recorded: Recorded) -> None:
    pytest.importorskip("llama_index.core", reason="llama-index-core is not installed")
    from llama_index.core import PromptTemplate
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.embeddings import MockEmbedding
    from llama_index.core.postprocessor import SimilarityPostprocessor
    from llama_index.core.schema import NodeWithScore, TextNode
    from llama_index.core.tools import FunctionTool

    class Shelf(BaseRetriever):  # type: ignore[misc]
        def _retrieve(self, query_bundle: Any) -> Any:
            return [NodeWithScore(node=TextNode(text=text), score=0.9) for text in "ab"]

    found = Shelf().retrieve("secret")
    await Shelf().aretrieve("secret")
    SimilarityPostprocessor(similarity_cutoff=0.5).postprocess_nodes(found)
    MockEmbedding(embed_dim=2).get_query_embedding("secret")

    def weather(city: str) -> str:
        """Say the weather."""
        return city

    FunctionTool.from_defaults(fn=weather).call(city="secret")
    PromptTemplate("{q}").format(q="secret")
    assert stages(recorded) == [
        ("retrieval Shelf", "retrieval"), ("retrieval Shelf", "retrieval"),
        ("retrieval SimilarityPostprocessor", "retrieval"), ("retrieval unknown", "retrieval"),
        ("execute_tool weather", "tools"), ("prompt PromptTemplate", "prompt"),
    ]  # fmt: skip
    assert (recorded.spans[0].attributes or {})["slo.retrieval.documents"] == 2


def test_chromadb(recorded: Recorded) -> None:
    chromadb = pytest.importorskip("chromadb", reason="chromadb is not installed")
    settings = chromadb.config.Settings(anonymized_telemetry=False)
    shelf = chromadb.EphemeralClient(settings).create_collection("shelf", embedding_function=None)
    shelf.add(ids=["a", "b"], embeddings=[[0.1, 0.2], [0.3, 0.4]])
    shelf.query(query_embeddings=[[0.1, 0.2]], n_results=2)
    assert stages(recorded) == [("retrieval shelf", "retrieval")]
    assert recorded.attributes("retrieval shelf")["slo.retrieval.documents"] == 2


async def test_qdrant(recorded: Recorded) -> None:
    qdrant = pytest.importorskip("qdrant_client", reason="qdrant-client is not installed")
    vectors = qdrant.models.VectorParams(size=2, distance=qdrant.models.Distance.COSINE)
    points = [qdrant.models.PointStruct(id=n, vector=[0.1, n / 10]) for n in range(3)]
    client, asynchronous = qdrant.QdrantClient(":memory:"), qdrant.AsyncQdrantClient(":memory:")
    client.create_collection("shelf", vectors_config=vectors)
    client.upsert("shelf", points)
    client.query_points("shelf", query=[0.1, 0.2], limit=2)
    await asynchronous.create_collection("shelf", vectors_config=vectors)
    await asynchronous.query_points("shelf", query=[0.1, 0.2], limit=2)
    assert stages(recorded) == [("retrieval shelf", "retrieval")] * 2
    assert [(span.attributes or {})["slo.retrieval.documents"] for span in recorded.spans] == [2, 0]


async def _search(_: Request) -> Response:
    hits = {"hits": {"total": {"value": 2}, "hits": [{"_id": "1", "_source": {}}, {"_id": "2", "_source": {}}]}}
    return JSONResponse(hits, headers={"x-elastic-product": "Elasticsearch"})


@pytest.mark.parametrize(("module", "kind"), [("elasticsearch", "Elasticsearch"), ("opensearchpy", "OpenSearch")])
async def test_search_engines(recorded: Recorded, module: str, kind: str) -> None:
    library = pytest.importorskip(module, reason=f"{module} is not installed")
    app = Starlette(routes=[Route("/shelf/_search", _search, methods=["POST"])])
    with serve(app) as url:
        client, asynchronous = getattr(library, kind)(url), getattr(library, f"Async{kind}")(url)
        client.search(index="shelf", body={"query": {"match_all": {}}})
        await asynchronous.search(index="shelf", body={"query": {"match_all": {}}})
        client.close()
        await asynchronous.close()
    assert stages(recorded) == [("retrieval shelf", "retrieval")] * 2
    assert [(span.attributes or {})["slo.retrieval.documents"] for span in recorded.spans] == [2, 2]


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not binaries:
        pytest.skip("needs a PostgreSQL server")
    user = "postgres" if os.getuid() == 0 else None
    data, port = folder / "data", free_port()
    shutil.chown(folder, user) if user else None
    for above in folder.parents[:3]:
        above.chmod(above.stat().st_mode | 0o11)
    subprocess.run(
        [str(binaries[-1] / "initdb"), "-D", str(data), "-A", "trust", "-U", "me"], user=user, check=True, cwd=folder
    )
    options = ["-D", str(data), "-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1"]
    command = [str(binaries[-1] / "postgres"), *options]
    with subprocess.Popen(command, user=user, cwd=folder, stderr=subprocess.DEVNULL) as server:
        try:
            yield f"host=127.0.0.1 port={port} user=me dbname=postgres"
        finally:
            server.terminate()


async def test_vector_queries_of_postgresql_are_retrieval_and_no_others(recorded: Recorded, tmp_path: Path) -> None:
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    nearest = "select point '(1,2)' <-> point '(0,0)'"  # pgvector's operator is one of PostgreSQL's own

    def connected(where: str) -> Any:
        try:
            return psycopg.connect(where)
        except psycopg.OperationalError:
            return None

    with postgres(tmp_path) as where:
        with wait_until(lambda: connected(where), what="PostgreSQL") as connection:
            connection.execute("select 1")
            assert connection.execute(nearest).fetchone()
        async with await psycopg.AsyncConnection.connect(where) as asynchronous:
            await asynchronous.execute(nearest)
    assert stages(recorded) == [("retrieval postgresql", "retrieval")] * 2
    assert (recorded.spans[0].attributes or {})["db.system.name"] == "postgresql"


def test_sentence_transformers(recorded: Recorded, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    from sentence_transformers.models import StaticEmbedding

    model = library.SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=4)], device="cpu")
    assert model.encode(["a b", "c"]).shape == (2, 4)
    assert stages(recorded) == [("retrieval SentenceTransformer", "retrieval")]
    assert recorded.attributes("retrieval SentenceTransformer")["gen_ai.operation.name"] == "embeddings"


def test_jinja_templates_are_prompts_unless_they_are_pages(recorded: Recorded) -> None:
    import jinja2

    loader = jinja2.DictLoader({"rag.j2": "{{ q }}", "index.html": "<p>{{ q }}</p>"})
    templates = jinja2.Environment(loader=loader, autoescape=True)
    for name in ("rag.j2", "index.html"):
        templates.get_template(name).render(q="secret")
    assert stages(recorded) == [("prompt rag.j2", "prompt")]


async def test_mcp_client_calls(recorded: Recorded) -> None:
    pytest.importorskip("mcp", reason="mcp is not installed")
    from mcp.server.fastmcp import FastMCP
    from mcp.shared.memory import create_connected_server_and_client_session

    server = FastMCP("weather")

    def forecast(city: str) -> str:
        return f"sunny in {city}"

    def ask(city: str) -> str:
        return f"What about {city}?"

    server.tool()(forecast)
    server.prompt()(ask)
    async with create_connected_server_and_client_session(server._mcp_server) as session:
        first = await session.call_tool("forecast", {"city": "secret"})
        await session.call_tool("forecast", {"city": "secret"})
        await session.get_prompt("ask", {"city": "secret"})
    assert "sunny" in str(first.content)
    assert stages(recorded) == [("execute_tool forecast", "tools")] * 2 + [("prompt ask", "prompt")]
    hashes = {(span.attributes or {})["slo.tool.call_hash"] for span in recorded.spans[:2]}
    assert len(hashes) == 1


async def test_tools_of_openai_agents(recorded: Recorded) -> None:
    agents = pytest.importorskip("agents", reason="openai-agents is not installed")

    def weather(city: str) -> str:
        return f"sunny in {city}"

    tool = agents.function_tool(weather)
    kind = getattr(sys.modules.get("agents.tool_context"), "ToolContext", None)
    known = inspect.signature(kind).parameters if kind else {}
    said = {"context": None, "tool_name": "weather", "tool_call_id": "1", "tool_arguments": "{}", "usage": None}
    context = kind(**{name: value for name, value in said.items() if name in known}) if kind else None
    assert await tool.on_invoke_tool(context, '{"city": "secret"}') == "sunny in secret"
    assert stages(recorded) == [("execute_tool weather", "tools")]
