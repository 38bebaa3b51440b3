"""Labelled token-rate series from real parts, the detectors that compete on them, and how they are judged."""
