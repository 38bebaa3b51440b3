"""What is acknowledged is on disk; what is torn is cut; what is full refuses."""

import fcntl
import gzip
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tailbudget.collector.journal import writer
from tailbudget.collector.journal.record import HEADER, MAGIC, Record, path_of, read, segments
from tailbudget.collector.journal.recover import recover
from tailbudget.collector.journal.writer import Journal, JournalRefusedError, Limits, Position

LIMITS = Limits(journal_bytes=1_000_000, segment_bytes=300, free_bytes=0)
NOTHING = Position(0, 0)


def record(number: int, payload: bytes = b"x" * 50) -> Record:
    return Record(
        signal="traces", encoding="identity", digest=number.to_bytes(16, "big"), arrived_ns=number, payload=payload
    )


class Written:
    """Appends and waits for the answers."""

    def __init__(self, folder: Path, *, segment: int = 1, limits: Limits = LIMITS) -> None:
        folder.mkdir(exist_ok=True)
        self.journal = Journal(folder, segment=segment, limits=limits)
        self.journal.start()

    def append(self, *records: Record) -> list[tuple[Position, Position] | JournalRefusedError]:
        answers: list[tuple[Position, Position] | JournalRefusedError] = []
        done = threading.Semaphore(0)

        def keep(answer: tuple[Position, Position] | JournalRefusedError) -> None:
            answers.append(answer)
            done.release()

        for item in records:
            self.journal.append(item, written=lambda start, end: keep((start, end)), refused=keep)
        for _ in records:
            assert done.acquire(timeout=120)
        return answers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def written(folder: Path) -> Iterator[Written]:
    found = Written(folder)
    yield found
    found.journal.close()


def test_records_come_back_as_they_were_over_segments(written: Written, folder: Path) -> None:
    records = [record(number, bytes([number]) * 90) for number in range(1, 11)]
    for one in records:
        (answer,) = written.append(one)
        assert not isinstance(answer, JournalRefusedError)
    assert len(segments(folder)) > 2
    left = recover(folder, landed=NOTHING).records
    assert [read(path_of(folder, one.start.segment), start=one.start.offset) for one in left] == records


def test_a_gzip_body_is_unpacked_when_read() -> None:
    packed = Record(signal="metrics", encoding="gzip", digest=bytes(16), arrived_ns=1, payload=gzip.compress(b"body"))
    assert packed.body() == b"body"


@pytest.mark.parametrize("cut", [1, HEADER.size - 1, HEADER.size, HEADER.size + 10, HEADER.size + 49])
def test_a_torn_tail_is_cut_and_what_stands_before_it_lands(written: Written, folder: Path, cut: int) -> None:
    written.append(record(1), record(2), record(3))
    path = path_of(folder, 1)
    with path.open("r+b") as file:
        file.truncate(len(MAGIC) + 2 * SIZE + cut)
    recovered = recover(folder, landed=NOTHING)
    assert [one.digest[-1] for one in recovered.records] == [1, 2]
    assert path.stat().st_size == len(MAGIC) + 2 * SIZE
    assert (recovered.damaged, list(folder.glob("*.damaged"))) == (0, [])
    assert recovered.next_segment == 2


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


SIZE = HEADER.size + 50


@pytest.mark.parametrize(
    ("at", "left"),
    [
        (3, [1, 2, 3]),  # in the magic line
        (len(MAGIC) + SIZE + HEADER.size + 3, [1, 3]),  # in the payload of the second
        (len(MAGIC) + SIZE + 12, [1, 3]),  # in its digest
        (len(MAGIC) + 2 * SIZE + 60, [1, 2]),  # in the payload of the last
    ],
)
def test_a_flipped_bit_loses_its_record_alone(written: Written, folder: Path, at: int, left: list[int]) -> None:
    written.append(record(1), record(2), record(3))
    flip(path_of(folder, 1), at)
    assert [one.digest[-1] for one in recover(folder, landed=NOTHING).records] == left


