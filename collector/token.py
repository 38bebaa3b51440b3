"""The token that senders and readers bear, where the collector has one."""

import hmac
from collections.abc import Mapping
from pathlib import Path

from tailbudget.instrument.errors import UserError


def bears(fields: Mapping[bytes, bytes], token: str | None) -> bool:
    """Return whether the request's headers carry the token, or there is none; takes as long whatever they carry."""
    if token is None:
        return True
    scheme, _, given = fields.get(b"authorization", b"").partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token.encode())


def read_token(file: Path, *, data: Path | None = None) -> str:
    """Return the token in the file's first line. Raises UserError for a file that has none or that lies in `data`.

    What is in the data folder is read by SQL, copied and sent around.
    """
    if data is not None and data.resolve() in file.resolve().parents:
        raise UserError(f"the token's file {file} lies in the data folder {data}: keep it elsewhere")
    try:
        token = file.read_text(encoding="utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the token's file {file} cannot be read ({error}): expected one line of text") from error
    if not token:
        raise UserError(f"the token's file {file} is empty: expected one line, such as `openssl rand -hex 32` writes")
    return token
