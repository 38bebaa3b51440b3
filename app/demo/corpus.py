"""Real text that is on every machine: names, summaries and READMEs of the installed Python packages, in passages."""

import re
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata

import bm25s

PASSAGE_WORDS = 60
#: Enough passages of each README to be worth a search, few enough that the index is built in about a second.
PASSAGES_A_PACKAGE = 40
_TOKEN = re.compile(r"[a-z0-9]+")
_MARKUP = re.compile(r"<[^>]+>|!?\[([^\]]*)\]\([^)]*\)|https?://\S+|[`*#|=\-_~]{2,}")


@dataclass(frozen=True)
class Passage:
    """A piece of one package's text."""

    package: str
    text: str


def tokens(text: str) -> list[str]:
    """Return the lower-case words and numbers of `text`."""
    return _TOKEN.findall(text.lower())


class Corpus:
    """The passages and their BM25 index."""

    def __init__(self) -> None:
        self.packages = {found.name: found for found in metadata.distributions() if found.name}
        self.passages = [passage for name in sorted(self.packages) for passage in _passages(self.packages[name])]
        self._index = bm25s.BM25()
        self._index.index(
            [tokens(f"{passage.package} {passage.text}") for passage in self.passages], show_progress=False
        )

    def search(self, question: str, *, k: int = 3) -> list[Passage]:
        """Return the `k` passages that match best, best first."""
        words = [word for word in tokens(question) if word in self._vocabulary]
        if not words:
            return []
        found, _ = self._index.retrieve([words], k=min(k, len(self.passages)), show_progress=False)
        return [self.passages[number] for number in found[0]]

    @cached_property
    def _vocabulary(self) -> set[str]:
        return set(self._index.vocab_dict)

    def dependents(self, package: str) -> list[str]:
        """Return the installed packages that require `package`, sorted."""
        wanted = package.lower()
        return sorted(
            name
            for name, found in self.packages.items()
            if any(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0].lower() == wanted for line in found.requires or ())
        )

    def facts(self, package: str) -> dict[str, str]:
        """Return version, licence and summary of `package`; empty for one that is not installed."""
        found = self.packages.get(package)
        if found is None:
            return {}
        about = found.metadata.json
        licence = str(about.get("license_expression") or about.get("license") or "not stated")
        summary = str(about.get("summary") or "")
        return {"version": found.version, "licence": licence.splitlines()[0][:60], "summary": summary}


def _passages(found: metadata.Distribution) -> list[Passage]:
    about = found.metadata.json
    body = str(about.get("description") or "")
    plain = _MARKUP.sub(r" \1 ", body)
    words = f"{about.get('summary') or ''}. {plain}".split()
    pieces = [" ".join(words[at : at + PASSAGE_WORDS]) for at in range(0, len(words), PASSAGE_WORDS)]
    return [Passage(found.name, piece) for piece in pieces[:PASSAGES_A_PACKAGE]]
