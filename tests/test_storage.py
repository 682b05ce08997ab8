import errno
import os
import resource
import signal
import subprocess
import sys
import zlib

import pytest

from thalweg.errors import BadInputError, DamagedFileError, DiskFullError, FolderError, ThalwegError
from thalweg.storage import (
    Journal,
    atomic_stream,
    locked,
    read_journal,
    read_json,
    set_aside,
    sums_in,
    write_json,
    write_text,
)

HOLDER = """
import sys
import zlib
from pathlib import Path
from thalweg.storage import locked
with locked(Path(sys.argv[1]), "run"):
    print("held", flush=True)
    sys.stdin.read()
"""


def torn(*chunks):
    """Chunks of a writer that breaks down before its end."""
    yield from chunks
    raise RuntimeError("the writer broke")


def fail_with(monkeypatch, number):
    def fsync(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.fixture
def old(tmp_path):
    """A file with content that must survive."""
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    return path


@pytest.fixture
def journal(tmp_path):
    opened = Journal(tmp_path / "journal.jsonl")
    yield opened
    opened.close()


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of ``tmp_path``."""
    arguments = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_stream_of_chunks_is_written_in_order(tmp_path):
    atomic_stream(tmp_path / "new", (bytes([number]) * 2 for number in (1, 2, 3)))
    assert (tmp_path / "new").read_bytes() == b"\1\1\2\2\3\3"


def test_folders_on_the_way_are_made(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "é")
    assert (tmp_path / "a" / "b" / "c.txt").read_text(encoding="utf-8") == "é"


def test_a_new_file_replaces_the_old_one(old):
    write_text(old, "new")
    assert old.read_bytes() == b"new"


def test_a_writer_that_breaks_midway_leaves_the_old_file(old):
    with pytest.raises(RuntimeError, match="the writer broke"):
        atomic_stream(old, torn(b"new", b"half"))
    assert old.read_bytes() == b"old"


def test_a_writer_that_breaks_midway_leaves_no_other_file(old):
    with pytest.raises(RuntimeError, match="the writer broke"):
        atomic_stream(old, torn(b"new"))
    assert os.listdir(old.parent) == [old.name]


def test_a_finished_writer_leaves_no_other_file(old):
    write_text(old, "new")
    assert os.listdir(old.parent) == [old.name]


def test_the_old_file_is_readable_until_the_new_one_is_whole(old):
    seen = []

    def chunks():
        yield b"new"
        seen.append(old.read_bytes())

    atomic_stream(old, chunks())
    assert seen == [b"old"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG], ids=errno.errorcode.get)
def test_a_full_disk_is_reported_with_the_path(old, monkeypatch, number):
    fail_with(monkeypatch, number)
    with pytest.raises(DiskFullError, match=rf"no space left to write {old}.*what was there before is untouched"):
        write_text(old, "new")


def test_a_full_disk_leaves_the_old_file_alone(old, monkeypatch):
    fail_with(monkeypatch, errno.ENOSPC)
    with pytest.raises(DiskFullError, match="no space left"):
        write_text(old, "new")
    assert {file.name: file.read_bytes() for file in old.parent.iterdir()} == {old.name: b"old"}


def test_another_failure_of_the_disk_is_reported_with_the_path(old, monkeypatch):
    fail_with(monkeypatch, errno.EIO)
    with pytest.raises(ThalwegError, match=f"cannot write {old}: {os.strerror(errno.EIO)}"):
        write_text(old, "new")


def test_a_file_in_the_place_of_a_folder_is_reported(old):
    with pytest.raises(BadInputError, match=rf"cannot use {old}/x: .*choose another path or fix its rights"):
        write_text(old / "x", "new")


def test_a_folder_in_the_place_of_a_file_is_reported(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(BadInputError, match=f"cannot use {tmp_path}/taken: Is a directory"):
        write_text(tmp_path / "taken", "new")


def test_json_survives_the_way_through_a_file(tmp_path):
    value = {"a": [1, 2.5, None, True], "b": {"c": "é"}}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_refuses_a_number_that_is_not_finite(old, number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(old, {"loss": number})


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe\x00", b"nonsense"])
def test_damaged_json_is_reported_with_the_path(old, content):
    old.write_bytes(content)
    with pytest.raises(DamagedFileError, match=f"damaged record {old}: .*remove it and run the same command again"):
        read_json(old)


def test_records_come_back_in_order(journal):
    for number in range(3):
        journal.append({"step": number})
    assert read_journal(journal.path) == [{"step": 0}, {"step": 1}, {"step": 2}]


def test_an_appended_record_is_in_the_file_at_once(journal):
    journal.append({"step": 1})
    assert journal.path.read_bytes() == b'{"step": 1}\n'


@pytest.mark.parametrize("kept", range(1, 12))
def test_a_torn_last_line_is_left_out(journal, kept):
    journal.append({"step": 1})
    journal.append({"step": 2})
    content = journal.path.read_bytes()
    journal.path.write_bytes(content[: len(content) // 2 + kept])
    assert read_journal(journal.path) == [{"step": 1}]


def test_an_empty_journal_has_no_records(journal):
    assert read_journal(journal.path) == []


def test_a_damaged_middle_line_is_reported_with_its_number(journal):
    journal.path.write_bytes(b'{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(DamagedFileError, match=f"damaged record {journal.path}, line 2: expected one JSON object"):
        read_journal(journal.path)


def test_bytes_that_are_no_text_are_reported_with_their_line(journal):
    journal.path.write_bytes(b"\xff\xfe\n{}\n")
    with pytest.raises(DamagedFileError, match="line 1: expected one JSON object"):
        read_journal(journal.path)


def test_a_line_that_is_no_object_is_reported(journal):
    journal.path.write_bytes(b"[1]\n{}\n")
    with pytest.raises(DamagedFileError, match="line 1: expected one JSON object"):
        read_journal(journal.path)


def test_the_offset_counts_the_bytes_in_the_file(journal):
    journal.append({"step": 1})
    assert journal.offset == journal.path.stat().st_size


def test_a_resumed_journal_forgets_what_came_after_the_offset(journal):
    journal.append({"step": 1})
    offset = journal.offset
    journal.append({"step": 2})
    resumed = Journal(journal.path, offset)
    resumed.append({"step": "again"})
    resumed.close()
    assert read_journal(journal.path) == [{"step": 1}, {"step": "again"}]


def test_a_new_journal_forgets_the_old_one(journal):
    journal.append({"step": 1})
    Journal(journal.path).close()
    assert read_journal(journal.path) == []


def test_a_journal_refuses_a_number_that_is_not_finite(journal):
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.append({"loss": float("nan")})


def test_a_refused_record_leaves_no_trace(journal):
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.append({"step": 1, "loss": float("inf")})
    journal.append({"step": 2})
    assert read_journal(journal.path) == [{"step": 2}]


def test_closing_twice_is_fine(journal):
    journal.close()
    journal.close()
    assert read_journal(journal.path) == []


def test_a_journal_that_meets_a_full_disk_says_so_and_keeps_its_records(journal):
    journal.append({"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(DiskFullError, match=f"no space left to write {journal.path}"):
            journal.append({"long": "x" * 8192})
        assert read_journal(journal.path) == [{"step": 1}]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_journal_whose_sync_fails_says_so(journal, monkeypatch):
    fail_with(monkeypatch, errno.ENOSPC)
    with pytest.raises(DiskFullError, match=f"no space left to write {journal.path}"):
        journal.sync()


def test_a_journal_in_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(BadInputError, match=r"cannot use .*gone/j: No such file or directory"):
        Journal(tmp_path / "gone" / "j")


def test_a_locked_folder_is_made(tmp_path):
    with locked(tmp_path / "a" / "b", "run"):
        assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_can_be_locked_again_afterwards(tmp_path):
    for _ in range(2):
        with locked(tmp_path, "run"):
            held = True
    assert held


def test_a_lock_is_freed_when_its_work_fails(tmp_path):
    with pytest.raises(RuntimeError, match="work"), locked(tmp_path, "run"):
        raise RuntimeError("work")
    with locked(tmp_path, "run"):
        assert tmp_path.is_dir()


def test_a_folder_held_by_another_process_is_refused(tmp_path, holder):
    with pytest.raises(FolderError, match=f"study {tmp_path} is in use by another process; .*choose another --out"):
        locked(tmp_path, "study").__enter__()


def test_a_lock_is_freed_when_its_holder_is_killed(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path, "run"):
        assert holder.returncode == -signal.SIGKILL


def test_a_folder_that_is_a_file_cannot_be_locked(old):
    with pytest.raises(BadInputError, match=f"cannot use {old}: .*choose another path"):
        locked(old, "run").__enter__()


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "[" * 100 + "]" * 100, '{"a":' * 70 + "1" + "}" * 70, '{"a": NaN}', "-Infinity"]
)
def test_json_that_is_too_deep_or_no_number_is_damage(old, content):
    old.write_text(content)
    with pytest.raises(DamagedFileError, match=f"damaged record {old}: (more than 64 lists|.*is no number that a record holds)"):
        read_json(old)


def test_a_file_of_ten_gigabytes_is_not_read(old):
    os.truncate(old, 10 << 30)
    with pytest.raises(DamagedFileError, match=r"has 10,737,418,240 bytes, expected at most"):
        read_json(old)
    with pytest.raises(DamagedFileError, match=r"has 10,737,418,240 bytes, expected at most"):
        read_journal(old)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "is a named pipe, expected a file"),
        (os.mkdir, "is a folder, expected a file"),
        (lambda path: os.symlink("/dev/zero", path), "is a device, expected a file"),
        (lambda path: os.symlink(path, path), "Too many levels of symbolic links"),
        (lambda path: os.symlink("nowhere", path), "No such file"),
    ],
)
@pytest.mark.parametrize("read", [read_json, read_journal])
def test_what_is_no_plain_file_is_damage_and_never_waited_for(tmp_path, make, message, read):
    make(tmp_path / "x")
    with pytest.raises(DamagedFileError, match=rf"damaged record {tmp_path}/x: .*{message}"):
        read(tmp_path / "x")


def test_a_line_that_is_too_deep_is_no_record(journal):
    journal.path.write_bytes(b"{}\n" + b"[" * 5000 + b"\n")
    with pytest.raises(DamagedFileError, match="line 2: expected one JSON object"):
        read_journal(journal.path)


@pytest.mark.parametrize("spoil", [os.unlink, lambda path: os.rename(path, f"{path}.other"), lambda path: write_text(path, "x")])
def test_a_journal_that_is_removed_or_replaced_takes_no_more_records(journal, spoil):
    journal.append({"step": 1})
    spoil(journal.path)
    with pytest.raises(ThalwegError, match=f"{journal.path} was removed or replaced while it was written to"):
        journal.append({"step": 2})


def test_the_checksums_of_a_journal_are_those_of_its_lines_also_when_it_goes_on(journal):
    journal.append({"step": 1})
    journal.append({"step": 2})
    resumed = Journal(journal.path, journal.offset)
    resumed.append({"step": 3})
    resumed.close()
    assert sums_in(resumed.sums) == [zlib.crc32(line) for line in journal.path.read_bytes().splitlines(keepends=True)]


def test_what_is_set_aside_keeps_its_content_under_a_free_name(tmp_path):
    for content in ("a", "b"):
        write_text(tmp_path / "x", content)
        set_aside(tmp_path / "x")
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {"x.damaged": "a", "x.damaged-2": "b"}


def test_a_folder_in_which_nothing_was_done_is_removed_again(tmp_path):
    with pytest.raises(BadInputError, match="no"), locked(tmp_path / "a" / "b", "run"):
        raise BadInputError("no")
    assert list(tmp_path.iterdir()) == []


def test_bad_input_leaves_no_lock_in_a_folder_that_was_there(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(BadInputError, match="no"), locked(tmp_path, "run"):
        raise BadInputError("no")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_in_which_something_was_done_stays(tmp_path):
    with locked(tmp_path / "a", "run"):
        write_text(tmp_path / "a" / "x", "done")
    assert (tmp_path / "a" / "x").read_text() == "done"


@pytest.mark.parametrize("name", ["x" * 300, "loop/x"])
def test_a_path_that_cannot_be_is_bad_input(tmp_path, name):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(BadInputError, match=r"cannot use .*choose another path"):
        write_text(tmp_path / name, "x")
