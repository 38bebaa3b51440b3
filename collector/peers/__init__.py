"""Traces shared out among collectors by their id, so that each is assembled by one of them."""

from .peers import Peers

__all__ = ["Peers"]
