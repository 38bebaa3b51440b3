"""A model call is current while its answer is awaited."""

from types import TracebackType

from ..calls import ModelCall
from ..guard import Guard
from ..spans import Activation

guard = Guard("model SDK")


class Inside:
    """Context manager around what makes a call; an error ends the call, unless its stream takes note of that."""

    __slots__ = ("_activation", "_call", "_ends")

    def __init__(self, call: ModelCall, *, ends: bool = True) -> None:
        self._call = call
        self._ends = ends
        self._activation: Activation | None = None

    def __enter__(self) -> None:
        try:
            self._activation = self._call.activate()
        except Exception as error:
            if not guard.swallow(error):
                raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._activation:
                self._activation.restore()
            if error is not None and self._ends:
                self._call.fail(error)
        except Exception as failure:
            if not guard.swallow(failure):
                raise
