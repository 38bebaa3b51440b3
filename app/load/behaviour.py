"""How a client behaves: whether it stays for the answer, how fast it reads, how often it comes back after a 429."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One client's ways; `share` of the requests are sent by a client like this.

    It leaves `leaves_after_s` after sending, or after `leaves_after_chunks` parts of the answer; it takes `reads_s`
    over each part; refused with 429 or 503 it comes back up to `retries` times, after what Retry-After says.
    """

    share: float = 1.0
    leaves_after_s: float | None = None
    leaves_after_chunks: int | None = None
    reads_s: float = 0.0
    retries: int = 0
    #: Its prompts are so many times as long.
    longer: float = 1.0
    #: Its requests carry this tenant, and come in bursts of so many at once.
    tenant: str = ""
    burst: int = 1
    #: A fault that its requests ask the service for, as in `retrieval=slow:800`.
    fault: str = ""

    @property
    def leaves(self) -> bool:
        """Whether it goes before the end."""
        return self.leaves_after_s is not None or self.leaves_after_chunks is not None


PATIENT: Final = Behaviour()
