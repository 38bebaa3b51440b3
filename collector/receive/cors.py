"""Which pages of a browser may send: none, unless their origin is listed."""

from collections.abc import Mapping
from typing import Final

ANY: Final = "*"
MAX_AGE_S: Final = 7200  # browsers ask no less often than every two hours


class Cors:
    """`origins` as a browser writes them, `https://app.example`; `*` is any."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)

    def headers(self, origin: str) -> dict[str, str]:
        """Return what an answer to that origin carries: empty for one that is not listed."""
        if not self._origins:
            return {}
        if ANY in self._origins:
            return {"access-control-allow-origin": ANY}
        if origin.lower() not in self._origins:
            return {"vary": "Origin"}
        return {"access-control-allow-origin": origin, "vary": "Origin"}

    def preflight(self, fields: Mapping[bytes, bytes]) -> dict[str, str]:
        """Return the headers that allow what a browser asks for before it sends; empty when it may not send."""
        allowed = self.headers(fields.get(b"origin", b"").decode("latin-1"))
        if "access-control-allow-origin" not in allowed:
            return {}
        wanted = fields.get(b"access-control-request-headers", b"content-type").decode("latin-1")
        return {
            **allowed,
            "access-control-allow-methods": "POST",
            "access-control-allow-headers": wanted,
            "access-control-max-age": str(MAX_AGE_S),
        }
