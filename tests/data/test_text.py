import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from thalweg.data import text
from thalweg.data.text import TextConfig, TextData, corpus
from thalweg.errors import BadInputError

LETTERS = "abcdefghijklmnopqrst"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of this test alone."""
    monkeypatch.setenv("THALWEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    """Twenty files, each of a letter of its own, so that a byte tells its file."""
    root = tmp_path / "letters"
    for letter in LETTERS:
        write(root / f"{letter}.txt", letter * 50)
    return root


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def data(path, seed=0, **arguments):
    return TextData(TextConfig(path=str(path), **({"length": 8} | arguments)), seed)


def files_in(part):
    return set(bytes(part)) - {0}


def refused(path, message, **arguments):
    with pytest.raises(BadInputError, match=message):
        data(path, **arguments)


def test_no_file_is_in_both_parts(folder):
    found = corpus(str(folder), 0.3)
    assert files_in(found.train).isdisjoint(files_in(found.held_out))


def test_every_file_is_in_one_of_the_parts(folder):
    found = corpus(str(folder), 0.3)
    assert files_in(found.train) | files_in(found.held_out) == set(LETTERS.encode())


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5])
def test_whole_files_are_held_out_until_the_share_is_reached(folder, share):
    assert corpus(str(folder), share).held_out_files == round(share * len(LETTERS))


def test_at_least_one_file_is_left_to_train_on(folder):
    assert corpus(str(folder), 0.999).held_out_files == len(LETTERS) - 1


def test_which_files_are_held_out_does_not_depend_on_their_content(folder):
    before = corpus(str(folder), 0.3).held_out
    for letter in LETTERS:
        write(folder / f"{letter}.txt", letter.upper() * 50)
    assert bytes(corpus(str(folder), 0.3).held_out) == bytes(before).upper()


def test_files_are_joined_with_a_separator_between(tmp_path):
    for name in "xyz":
        write(tmp_path / "t" / f"{name}.txt", name * 3)
    found = corpus(str(tmp_path / "t"), 1 / 3)
    (held_out,) = files_in(found.held_out)
    rest = [name.encode() * 3 for name in "xyz" if ord(name) != held_out]
    assert bytes(found.train) == b"\0".join(rest)


def test_the_end_of_a_single_file_is_held_out(tmp_path):
    path = write(tmp_path / "one.txt", "0123456789")
    found = corpus(str(path), 0.3)
    assert (bytes(found.train), bytes(found.held_out)) == (b"0123456", b"789")


def test_the_parts_are_mapped_and_not_in_memory(folder):
    found = corpus(str(folder), 0.3)
    assert isinstance(found.train, np.memmap)
    assert isinstance(found.held_out, np.memmap)


def test_the_same_content_has_the_same_hash_in_another_place(folder, tmp_path):
    folder.rename(tmp_path / "moved")
    hashes = [corpus(str(tmp_path / "moved"), 0.3).sha256]
    (tmp_path / "moved").rename(folder)
    assert hashes == [corpus(str(folder), 0.3).sha256]


def changed_content(folder):
    write(folder / "a.txt", "a" * 49 + "b")


def changed_name(folder):
    (folder / "a.txt").rename(folder / "aa.txt")


def moved_boundary(folder):
    write(folder / "a.txt", "a" * 50 + "b")
    write(folder / "b.txt", "b" * 49)


@pytest.mark.parametrize("change", [changed_content, changed_name, moved_boundary])
def test_another_content_or_name_has_another_hash(folder, change):
    before = corpus(str(folder), 0.3).sha256
    change(folder)
    assert corpus(str(folder), 0.3).sha256 != before


def test_another_share_has_another_hash(folder):
    assert corpus(str(folder), 0.3).sha256 != corpus(str(folder), 0.4).sha256


def test_a_corpus_is_joined_only_once(folder, monkeypatch):
    first = bytes(corpus(str(folder), 0.3).train)
    monkeypatch.setattr(text, "atomic_stream", None)
    assert bytes(corpus(str(folder), 0.3).train) == first


def test_the_joined_files_lie_in_the_cache_under_the_hash(folder, cache):
    key = corpus(str(folder), 0.3).sha256
    assert sorted(os.listdir(cache / "text" / key[:32])) == ["held-out.bin", "train.bin"]


def test_without_a_chosen_cache_the_users_cache_is_taken(monkeypatch):
    monkeypatch.delenv("THALWEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert text.cache_folder() == Path("/somewhere/thalweg")


@pytest.mark.parametrize("name", [".hidden", "tests/t.txt", ".git/g.txt", "sub/__pycache__/p.txt", "binary.bin"])
def test_hidden_files_tests_and_binary_files_are_left_out(folder, name):
    write(folder / name, b"\0Z" if name == "binary.bin" else "Z")
    assert corpus(str(folder), 0.3).files == len(LETTERS)


def test_files_in_folders_below_are_found(folder):
    write(folder / "deep" / "er" / "x.txt", "x")
    assert corpus(str(folder), 0.3).files == len(LETTERS) + 1


def test_every_window_is_a_stretch_of_the_training_part(tmp_path):
    path = write(tmp_path / "bytes.txt", bytes(range(1, 251)))
    batch = data(path).batch(step=0, size=200)
    assert (np.diff(batch, axis=1) == 1).all()


def test_windows_reach_both_ends_of_the_training_part(tmp_path):
    path = write(tmp_path / "bytes.txt", bytes(range(1, 51)))  # 40 to train on, so 33 places
    batch = data(path, held_out_share=0.2).batch(step=0, size=2000)
    assert (batch[:, 0].min(), batch[:, -1].max()) == (1, 40)


def test_a_part_of_one_window_has_that_window(tmp_path):
    path = write(tmp_path / "bytes.txt", bytes(range(1, 17)))
    assert data(path, held_out_share=0.5).batch(0, 3).tolist() == [list(range(1, 9))] * 3


def test_a_batch_depends_on_step_and_rank_alone(folder):
    assert np.array_equal(data(folder).batch(3, 16, 1, 2), data(folder).batch(3, 16, 1, 2))


@pytest.mark.parametrize("other", [(4, 16, 1, 2), (3, 16, 0, 2)], ids=["step", "rank"])
def test_another_step_or_rank_gives_another_batch(folder, other):
    assert not np.array_equal(data(folder).batch(3, 16, 1, 2), data(folder).batch(*other))


def test_another_seed_gives_another_batch(folder):
    assert not np.array_equal(data(folder, seed=0).batch(3, 16), data(folder, seed=1).batch(3, 16))


def test_the_scored_windows_are_evenly_spaced_from_end_to_end(tmp_path):
    path = write(tmp_path / "bytes.txt", bytes(range(1, 101)))
    scored = data(path, held_out_share=0.5, windows=4).evaluation[0].tokens
    assert scored[:, 0].tolist() == [1, 15, 29, 43]


def test_there_are_no_more_scored_windows_than_fit_side_by_side(tmp_path):
    path = write(tmp_path / "bytes.txt", "x" * 200)
    assert [len(s.tokens) for s in data(path).evaluation] == [180 // 8, 20 // 8]


def test_the_held_out_windows_come_from_the_held_out_files(folder):
    loaded = data(folder, held_out_share=0.3)
    assert files_in(np.unique(loaded.evaluation[1].tokens).tolist()) <= files_in(loaded.corpus.held_out)


def test_all_windows_form_one_stratum(folder):
    assert all(list(s.strata) == ["all"] and s.strata["all"].all() for s in data(folder).evaluation)


def test_the_facts_are_json(folder):
    assert json.loads(json.dumps(data(folder).facts(), allow_nan=False))["files"] == len(LETTERS)


def test_the_facts_count_the_bytes_of_both_parts(folder):
    facts = data(folder, held_out_share=0.3).facts()
    assert (facts["train_bytes"], facts["held_out_bytes"]) == (14 * 51 - 1, 6 * 51 - 1)


def test_a_missing_path_is_refused(tmp_path):
    refused(tmp_path / "gone", "text: given '.*gone', which does not exist; expected a file or a folder with text")


def test_a_folder_without_files_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "text: given '.*empty', a folder without text files; expected at least one")


def test_a_folder_of_binary_files_is_refused(tmp_path):
    write(tmp_path / "images" / "a.bin", b"\x89\0\0")
    refused(tmp_path / "images", "text: given '.*images', a folder without text files")


def test_empty_files_are_refused(tmp_path):
    write(tmp_path / "void" / "a.txt", "")
    refused(tmp_path / "void", "text void: given 1 empty files, expected text; choose another path")


def test_a_file_that_cannot_be_read_is_refused_with_its_name(folder, monkeypatch):
    def closed(self, *arguments, **more):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "open", closed)
    refused(folder, r"text: cannot read .*a\.txt \(Permission denied\); .*leave it out or fix its rights")


def test_a_training_part_shorter_than_a_window_is_refused(tmp_path):
    path = write(tmp_path / "short.txt", "x" * 10)
    refused(
        path, r"text short\.txt: its train part has 5 bytes, expected at least 6 \(data\.length\)", length=6, held_out_share=0.5
    )


def test_a_held_out_part_shorter_than_a_window_is_refused(tmp_path):
    path = write(tmp_path / "short.txt", "x" * 50)
    refused(path, "its held-out part has 5 bytes, expected at least 8 .*give more text or a shorter length")


def test_a_file_too_short_to_hold_anything_out_is_refused(tmp_path):
    refused(write(tmp_path / "tiny.txt", "abcd"), "its held-out part has 0 bytes", length=2)


def test_an_empty_file_beside_one_with_text_changes_nothing(tmp_path):
    write(tmp_path / "two" / "e.txt", "")
    write(tmp_path / "two" / "x.txt", "abc" * 100)
    found = corpus(str(tmp_path / "two"), 0.1)
    assert (bytes(found.train), bytes(found.held_out)) == (b"abc" * 90, b"abc" * 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 1}, r"data\.length: given 1, expected at least 2 bytes"),
        ({"held_out_share": 0.0}, r"data\.held_out_share: given 0\.0, expected a share between 0 and 1"),
        ({"held_out_share": 1.0}, r"data\.held_out_share: given 1\.0, expected a share between 0 and 1"),
        ({"windows": 0}, r"data\.windows: given 0, expected at least 1"),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_with_its_key(arguments, message):
    with pytest.raises(BadInputError, match=message):
        TextConfig(**arguments)


@pytest.mark.slow
def test_the_standard_library_is_there_without_any_file_given():
    loaded = TextData(TextConfig(), seed=0)
    assert b"import" in loaded.batch(0, 2000).astype(np.uint8).tobytes()


@pytest.mark.slow
def test_a_tenth_of_the_standard_library_is_held_out():
    facts = TextData(TextConfig(), seed=0).facts()
    share = facts["held_out_bytes"] / (facts["held_out_bytes"] + facts["train_bytes"])
    assert 0.1 <= share < 0.15
