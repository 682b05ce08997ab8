import contextlib
import inspect
import pickle
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

import thalweg
from thalweg import errors, serialization
from thalweg.curvature.eigenpairs import ORDERS
from thalweg.curvature.objective import _recorded_warnings
from thalweg.errors import BadInputError, FolderError, Phrase, ThalwegError, escape_hidden, require, shown, unknown
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


def test_what_was_given_in_words_has_no_quotation_marks_and_is_shortened_and_inert():
    with pytest.raises(BadInputError, match=r"^path: given no folder, expected a folder$"):
        require(False, "path", Phrase("no folder"), "a folder")
    assert shown(Phrase("a\x1b[31mb")) == r"a\x1b[31mb"
    assert len(shown(Phrase("long " * 1000))) < 1000


def test_unknown_suggests_the_nearest_name():
    assert "did you mean 'looped'?" in str(unknown("arm", "lopped", ["single", "looped"]))


def test_unknown_suggests_nothing_when_nothing_is_near():
    assert str(unknown("arm", "zzz", ["single", "looped"])) == "unknown arm 'zzz'; known: looped, single"


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
    ours |= {"plain-looped", "looped", "depth-1", "single", "shift", "staged"}  # arms
    ours |= set(ORDERS)  # values of which
    assert [group for group in errors._SYNONYMS if not ours & set(group)] == []


def test_unknown_lists_the_known_names_in_order():
    assert str(unknown("arm", "?", iter("cab"))).endswith("known: a, b, c")


def test_an_unknown_key_can_be_told_to_another_process():
    error = pickle.loads(pickle.dumps(errors.UnknownKeyError("key in model", "widht", ["width"])))
    assert isinstance(error, BadInputError)
    assert str(error) == "unknown key in model 'widht'; did you mean 'width'? Known: width"


def test_unknown_returns_an_error_that_can_be_raised():
    with pytest.raises(BadInputError, match="unknown arm 'q'; known: a"):
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


def given(action: str, call) -> list[warnings.WarningMessage]:
    """The warnings that a call gives while the filters say ``action``."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)
        call()
    return caught


def test_a_warning_points_to_the_line_of_the_user_however_deep_it_is_given():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    batches = [torch.eye(2)]

    def one() -> None:
        thalweg.Hessian(lambda m, x: m(x).square().mean(), model, batches)

    def two() -> None:
        thalweg.LandscapeProbe(top=1, forms=0, method="matrix-free", lanczos=3).measure(
            lambda m, x: m(x).square().mean(), model, batches
        )

    def three() -> None:
        thalweg.LayerProbe(probe=thalweg.LandscapeProbe(top=1, forms=0, method="matrix-free", lanczos=3)).measure(
            lambda m, x: m(x).square().mean(), model, batches
        )

    for call in (one, two, three):
        for warning in given("always", call):
            assert (warning.category, warning.filename) == (errors.KinkWarning, __file__)
            assert warning.lineno == call.__code__.co_firstlineno + 1


def test_a_warning_is_given_once_for_each_line_though_the_filters_change_in_between():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    probe = thalweg.LandscapeProbe(top=1, forms=0, method="matrix-free", lanczos=3)

    def series() -> None:
        for step in range(3):
            probe.measure(lambda m, x: m(x).square().mean(), model, [torch.eye(2)], step=step)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
        for _ in range(2):
            thalweg.Hessian(lambda m, x: m(x).square().mean(), model, [torch.eye(2)])

    assert [warning.lineno - series.__code__.co_firstlineno for warning in given("default", series)] == [2, 6]
    assert len(given("always", series)) >= 5
    with pytest.raises(errors.KinkWarning):
        given("error", series)


def test_what_a_loss_warns_of_while_it_is_first_evaluated_is_repeated_once_for_its_line():
    def evaluate() -> None:
        for _ in range(3):
            with _recorded_warnings([]):
                warnings.warn("the loss is odd", stacklevel=1)

    found = given("default", evaluate)
    assert [warning.lineno - evaluate.__code__.co_firstlineno for warning in found] == [3]


WARNED_TWICE = """
from thalweg.errors import KinkWarning, warn
for _ in range(3):
    warn("a kink", KinkWarning)
print("end")
"""


@pytest.mark.parametrize("options", [[], ["-W", "ignore"], ["-W", "default"], ["-W", "always"]], ids=" ".join)
def test_a_script_may_be_warned_twice_under_the_filters_of_python_itself(tmp_path, options):
    """Pytest replaces the default filters, one of which holds the name of a module as plain text."""
    script = tmp_path / "script.py"
    script.write_text(WARNED_TWICE)
    ended = subprocess.run([sys.executable, *options, str(script)], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "end\n"), ended.stderr
    assert ended.stderr.count("KinkWarning:") == {"-W ignore": 0, "-W always": 3}.get(" ".join(options), 1)