@pytest.mark.parametrize("bit", [0, 5, 7, 12, 17, 30, 31])
def test_a_flipped_bit_in_a_length_loses_its_record_alone(written: Written, folder: Path, bit: int) -> None:
    written.append(record(1), record(2, bytes(50)), record(3), record(4))
    path = path_of(folder, 1)
    content = bytearray(path.read_bytes())
    content[len(MAGIC) + SIZE + 4 + bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    recovered = recover(folder, landed=NOTHING)
    assert [one.digest[-1] for one in recovered.records] == [1, 3, 4]
    assert recovered.damaged == 1


def test_a_damaged_stretch_of_many_records_costs_these_alone(written: Written, folder: Path) -> None:
    written.append(*(record(number, b"y" * 3000) for number in range(1, 7)))
    path = path_of(folder, 1)
    content = bytearray(path.read_bytes())
    size = HEADER.size + 3000
    content[len(MAGIC) + size + 20 : len(MAGIC) + 3 * size + 20] = bytes(2 * size)
    path.write_bytes(content)
    assert [one.digest[-1] for one in recover(folder, landed=NOTHING).records] == [1, 5, 6]


def test_a_damaged_record_is_reported_and_its_segment_kept(
    written: Written, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written.append(record(1), record(2), record(3))
    path = path_of(folder, 1)
    flip(path, len(MAGIC) + SIZE + HEADER.size + 3)
    content = path.read_bytes()
    assert recover(folder, landed=NOTHING).damaged == 1
    assert path.with_name(f"{path.name}.damaged").read_bytes() == content
    assert f"{SIZE} acknowledged bytes are damaged" in caplog.text


def test_an_absurd_length_is_no_record(written: Written, folder: Path) -> None:
    written.append(record(1))
    with path_of(folder, 1).open("ab") as file:
        file.write(HEADER.pack(1, 2**32 - 1, 0, 0, bytes(16), 0, 0) + b"x" * 20)
    assert len(recover(folder, landed=NOTHING).records) == 1


def test_what_landed_is_not_given_back_and_its_segments_go(written: Written, folder: Path) -> None:
    ends = []
    for number in range(8):
        ((_, end),) = (answer for answer in written.append(record(number)) if isinstance(answer, tuple))
        ends.append(end)
    assert written.journal.unlanded_bytes == 8 * (HEADER.size + 50)
    written.journal.landed(ends[5], nbytes=6 * (HEADER.size + 50))
    assert written.journal.unlanded_bytes == 2 * (HEADER.size + 50)
    assert min(segments(folder)) == ends[5].segment
    assert [one.digest[-1] for one in recover(folder, landed=ends[5]).records] == [6, 7]


def test_a_full_journal_refuses_and_takes_again_once_something_landed(folder: Path) -> None:
    limits = Limits(journal_bytes=200, segment_bytes=1000, free_bytes=0)
    written = Written(folder, limits=limits)
    first, second = written.append(record(1))[0], written.append(record(2))[0]
    assert isinstance(first, tuple)
    assert isinstance(second, tuple)
    assert isinstance(written.append(record(3))[0], JournalRefusedError)
    written.journal.landed(first[1], nbytes=HEADER.size + 50)
    assert isinstance(written.append(record(3))[0], tuple)
    written.journal.close()
    assert [one.digest[-1] for one in recover(folder, landed=first[1]).records] == [2, 3]


def test_a_disk_with_too_little_free_refuses(folder: Path) -> None:
    written = Written(folder, limits=Limits(journal_bytes=10**9, segment_bytes=1000, free_bytes=2**62))
    assert "free" in str(written.append(record(1))[0])
    written.journal.close()


def test_a_file_that_cannot_be_written_refuses_and_the_next_goes_to_another(written: Written, folder: Path) -> None:
    path_of(folder, 1).mkdir()
    (answer,) = written.append(record(1))
    assert isinstance(answer, JournalRefusedError)
    path_of(folder, 1).rmdir()
    assert isinstance(written.append(record(2))[0], tuple)


def test_a_closed_journal_refuses(folder: Path) -> None:
    written = Written(folder)
    written.journal.close()
    assert isinstance(written.append(record(1))[0], JournalRefusedError)


def test_many_writers_share_their_syncs_and_keep_their_order(written: Written, folder: Path) -> None:
    answers = written.append(*(record(number) for number in range(200)))
    assert all(isinstance(answer, tuple) for answer in answers)
    digests = [int.from_bytes(one.digest, "big") for one in recover(folder, landed=NOTHING).records]
    assert digests == list(range(200))


def test_a_write_is_on_the_disk_before_it_returns(written: Written) -> None:
    written.append(record(1))
    file = written.journal._file
    assert file is not None
    assert fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DSYNC == os.O_DSYNC


def test_the_disk_is_looked_at_before_each_write_unless_much_is_free(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    spare = 10 * writer.PLENTY_BYTES

    def disk(_: object) -> SimpleNamespace:
        looked.append(spare)
        return SimpleNamespace(f_bavail=spare, f_frsize=1)

    monkeypatch.setattr(os, "statvfs", disk)
    monkeypatch.setattr(writer, "LOOK_EVERY_S", 3600.0)
    written = Written(folder, limits=Limits(journal_bytes=10**9, segment_bytes=1000, free_bytes=1000))
    for number in range(5):
        assert isinstance(written.append(record(number))[0], tuple)
    assert len(looked) == 1
    written.journal._look_at_s = 0.0  # a second later
    spare = writer.PLENTY_BYTES
    assert isinstance(written.append(record(5))[0], tuple)
    spare = 999
    for number in (6, 7):
        assert isinstance(written.append(record(number))[0], JournalRefusedError)
    spare = writer.PLENTY_BYTES
    assert isinstance(written.append(record(8))[0], tuple)
    assert len(looked) == 5
    written.journal.close()
