"""Questions about stored requests: SQL files behind small functions that take a `Reader`."""
