"""Bounds what bodies on the way in hold together, in number and in bytes."""

from collections.abc import Iterator
from contextlib import contextmanager


class BusyError(Exception):
    """As many bodies are on the way in as may be: sending this one again later may work."""


class Room:
    """Used on one event loop. `bodies` are taken at once at most, and all of them hold at most `nbytes`."""

    def __init__(self, *, bodies: int, nbytes: int) -> None:
        self._bodies = bodies
        self._nbytes = nbytes
        self._held = 0
        self._inside = 0

    @contextmanager
    def hold(self) -> Iterator["Hold"]:
        """Give a hold whose bytes are given back at the end."""
        hold = Hold(self)
        try:
            yield hold
        finally:
            self._held -= hold.nbytes

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Count one body for as long as it is taken. Raises BusyError."""
        if self._inside >= self._bodies:
            raise BusyError(f"{self._inside} bodies are being taken already")
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def take(self, nbytes: int, *, mine: int) -> None:
        """Count bytes. Raises BusyError when others hold too much: alone, any body that is allowed finds room."""
        if self._held + nbytes > self._nbytes and self._held > mine:
            raise BusyError(f"bodies that are being taken hold {self._held} bytes already")
        self._held += nbytes


class Hold:
    """The bytes of one body: as they come in, unpacked, turned into protobuf."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.nbytes = 0

    def take(self, nbytes: int) -> None:
        """Hold so many bytes more. Raises BusyError."""
        self._room.take(nbytes, mine=self.nbytes)
        self.nbytes += nbytes
