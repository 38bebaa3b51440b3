"""What becomes of content: dropped, hashed, cut short or kept; and of who the users are.

A hash is keyed: anybody can hash all short prompts, e-mail addresses or card numbers and compare. The key is in a file
of the operator's, never in the data folder, where SQL and copies would tell it; without a file it is made at each start
and forgotten at its end, so that equal prompts are known as equal within one run alone.

Each treatment leaves what it gave as it is: what is read back from the journal is treated again.
"""

import re
import secrets
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Final, Literal, get_args

from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from tailbudget.instrument.errors import UserError

from .redact import redact
from .values import json_text, plain

Mode = Literal["drop", "hash", "truncate", "keep"]

KEY_BYTES: Final = 16
DIGEST_BYTES: Final = 8
HASHED: Final = re.compile(r"(?:hash|user):[0-9a-f]{16}")
#: The last character of what was cut.
CUT: Final = "…"
#: Attributes that say who the user is; the first is the conventions'.
USER_KEYS: Final = ("user.id", "enduser.id", "langfuse.user.id", "ai.telemetry.metadata.userId")


@dataclass(frozen=True, slots=True)
class Content:
    """The rule for content, and whether users' ids are hashed and stand in for the tenant."""

    mode: Mode = "drop"
    chars: int = 0  # of `truncate`
    tenant_from_user: bool = False
    key: bytes = field(default=b"", repr=False)

    @classmethod
    def parse(cls, text: str, *, key: str | None = None, tenant_from_user: bool = False) -> "Content":
        """Return the rule that `drop`, `hash`, `truncate:200` or `keep` names. Raises UserError."""
        mode, colon, number = text.partition(":")
        chars = int(number) if number.isdecimal() and len(number) < 8 else 0
        if mode not in get_args(Mode) or bool(colon) != (mode == "truncate") or (colon and chars < 1):
            raise UserError(f"content is {text!r}: expected drop, hash, truncate:N with N characters, or keep")
        if tenant_from_user and key is None:
            raise UserError(
                "tenants from users' ids need a key that stays the same: name its file with --key-file "
                "(`openssl rand -hex 32 > FILE`, outside of --data)"
            )
        secret = blake2b(key.encode(), digest_size=DIGEST_BYTES * 4).digest() if key else secrets.token_bytes(KEY_BYTES)
        return cls(mode, chars, tenant_from_user, secret)  # type: ignore[arg-type]

    def text(self, text: str) -> str:
        """Return what stays of a text that is content, in every mode but `drop`."""
        if self.mode == "hash":
            return text if HASHED.fullmatch(text) else f"hash:{self._digest(text)}"
        text = redact(text)
        if self.mode == "truncate" and len(text) > self.chars:
            return text[: self.chars - 1] + CUT
        return text

    def value(self, value: AnyValue) -> None:
        """Treat a value in place; lists and maps become JSON text, but where everything is kept."""
        match value.WhichOneof("value"):
            case "string_value":
                given = value.string_value
                if (treated := self.text(given)) != given:
                    value.string_value = treated
            case "array_value" if self.mode == "keep":
                for item in value.array_value.values:
                    self.value(item)
            case "kvlist_value" if self.mode == "keep":
                for pair in value.kvlist_value.values:
                    self.value(pair.value)
            case "array_value" | "kvlist_value" | "bytes_value" as kind if self.mode != "keep":
                given = plain(value)
                value.string_value = self.text(given if kind == "bytes_value" else json_text(given))
            case kind if kind is not None and self.mode == "hash":
                value.string_value = self.text(json_text(plain(value)))

    def user(self, user: str) -> str:
        """Return what stands for a user."""
        return user if HASHED.fullmatch(user) else f"user:{self._digest(user)}"

    def _digest(self, text: str) -> str:
        return blake2b(text.encode(), digest_size=DIGEST_BYTES, key=self.key).hexdigest()


DROP: Final = Content()
#: What was journaled is treated already: no content is dropped from it, no text changed.
AS_JOURNALED: Final = Content("keep")


def read_key(file: Path, *, data: Path) -> str:
    """Return the key in the file. Raises UserError for one that is too short, or that lies in `data`."""
    if data.resolve() in file.resolve().parents:
        raise UserError(f"the key's file {file} lies in the data folder {data}: keep it elsewhere")
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the key's file {file} cannot be read ({error})") from error
    if len(key) < KEY_BYTES:
        raise UserError(
            f"the key in {file} has {len(key)} characters, at least {KEY_BYTES} are needed: `openssl rand -hex 32`"
        )
    return key
