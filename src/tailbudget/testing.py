"""For the tests of services: `recording` keeps in memory what they emit, with fixed ids and, if wanted, clock."""

from tailbudget.instrument.testing import Clock, Over, RecordedEvent, RecordedSpan, Recording, recording

__all__ = ["Clock", "Over", "RecordedEvent", "RecordedSpan", "Recording", "recording"]
