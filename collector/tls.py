"""The certificate that the OTLP ports show."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from tailbudget.instrument.errors import UserError


@dataclass(frozen=True, slots=True)
class Tls:
    """A certificate chain and its key, both PEM files."""

    certificate: Path
    key: Path

    def check(self) -> None:
        """Raise UserError, naming both files, when a server cannot use them."""
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self.key, password=_no_password)
        except (OSError, ssl.SSLError, ValueError) as error:
            raise UserError(
                f"--tls-cert {str(self.certificate)!r} and --tls-key {str(self.key)!r} cannot be used ({error}): "
                "expected a PEM certificate chain and its PEM key without a password"
            ) from error


def _no_password() -> str:
    raise ValueError("the key wants a password")
