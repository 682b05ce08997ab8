import contextlib
import inspect
import re

import numpy as np
import pytest

import thalweg
from thalweg import errors, serialization
from thalweg.errors import BadInputError, FolderError, ThalwegError, escape_hidden, require, shown, unknown
from thalweg.train.config import RunConfig

PUBLIC = [error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, Exception)]
WARNINGS = [error for error in PUBLIC if issubclass(error, Warning)]
ON_PURPOSE = [error for error in PUBLIC if not issubclass(error, Warning)]


@pytest.mark.parametrize("error", ON_PURPOSE)
def test_everything_raised_on_purpose_is_a_thalweg_error(error):
    assert issubclass(error, ThalwegError)


@pytest.mark.parametrize("warning", WARNINGS)
def test_every_warning_can_be_silenced_as_a_user_warning(warning):
    assert issubclass(warning, UserWarning)


@pytest.mark.parametrize("error", ON_PURPOSE)
def test_the_command_line_returns_two_for_bad_input_and_one_for_the_rest(error):
    assert error.exit_code == (2 if issubclass(error, BadInputError) else 1)


def test_bad_input_is_a_value_error_for_callers_who_do_not_know_thalweg():
    assert issubclass(BadInputError, ValueError)


def test_a_folder_in_use_counts_as_bad_input():
    assert issubclass(FolderError, BadInputError)


def test_require_is_silent_when_the_condition_holds():
    assert require(True, "width", 3, "anything") is None


def test_require_says_what_was_given_and_what_was_expected():
    with pytest.raises(BadInputError, match=r"^path: given 'x y', expected a folder$"):
        require(False, "path", "x y", "a folder")


def test_unknown_suggests_the_nearest_name():
    assert "did you mean 'looped'?" in str(unknown("arm", "lopped", ["single", "looped"]))


def test_unknown_suggests_nothing_when_nothing_is_near():
    assert str(unknown("arm", "zzz", ["single", "looped"])) == "unknown arm 'zzz'; Known: looped, single"


def test_unknown_prefers_a_synonym_to_a_name_that_is_spelled_alike():
    assert "did you mean 'rate'?" in str(unknown("key", "learning_rate", ["value_rate", "rate", "warmup"]))
    assert "did you mean 'rate'?" in str(unknown("key", "Learning-Rate", ["value_rate", "rate", "warmup"]))
    assert "did you mean 'learning_rates'?" in str(unknown("key", "learning_rate", ["learning_rates"]))


def test_unknown_prefers_a_synonym_here_to_the_same_name_elsewhere_and_that_to_a_name_spelled_alike():
    elsewhere = {"lr": ["'a.lr'"], "steps": ["'b.steps'", "'c.steps'"]}
    assert "did you mean 'rate'?" in str(unknown("key", "lr", ["rate"], elsewhere))
    assert "did you mean 'a.lr'?" in str(unknown("key", "lr", ["lrs"], elsewhere))
    assert "did you mean 'b.steps' or 'c.steps'?" in str(unknown("key", "n_steps", ["n_stepz"], elsewhere))


def test_every_group_of_synonyms_leads_to_a_name_of_ours():
    ours = set()
    for name in thalweg.__all__:
        value = getattr(thalweg, name)
        for function in (value, *(vars(value).values() if isinstance(value, type) else ())):
            with contextlib.suppress(TypeError, ValueError):
                ours |= set(inspect.signature(function).parameters)
    ours |= {path[-1] for path in serialization._paths(RunConfig, {})}
    assert [group for group in errors._SYNONYMS if not ours & set(group)] == []


def test_unknown_lists_the_known_names_in_order():
    assert str(unknown("arm", "?", iter("cab"))).endswith("Known: a, b, c")


def test_unknown_returns_an_error_that_can_be_raised():
    with pytest.raises(BadInputError, match="unknown arm 'q'; Known: a"):
        raise unknown("arm", "q", ["a"])


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (float, "the class float"),
        ("a\nb", r"'a\nb'"),
        ("\x1b[31m", r"'\x1b[31m'"),
        (np.zeros((2, 2)), "array([[0., 0.], [0., 0.]])"),
        ("x" * 900, "'" + "x" * 200 + "...' (900 characters)"),
    ],
    ids=["class", "line break", "terminal code", "array", "long"],
)
def test_a_value_is_shown_in_one_line(value, told):
    assert shown(value) == told
    with pytest.raises(BadInputError, match=re.escape(f"width: given {told}, expected a number")):
        require(False, "width", value, "a number")


def test_text_that_cannot_be_printed_is_escaped_and_other_text_is_left_alone():
    assert escape_hidden("a\tb\udce9\x1b[0m\u202e") == r"a\tb\udce9\x1b[0m\u202e"
    assert escape_hidden(r"ünï \n € 'quoted'") == r"ünï \n € 'quoted'"
