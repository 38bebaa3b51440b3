"""What guards raise when they refuse, as one tree: RefusedError, and below it one class a reason."""


class RefusedError(Exception):
    """A guard refused work that it could not serve in time; `retry_after_s` is when to try again, where it knows.

    RefusedError
      CircuitOpenError   what is called keeps failing
      LimitReachedError  as much as the adaptive limit allows is in flight
      QueueFullError     the queue is full, or the wait would be longer than allowed
      ShedError          load is shed, this priority first
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class CircuitOpenError(RefusedError):
    """The circuit is open: what is called kept failing."""


class LimitReachedError(RefusedError):
    """The adaptive limit is reached."""


class QueueFullError(RefusedError):
    """The queue has no place, or waiting would take too long."""


class ShedError(RefusedError):
    """The load shedder sends this priority away."""
