"""API keys open the server to their tenants, and a quota that is used up says when it is there again."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tailbudget.gpu_runtime.tenants import Quota, Tenant, load, of_key
from tailbudget.instrument.errors import UserError
from tests.runtime_support import Receiver, receiver, server
from tests.support import wait_until

HASHED = hashlib.sha256(b"sk-hashed").hexdigest()
FILE = f"""
[tenants.acme]
keys = ["sk-acme", "sha256:{HASHED}"]
weight = 2
priority = -1

[tenants.small]
keys = ["sk-small"]
requests_per_minute = 2

[tenants.few]
keys = ["sk-few"]
tokens_per_minute = 30
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def otlp() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@pytest.fixture(scope="module")
def url(otlp: Receiver, keys: Path) -> Iterator[str]:
    with server(otlp.endpoint, max_context=256, api_keys=str(keys)) as (base, _):
        yield base


def _ask(url: str, key: str, tokens: int = 2) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=120) as client:
        client.completions.create(model="tiny", prompt=[5, 6, 7], max_tokens=tokens)


def test_a_key_is_its_tenants_in_plain_text_or_as_a_digest(keys: Path) -> None:
    tenants = load(keys)
    assert of_key(tenants, "sk-acme") == of_key(tenants, "sk-hashed") == Tenant("acme", weight=2, priority=-1)
    assert of_key(tenants, "sk-none") is None
    assert of_key(tenants, f"sha256:{HASHED}") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[tenants.a]", "'a' has no keys"),
        ("[tenants.a]\nkeys = []", "'a' has no keys"),
        ("[tenants.a]\nkeys = ['x']\nspeed = 2", "tenant 'a' has 'speed': expected keys, weight"),
        ("[tenants.a]\nkeys = ['x']\nweight = 0", "weight of 'a' is 0: expected 0.01 to 1000"),
        ("[tenants.a]\nkeys = ['x']\n[tenants.b]\nkeys = ['x']", "a key of 'b' is also one of 'a'"),
        ("[tenant]", "expected tables"),
        ("[", "cannot be read"),
    ],
)
def test_a_wrong_file_of_keys_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        load(path)


def test_a_quota_refills_over_a_minute_and_debt_is_paid_first() -> None:
    quota = Quota(Tenant("a", requests_per_minute=60, tokens_per_minute=600), now_s=0)
    quota.spend(requests=60)
    assert quota.wait_s(0) == pytest.approx(1)
    assert quota.wait_s(1) == 0
    quota.spend(tokens=700)
    # A hundred too many, at 10 a second, and one token more.
    assert quota.wait_s(1) == pytest.approx(10.1)
    assert quota.wait_s(11.2) == 0
    assert Quota(Tenant("b"), now_s=0).wait_s(0) == 0


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer no"}, {"authorization": "Basic sk-acme"}])
def test_a_stranger_is_not_let_in(url: str, headers: dict[str, str]) -> None:
    for answer in (
        httpx.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": "x"}, headers=headers),
        httpx.get(f"{url}/v1/models", headers=headers),
    ):
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert httpx.get(f"{url}/health").status_code == httpx.get(f"{url}/metrics").status_code == 200


def test_a_known_key_is_answered_and_its_tenant_stands_on_the_span(url: str, otlp: Receiver) -> None:
    _ask(url, "sk-acme")

    def tenants() -> set[str]:
        attributes = [each for span in otlp.spans for each in span.attributes]
        return {each.value.string_value for each in attributes if each.key == "slo.tenant"}

    assert "acme" in wait_until(tenants, what="the span")


@pytest.mark.parametrize(("key", "name", "asks"), [("sk-small", "2 requests", 2), ("sk-few", "30 tokens", 1)])
def test_a_used_up_quota_says_when_to_come_back(url: str, key: str, name: str, asks: int) -> None:
    for _ in range(asks):
        _ask(url, key, tokens=40)
    with pytest.raises(openai.RateLimitError, match=f"{name} a minute") as caught:
        _ask(url, key)
    assert caught.value.code == "rate_limit_exceeded"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60
    _ask(url, "sk-acme")
