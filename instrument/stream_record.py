"""What is measured of one streamed model call, chunk by chunk, and how it becomes the attributes of the call's span."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from opentelemetry.trace import Span, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from . import call_metrics
from .budget import OverBudgetError
from .caps import RanOut, caps_around, cut_short
from .chunks import ChunkReader, Reported, read_chat, reader_for
from .clocks import Clocks
from .gaps import MAX_GAPS, Gaps
from .guard import Guard
from .metering import DecodeMeter
from .request import RequestState
from .spans import ERROR_TYPE, put, record_error
from .vocabulary import (
    S_PER_NS,
    STREAM_CHUNKS,
    STREAM_CONSUMER_TIME,
    STREAM_END,
    STREAM_GAPS,
    STREAM_MAX_GAP,
    STREAM_STALL_TIME,
    STREAM_STALLS,
    TIME_TO_FINAL,
    TIME_TO_FIRST_CHUNK,
    TIME_TO_FIRST_TOKEN,
    StreamEnd,
)
from .work import Flow

#: A first answer is usable at its first sentence end, or after so many tokens (chunks, where tokens are not known).
USABLE_CHUNKS = 20
#: A full stop counts once something follows it, so that "3.14" and "e.g" do not; CJK marks and line ends at once.
SENTENCE_END = re.compile("[.!?\u2026][\"'\u201d\u2019)\\]]*\\s|[\u3002\uff01\uff1f]|\\S\\s*\\n")
#: Without any of these no sentence ends: looking for them is a tenth of looking for its end.
MARKS: Final = ".!?\u2026\u3002\uff01\uff1f\n"
SENTENCE_MARKS: Final = frozenset(MARKS)

#: Ends of a stream that nobody read to its end: a budget may be the reason.
UNFINISHED: Final = ("closed", "abandoned", "cancelled")
#: What our runtime calls a request that it ended at its deadline.
DEADLINE_CODE: Final = "deadline"

#: What servers name themselves and their answers by; of another kind it needs cleaning.
TEXT: Final = frozenset((str, type(None)))

guard = Guard("stream")


class StreamRecord(Clocks):
    """Clocks and counts of one stream; all clocks are `perf_counter_ns`.

    The wrapper sets `asked_ns` before it asks for a chunk and calls `see` with each chunk that it does not keep by
    itself. Clocks are kept, and reckoned with when there are many: that is what a chunk costs.
    """

    __slots__ = (
        "_caps", "_consumer_ns", "_first_chunk_ns", "_first_token_ns", "_gaps", "_marked", "_meter", "_others", "_read",
        "_reported", "_request", "_take", "_usable", "end_ns", "ended", "flows", "see", "span", "started_ns",
    )  # fmt: skip

    def __init__(
        self,
        span: Span,
        *,
        started_ns: int,
        request: RequestState | None = None,
        meter: DecodeMeter | None = None,
        text_of: ChunkReader | None = None,
        take: Callable[[Reported, Any], None] = Reported.take,
    ) -> None:
        super().__init__(MAX_GAPS, MARKS, USABLE_CHUNKS)
        self.span = span
        self.started_ns = started_ns
        self.end_ns = 0
        self.ended = False
        self.see: Callable[[Any, int], None] = self._see_first
        #: From here on a chunk with a token is kept, its text not looked at; a chat chunk by who reads the stream.
        self.flows = False
        self._request = request
        self._caps = caps_around()
        self._meter = meter
        self._read = text_of or _read_unknown
        self._reported = Reported()
        self._take = take
        self._gaps = Gaps()
        self._others = 0
        self._first_chunk_ns = 0
        self._first_token_ns = 0
        self._consumer_ns = 0
        self.text = ""
        self._marked = False
        self._usable = False
        if request:
            request.stream_opened(started_ns)

    @property
    def last_ns(self) -> int:
        """When the last chunk came, 0 before the first."""
        return max(self.last_kept_ns, self.seen_ns)

    def _see_first(self, chunk: Any, arrived_ns: int) -> None:
        self._first_chunk_ns = self.seen_ns = arrived_ns
        self.asked_ns = 0  # nobody sat on a chunk before it
        self.see = self._see_early
        if self._read is _read_unknown:
            with guard:
                self._read = reader_for(chunk)
        self._see_early(chunk, arrived_ns)

    def _see_early(self, chunk: Any, arrived_ns: int) -> None:
        """Read a chunk while the first token or the usable answer is still awaited."""
        try:
            before_ns = self.seen_ns
            text = self._see(chunk, arrived_ns)
            if text is None:
                return
            if not self._first_token_ns:
                self._begin(arrived_ns)
            if not text:
                return
            known = len(self.text)
            self.text += text
            self.text_chunks += 1
            if self._marked or not SENTENCE_MARKS.isdisjoint(text):
                self._marked = True
                self._look_for_end(known, before_ns, arrived_ns)
            if self.text_chunks >= USABLE_CHUNKS and not self._usable:
                self._hand_on_usable(arrived_ns, "tokens")
            self.early = not self._marked and not self._usable and self._read is read_chat
            if self._usable:
                self.text = ""
                self.see = self._see_steady
                self.flows = True
                self.plain = self._read is read_chat
        except Exception as error:
            if not guard.swallow(error):
                raise

    def _begin(self, first_token_ns: int) -> None:
        self._first_token_ns = first_token_ns
        if self._request:
            self._request.work.call_decodes(self.span, self)
        if self._meter:
            self._meter.watch(self)

    def _see_steady(self, chunk: Any, arrived_ns: int) -> None:
        """Read a chunk of an answer that flows."""
        try:
            self._see(chunk, arrived_ns)
        except Exception as error:
            if not guard.swallow(error):
                raise

    def _see(self, chunk: Any, arrived_ns: int) -> str | None:
        self.seen_ns = arrived_ns
        text = self._read(chunk)
        if text is None:
            self._consumer_ns += self.asked_ns - arrived_ns
            self._others += 1
            self._take(self._reported, chunk)
            return None
        self.keep(chunk, arrived_ns)
        return text

    def _fold(self) -> None:
        """Turn arrivals into gaps, so that an endless stream needs bounded memory."""
        arrivals, consumer_ns = self.drain()
        self._gaps.feed(arrivals)
        self._consumer_ns += consumer_ns

    def _look_for_end(self, known: int, before_ns: int, arrived_ns: int) -> None:
        end = SENTENCE_END.search(self.text)
        if end is not None:
            # The space that proves the sentence end often comes with the next chunk: then it ended with the one before.
            before = end.start() < known and end.group()[0] in ".!?\u2026"
            self._hand_on_usable(before_ns if before else arrived_ns, "sentence")

    def _hand_on_usable(self, usable_ns: int, source: str) -> None:
        self._usable = True
        if self._request:
            self._request.stream_usable(self.started_ns, usable_ns, source)

    def progress(self) -> tuple[int, int, int]:
        """Return tokens reported, chunks after the first token, nanoseconds since the first token.

        Time counts while the caller waits for a chunk, hung streams included, not while it sits on one at the end.
        """
        if not self._first_token_ns:
            return 0, 0, 0
        last_ns = self.last_ns
        until_ns = (self.end_ns or time.perf_counter_ns()) if self.asked_ns > last_ns else last_ns
        chunks = self._gaps.count + max(self.kept - 1, 0)
        tokens = (self._reported.output_tokens or 0) if self.ended else 0
        return tokens, chunks, until_ns - self._first_token_ns

    def silence_ns(self, now_ns: int) -> int:
        """Return how long the caller has waited for the next chunk since the last; 0 before the first token."""
        return now_ns - self.last_ns if self._first_token_ns and self.asked_ns > self.last_ns else 0

    def flow(self, now_ns: int) -> Flow | None:
        """Return how the stream goes, from any thread; None before its first token and after its end."""
        arrivals = self.arrivals.copy()  # a further one may come meanwhile
        if not self._first_token_ns or self.ended or not arrivals:
            return None
        silence_ns = self.silence_ns(now_ns)
        gaps = self._gaps.until(arrivals[-1] + silence_ns, arrivals)
        return Flow(
            model=self._meter.labels["model"] if self._meter else "",
            chunks=gaps.count,
            first_token_ns=self._first_token_ns,
            silence_ns=silence_ns,
            usual_gap_ns=gaps.usual_ns,
            stalls=gaps.stalls,
            stall_ns=gaps.stall_ns,
            stalled=silence_ns > gaps.stall_limit_ns,
        )

    def finish(self, end: StreamEnd, error: BaseException | None = None) -> None:
        """Write what was measured to the span and end it. Must be called once."""
        self.end_ns = time.perf_counter_ns()
        try:
            self._finish(end, error)
        except Exception as failure:
            if not guard.swallow(failure):
                raise

    def _finish(self, end: StreamEnd, error: BaseException | None) -> None:
        if self.last_chunk is not None:
            self._take(self._reported, self.last_chunk)
            self.last_chunk = None
        if end in ("closed", "abandoned") and self._reported.finish_reason:
            end = "complete"
        if end == "complete" and self._reported.failure:
            end = "error"
        end = ended_by_budget(end, error, self._request, self._caps)
        # Of each chunk when it was asked for, less when it came; the caller may have asked once more before the end.
        last_ns = self.last_ns
        self._consumer_ns += max(self.asked_ns, last_ns) if last_ns else 0
        self.ended = True
        self.flows = self.plain = self.early = False
        self.see = _see_nothing  # a bound method of the record in the record would be a cycle
        if self._meter and self._first_token_ns:
            self._meter.unwatch(self)
        self._fold()
        try:
            tell_reported(self.span, self._reported, self._attributes(end))
            if error is not None:
                record_error(self.span, error)
        finally:
            self.span.end()
            self._tell_request(end)
            self._tell_metrics(error)

    def _tell_request(self, end: StreamEnd) -> None:
        if self._request is None:
            return
        self._request.work.call_ended(self.span)  # which held this record, and the request holds the work
        last_ns = self.last_kept_ns or self.end_ns
        if end == "complete" and self.text_chunks and not self._usable:
            self._request.stream_usable(self.started_ns, last_ns, "final")
        final_ns = last_ns if end == "complete" else self.end_ns
        self._request.stream_closed(self.started_ns, self._first_token_ns or None, final_ns)

    def _tell_metrics(self, error: BaseException | None) -> None:
        chunks, first_ns = self._gaps.count, self._first_token_ns
        call_metrics.ended(
            self.span,
            reported=self._reported,
            error=error,
            first_chunk_s=(self._first_chunk_ns - self.started_ns) * S_PER_NS if self._first_chunk_ns else None,
            per_chunk_s=(self.last_kept_ns - first_ns) * S_PER_NS / chunks if chunks and first_ns else None,
        )

    def _attributes(self, end: StreamEnd) -> dict[str, AttributeValue]:
        gaps = self._gaps
        attributes: dict[str, AttributeValue] = {
            STREAM_END: end,
            STREAM_CHUNKS: gaps.count + self.kept + self._others,
            STREAM_CONSUMER_TIME: self._consumer_ns * S_PER_NS,
        }
        if self._first_chunk_ns:
            attributes[TIME_TO_FIRST_CHUNK] = (self._first_chunk_ns - self.started_ns) * S_PER_NS
        if self._first_token_ns:
            attributes[TIME_TO_FIRST_TOKEN] = (self._first_token_ns - self.started_ns) * S_PER_NS
            attributes[STREAM_MAX_GAP] = gaps.max_ns * S_PER_NS
            attributes[STREAM_STALLS] = gaps.stalls
            attributes[STREAM_STALL_TIME] = gaps.stall_ns * S_PER_NS
            attributes[STREAM_GAPS] = gaps.encode()
            if end == "complete" and self.kept:  # else the stream's end is its final moment, and the span's
                attributes[TIME_TO_FINAL] = (self.last_kept_ns - self.started_ns) * S_PER_NS
        return attributes


def _read_unknown(chunk: Any) -> str | None:
    """Stand in for the reader until the first chunk shows which one is needed."""
    return reader_for(chunk)(chunk)


def _see_nothing(chunk: Any, arrived_ns: int) -> None:
    """Let a chunk pass that came after the end."""


def tell_reported(
    span: Span, reported: Reported, measured: Mapping[str, AttributeValue] = MappingProxyType({})
) -> None:
    """Put on the span what was measured and what the model server said; what it did not say is absent, never 0."""
    said = dict(measured)
    if reported.response_id is not None:
        said["gen_ai.response.id"] = reported.response_id
    if reported.model is not None:
        said["gen_ai.response.model"] = reported.model
    if reported.finish_reason:
        said["gen_ai.response.finish_reasons"] = (str(reported.finish_reason),)
    if reported.input_tokens is not None:
        said["gen_ai.usage.input_tokens"] = reported.input_tokens
    if reported.output_tokens is not None:
        said["gen_ai.usage.output_tokens"] = reported.output_tokens
    if reported.cached_tokens is not None:
        said["gen_ai.usage.cache_read.input_tokens"] = reported.cached_tokens
    put(span, said, clean={type(reported.response_id), type(reported.model)} <= TEXT)
    if reported.failure:
        span.set_attribute(ERROR_TYPE, reported.failure)
        span.set_status(Status(StatusCode.ERROR))


def ended_by_budget(
    end: StreamEnd, error: BaseException | None, request: RequestState | None, caps: tuple[RanOut, ...]
) -> StreamEnd:
    """Return `deadline` where a budget that bites is why a call under these caps ended so, else `end`."""
    timed_out = error is not None and "timeout" in type(error).__name__.lower()  # every HTTP client has its own class
    return "deadline" if (end in UNFINISHED or timed_out) and cut_short(request, caps) else end


def end_of(error: BaseException) -> StreamEnd:
    """Return how a stream ended that raised this when it was asked for a chunk."""
    if isinstance(error, (StopIteration, StopAsyncIteration)):
        return "complete"
    if isinstance(error, GeneratorExit):
        return "closed"
    if isinstance(error, (asyncio.CancelledError, KeyboardInterrupt, SystemExit)):
        return "cancelled"
    # Not by getattr: aiohttp's errors have a `code` that warns whoever reads it.
    if isinstance(error, OverBudgetError) or vars(error).get("code") == DEADLINE_CODE:
        return "deadline"
    return "error"
