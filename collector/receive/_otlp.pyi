"""What the extension in `csrc/` offers; it is absent where no compiler was."""

Names = tuple[bytes, ...]
LAYOUT: int

def rules(
    keys: Names,
    key_prefixes: Names,
    kept_keys: Names,
    events: Names,
    event_prefixes: Names,
    promoted: Names,
    seed: int,
    plus: bool,
    /,
) -> object: ...
def survey(signal: int, body: bytes, /) -> list[bytes] | None: ...
def decode(
    signal: int, body: bytes, rules: object, resources: list[tuple[int, bytes | None, bytes | None]], /
) -> tuple[object, list[tuple[int, int]], list[int], int, list[tuple[int, ...]], bytes | None] | None: ...
