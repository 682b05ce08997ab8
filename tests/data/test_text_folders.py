"""Folders of text as they come: large files beside small ones, what is no file, names in any bytes."""

import errno
import hashlib
import os
import socket
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg import cli
from thalweg.data import text
from thalweg.data.text import CLOSE, SEPARATOR, TextConfig, TextData, corpus, split
from thalweg.errors import BadInputError, SkippedFilesWarning
from thalweg.models.config import ModelConfig
from thalweg.serialization import to_dict
from thalweg.train.config import RunConfig, TrainingConfig, read_config, write_config

ROOT = Path("/folder")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of this test alone, and no test that waits for ever."""
    monkeypatch.setenv("THALWEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def mixed(tmp_path):
    """An empty folder."""
    (tmp_path / "mixed").mkdir()
    return tmp_path / "mixed"


@pytest.fixture
def folder(tmp_path):
    """Ten files of a letter each."""
    root = tmp_path / "letters"
    root.mkdir()
    for letter in "abcdefghij":
        (root / f"{letter}.txt").write_text(letter * 100)
    return root


def sized(sizes):
    """Names that are hashed into an order of their own, with sizes in that of the names."""
    files = {ROOT / f"{number}.txt": size for number, size in enumerate(sizes)}
    return list(files), files


def share_of(parts, total):
    return sum(part.last - part.first for part in parts) / total


@given(
    sizes=st.lists(st.integers(0, 10**6), min_size=1, max_size=60).filter(lambda sizes: sum(sizes) > 10**4),
    share=st.floats(0.01, 0.99),
)
@settings(max_examples=300, deadline=None)
def test_the_held_out_share_is_close_whatever_the_sizes(sizes, share):
    files, known = sized(sizes)
    train, held_out = split(files, known, ROOT, share)
    assert abs(share_of(held_out, sum(sizes)) - share) <= CLOSE * share + 1 / sum(sizes)
    assert abs(share_of(train, sum(sizes)) + share_of(held_out, sum(sizes)) - 1) < 1e-12


@given(sizes=st.lists(st.integers(0, 1000), min_size=1, max_size=40).filter(any), share=st.floats(0.01, 0.99))
@settings(max_examples=200, deadline=None)
def test_every_byte_is_in_one_part_and_one_file_at_most_is_cut(sizes, share):
    files, known = sized(sizes)
    train, held_out = split(files, known, ROOT, share)
    for file in files:
        spans = sorted((part.first, part.last) for part in (*train, *held_out) if part.file == file and part.last > part.first)
        assert len(spans) <= 2
        assert [place for span in spans for place in range(*span)] == list(range(known[file]))
    assert len({part.file for part in train if part.last} & {part.file for part in held_out if part.last > part.first}) <= 1


def by_whole_files(files, sizes, share):
    """The split of versions before: whole files in the order of the hash of their name until the share is reached."""
    order = sorted(files, key=lambda f: hashlib.sha256(f.relative_to(ROOT).as_posix().encode()).digest())
    held_out = []
    while sum(sizes[f] for f in held_out) < share * sum(sizes.values()) and len(order) > 1:
        held_out.append(order.pop(0))
    return sorted(order), sorted(held_out)


@given(share=st.floats(0.05, 0.5), seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_where_all_files_are_small_the_split_is_the_one_of_before(share, seed):
    sizes = np.random.default_rng(seed).integers(1, 1000, size=900).tolist()  # each below 0.25 % of the whole
    files, known = sized(sizes)
    parts = split(files, known, ROOT, share)
    assert [[part.file for part in side] for side in parts] == list(map(list, by_whole_files(files, known, share)))
    assert all((part.first, part.last) == (0, known[part.file]) for side in parts for part in side)


def test_a_large_file_that_comes_first_is_cut_and_its_end_held_out(mixed):
    for number in range(20):
        (mixed / f"small-{number}.txt").write_bytes(b"s" * 50)
    for name in ("large-a.txt", "large-b.txt", "large-c.txt"):  # wherever the hash puts it
        large = mixed / name
        large.write_bytes(bytes(range(1, 201)) * 45)
        found = corpus(str(mixed), 0.1)
        held_out = bytes(found.held_out).replace(SEPARATOR, b"")
        assert len(held_out) == 1000
        tail = held_out.replace(b"s" * 50, b"")
        assert large.read_bytes().endswith(tail)
        assert large.read_bytes()[: 9000 - len(tail)] in bytes(found.train)
        large.unlink()


def test_a_large_file_that_would_be_the_last_to_train_on_is_cut(mixed):
    (mixed / "small.txt").write_text("s" * 100)
    (mixed / "large.txt").write_text("l" * 900)
    for share in (0.05, 0.3, 0.5, 0.95):
        found = corpus(str(mixed), share)
        assert len(bytes(found.held_out).replace(SEPARATOR, b"")) == round(1000 * share)


def test_a_split_with_a_cut_has_a_cache_of_its_own(mixed, monkeypatch):
    (mixed / "small.txt").write_text("s" * 100)
    (mixed / "large.txt").write_text("l" * 900)
    cut = corpus(str(mixed), 0.1).sha256
    monkeypatch.setattr(text, "CLOSE", 99.0)  # no file is ever cut, as before
    assert corpus(str(mixed), 0.1).sha256 != cut


def test_the_same_file_under_several_names_is_read_once(folder):
    os.link(folder / "a.txt", folder / "k.txt")
    os.symlink(folder / "b.txt", folder / "l.txt")
    os.symlink(folder, folder / "round")
    found = corpus(str(folder), 0.3)
    assert found.files == 10
    assert set(bytes(found.train)) & set(bytes(found.held_out)) <= {0}


def pipe(path):
    os.mkfifo(path)


def listening(path):
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's name is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def dead(path):
    os.symlink("/nowhere/at/all", path)


def round_and_round(path):
    os.symlink(path, path)


def to_a_device(path):
    os.symlink("/dev/zero", path)


def to_a_pipe(path):
    os.mkfifo(path.parent / ".pipe")
    os.symlink(path.parent / ".pipe", path)


ODD = [
    (pipe, "named pipe"),
    (listening, "socket"),
    (dead, "dead link"),
    (round_and_round, "dead link"),
    (to_a_device, "device"),
    (to_a_pipe, "named pipe"),
]
odd = pytest.mark.parametrize(("make", "kind"), ODD, ids=lambda part: getattr(part, "__name__", part))


@odd
@pytest.mark.timeout(10)
def test_what_is_no_file_is_left_out_with_one_line(folder, make, kind):
    before = bytes(corpus(str(folder), 0.3).train)
    make(folder / "bb.txt")
    with pytest.warns(SkippedFilesWarning, match=f"^text letters: left out 1 {kind}; 10 files are used$"):
        assert bytes(corpus(str(folder), 0.3).train) == before


@odd
@pytest.mark.timeout(10)
def test_a_folder_with_nothing_else_is_refused(tmp_path, make, kind):
    (tmp_path / "odd").mkdir()
    make(tmp_path / "odd" / "one.txt")
    with pytest.raises(BadInputError, match=rf"a folder without text files \(1 {kind}\); expected at least one"):
        corpus(str(tmp_path / "odd"), 0.3)


@odd
@pytest.mark.timeout(10)
def test_a_path_that_is_no_file_is_refused_at_once(tmp_path, make, kind):
    make(tmp_path / "one.txt")
    with pytest.raises(BadInputError, match=f"text: given '.*one.txt', a {kind}; expected a file or a folder with text"):
        TextData(TextConfig(path=str(tmp_path / "one.txt")), 0)


def test_several_things_are_counted_in_one_line(folder):
    for number in range(3):
        pipe(folder / f"pipe{number}")
    dead(folder / "dead")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        corpus(str(folder), 0.3)
    assert [str(one.message) for one in caught] == ["text letters: left out 1 dead link, 3 named pipes; 10 files are used"]


def closed_to(monkeypatch, name):
    """No right to read files of a name, for root too."""
    opened = Path.open

    def closed(self, *arguments, **more):
        if self.name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return opened(self, *arguments, **more)

    monkeypatch.setattr(Path, "open", closed)


def test_an_unreadable_file_is_left_out_with_one_line(folder, monkeypatch):
    closed_to(monkeypatch, "c.txt")
    with pytest.warns(SkippedFilesWarning, match="left out 1 unreadable file; 9 files are used"):
        found = corpus(str(folder), 0.3)
    assert ord("c") not in bytes(found.train) + bytes(found.held_out)


def test_an_unreadable_folder_is_left_out_with_one_line(folder, monkeypatch):
    (folder / "closed").mkdir()
    scanned = os.scandir

    def closed(path):
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scanned(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.warns(SkippedFilesWarning, match="left out 1 unreadable folder; 10 files are used"):
        assert corpus(str(folder), 0.3).files == 10


def test_a_single_file_that_cannot_be_read_is_refused(folder, monkeypatch):
    closed_to(monkeypatch, "c.txt")
    with pytest.raises(BadInputError, match=r"text: cannot read .*c\.txt \(Permission denied\)"):
        corpus(str(folder / "c.txt"), 0.3)


@pytest.mark.parametrize(
    "path", ["a\0b", "~nobody-of-this-name/x", "x" * 5000, "/dev/null/x"], ids=["zero", "home", "long", "below"]
)
def test_a_path_that_cannot_be_is_refused_in_one_line(path):
    with pytest.raises(BadInputError, match=r"text: given '.*', which does not exist") as caught:
        corpus(path, 0.3)
    assert str(caught.value).isprintable()


def test_a_file_that_changes_while_it_is_read_is_refused(folder, monkeypatch):
    read = text.read
    sizes = iter([*[0] * 20, 1])
    monkeypatch.setattr(text, "read", lambda file, limit=-1: read(file, limit) + b"x" * next(sizes, 0))
    with pytest.raises(BadInputError, match=r"text: .*\.txt: given 101 bytes, expected 100, as before: it has changed"):
        corpus(str(folder), 0.3)


NAMES = [
    b"caf\xe9.txt",
    b"two\nlines.txt",
    b"\x1b[31mred\x1b[0m.txt",
    b"tab\there.txt",
    "ünïcode €.txt".encode(),
    b" .txt",
    b"\xff\xfe",
]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_file_of_any_name_is_read_like_any_other(folder, name):
    Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(b"Z" * 100)
    found = corpus(str(folder), 0.3)
    assert found.files == 11
    assert ord("Z") in bytes(found.train) + bytes(found.held_out)


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_path_of_any_name_is_kept_by_a_config_and_shown_inert(tmp_path, name):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    Path(path).write_bytes(b"some text " * 100)
    config = RunConfig(data=TextConfig(path=path), model=ModelConfig(vocabulary=256, length=64))
    write_config(tmp_path / "run.toml", config)
    assert read_config(tmp_path / "run.toml") == config
    assert to_dict(config)["data"]["path"] == path
    shown = TextData(config.data, 0).facts()["name"]
    assert shown.isprintable()
    shown.encode()
    Path(path).write_bytes(b"")
    with pytest.raises(BadInputError, match="given 1 empty files") as caught:
        TextData(config.data, 0)
    assert str(caught.value).isprintable()


def test_a_command_tells_of_a_folder_with_a_pipe_in_one_line_and_goes_on(folder, tmp_path, capsys, monkeypatch):
    pipe(folder / "pipe")
    config = RunConfig(
        data=TextConfig(path=str(folder), length=8, windows=4),
        model=ModelConfig(vocabulary=256, length=8, width=4),
        training=TrainingConfig(steps=1, batch=2, device="cpu", threads=1),
    )
    write_config(tmp_path / "run.toml", config)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", cli.one_line)
        assert cli.call(["train", str(tmp_path / "run.toml"), "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().err
    assert "thalweg: warning: text letters: left out 1 named pipe; 10 files are used" in said.splitlines()


@pytest.mark.parametrize(("make", "kind"), [(pipe, "named pipe"), (to_a_device, "device"), (dead, "dead link")])
@pytest.mark.timeout(20)
def test_a_command_refuses_what_is_no_file_in_one_line_with_code_2(tmp_path, capsys, make, kind):
    make(tmp_path / "odd\nname")
    write_config(tmp_path / "run.toml", RunConfig(data=TextConfig(path=str(tmp_path / "odd\nname")), model=ModelConfig(256, 64)))
    assert cli.call(["train", str(tmp_path / "run.toml"), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert rf"odd\nname', a {kind}; expected a file or a folder with text" in said
    assert not (tmp_path / "run").exists()
