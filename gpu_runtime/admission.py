"""Refuses requests that would find no place, or none before their deadline, from how long the last ones were served."""

from dataclasses import dataclass

from .scheduler import Generation

#: Weight of the newest request in the mean time of being served: the last ten count for two thirds.
SERVED_SHARE = 0.1


@dataclass(frozen=True)
class Refusal:
    """Why a request is not taken, and when to come again."""

    message: str
    retry_s: float


class Admission:
    """Knows `slots` requests run and `places` more may wait; times are those of the generations' own clock."""

    def __init__(self, *, slots: int, places: int) -> None:
        self._slots, self._places = slots, places
        self._served_s = 0.0
        #: Refused requests by why: `max_num_queued_reqs` (vLLM's name for no place) or `deadline`.
        self.refused = dict.fromkeys(("max_num_queued_reqs", "deadline"), 0)

    def wait_s(self, ahead: int) -> float:
        """Return how long a request would wait for its turn behind `ahead` others, running and waiting."""
        return max(0, ahead - self._slots + 1) * self._served_s / self._slots

    def refusal(self, generation: Generation, *, ahead: int, now_ns: int) -> Refusal | None:
        """Return why a request, with its siblings, is refused behind `ahead` others, None where it may wait."""
        # Requests for which a slot is free count as running: they are only not admitted yet.
        if ahead + max(1, len(generation.siblings)) > self._slots + self._places:
            message = f"this server runs {self._slots} requests and queues {self._places}: all places are taken"
            self.refused["max_num_queued_reqs"] += 1
            return Refusal(message, self._served_s / self._slots)
        if generation.deadline_ns is not None:
            wait_s, left_s = self.wait_s(ahead), (generation.deadline_ns - now_ns) / 1e9
            if wait_s and wait_s > left_s:
                message = f"the wait would be about {wait_s:.1f} s and the deadline is in {max(0.0, left_s):.1f} s"
                self.refused["deadline"] += 1
                return Refusal(message, wait_s - left_s)
        return None

    def served(self, generation: Generation) -> None:
        """Learn from a generation that is over, if it was served to its end."""
        if generation.end == "complete" and generation.prefill_ns is not None and generation.ended_ns is not None:
            served_s = (generation.ended_ns - generation.prefill_ns) / 1e9
            self._served_s += SERVED_SHARE * (served_s - self._served_s) if self._served_s else served_s
