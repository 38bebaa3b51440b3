"""Pages of the KV cache: who holds them, which tokens they already contain, which go first when room is needed."""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from heapq import heappop, heappush

#: Tokens of a page on each kind of device: FlashAttention's paged kernels want a multiple of 256.
PAGE_TOKENS = {"cpu": 16, "cuda": 256}
#: Share of all pages that is given up at once when none is free, so that free pages lie side by side; and that comes
#: free before free stretches are looked for anew.
GIVEN_UP_SHARE = 16


class Pages:
    """Reference-counted pages of equal size; pure bookkeeping, the tensors are elsewhere.

    A page is free, held by one or more sequences, or idle: held by none, but kept because its tokens may come again.
    Idle pages are given up in the order in which they were last used.
    """

    def __init__(self, count: int, *, size: int = 16) -> None:
        self.count, self.size = count, size
        self._holders = [0] * count
        self._taken = bytearray(count)
        self._free = count
        self._page_of: dict[bytes, int] = {}
        self._content: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        #: Longest first: (-pages, start, end) of stretches that were free, or not looked at.
        self._stretches: list[tuple[int, int, int]] = []
        self._came_free = 0

    @property
    def available(self) -> int:
        """Pages that can be had: the free and the idle ones."""
        return self._free + len(self._idle)

    @property
    def held(self) -> int:
        """Pages that some sequence holds."""
        return self.count - self.available

    def needed(self, tokens: int) -> int:
        """Return how many pages so many tokens fill."""
        return -(-tokens // self.size)

    def chain(self, tokens: Sequence[int], known: list[bytes], *, whose: str = "") -> None:
        """Extend `known`, one digest for each full page of `tokens`; a digest stands for all tokens up to its end.

        Chains that are somebody's own have no digest in common with others'.
        """
        for start in range(len(known) * self.size, len(tokens) - self.size + 1, self.size):
            content = array("q", tokens[start : start + self.size]).tobytes()
            before = known[-1] if known else blake2b(whose.encode(), digest_size=16).digest()
            known.append(blake2b(content, key=before, digest_size=16).digest())

    def find(self, chain: Sequence[bytes]) -> list[int]:
        """Return the pages that hold the longest known beginning of a chain."""
        found: list[int] = []
        for digest in chain:
            if digest not in self._page_of:
                break
            found.append(self._page_of[digest])
        return found

    def suffice(self, found: Sequence[int], more: int) -> bool:
        """Return whether `more` pages can be had beside the `found` ones: an idle one cannot be both."""
        return more <= self.available - sum(page in self._idle for page in found)

    def hold(self, found: Sequence[int]) -> None:
        """Add a holder to pages that `find` returned."""
        for page in found:
            self._holders[page] += 1
            self._idle.pop(page, None)

    def extend(self, table: list[int], count: int) -> None:
        """Append `count` pages to a sequence's table, next to its last page where they are free.

        Attention reads neighbouring pages in place and must copy others together. RuntimeError when too few are left.
        """
        if count > self.available:
            raise RuntimeError(f"{count} pages are needed and {self.available} can be had: ask `suffice` first")
        if self._free < count:
            self._give_up(max(count - self._free, self.count // GIVEN_UP_SHARE))
        while count:
            page = table[-1] + 1 if table else self.count
            if page >= self.count or self._taken[page]:
                page = self._start(count)
            self._taken[page] = 1
            self._free -= 1
            self._holders[page] = 1
            table.append(page)
            count -= 1

    def publish(self, page: int, digest: bytes) -> None:
        """Make a full page findable, unless another one already holds the same."""
        if digest not in self._page_of and page not in self._content:
            self._page_of[digest] = page
            self._content[page] = digest

    def release(self, table: list[int]) -> None:
        """Let go of a sequence's pages and empty its table. The end of a text goes before its beginning."""
        while table:
            page = table.pop()
            self._holders[page] -= 1
            if self._holders[page]:
                continue
            if page in self._content:
                self._idle[page] = None
            else:
                self._set_free(page)

    def _give_up(self, count: int) -> None:
        for _ in range(min(count, len(self._idle))):
            page, _none = self._idle.popitem(last=False)
            del self._page_of[self._content.pop(page)]
            self._set_free(page)

    def _set_free(self, page: int) -> None:
        self._taken[page] = 0
        self._free += 1
        self._came_free += 1

    def _start(self, count: int) -> int:
        """Return where `count` new pages begin: in the longest free stretch, with room before and after to grow.

        Looking at every page each time took 0.12 ms in a cache of 65,536; stretches are remembered instead, and those
        that came free since are seen once they are enough to matter.
        """
        if self._came_free > self.count // GIVEN_UP_SHARE:
            self._stretches = []
        while True:
            if not self._stretches:
                self._remember(0, self.count)
                self._came_free = 0
            _, start, end = heappop(self._stretches)
            first = self._taken.find(0, start, end)
            if first < 0:
                continue
            taken = self._taken.find(1, first, end)
            last = end if taken < 0 else taken
            if (first, last) == (start, end):
                page = start + max(0, end - start - count) // 2 if start else 0
                self._remember(start, page)
                self._remember(min(page + count, end), end)
                return page
            self._remember(first, last)
            self._remember(last, end)

    def _remember(self, start: int, end: int) -> None:
        if start < end:
            heappush(self._stretches, (start - end, start, end))


def pages_for(context: int, *, running: int, asked: int, device: str) -> Pages:
    """Return the pages of a cache of `asked` times 16 tokens; of 0, as many as `running` whole contexts need."""
    size = PAGE_TOKENS[device]
    return Pages(-(-asked * 16 // size) or running * -(-context // size), size=size)
