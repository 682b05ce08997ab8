import os
import signal
import threading

import pytest

from thalweg import cli
from thalweg.interruption import TERMINATED, Terminated, held_back, raise_at_sigterm

pytestmark = pytest.mark.usefixtures("signals")
BOTH = [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]


def send(*numbers: int) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "raised"), BOTH)
def test_a_signal_is_held_back_until_it_is_let_through(number: int, raised: type, capfd: pytest.CaptureFixture) -> None:
    with held_back("saving") as signals:
        assert signals.came is None
        send(number)
        assert signals.came == number
        with pytest.raises(raised):
            signals.let_through()
    assert capfd.readouterr().err == "thalweg: saving\n"
    with pytest.raises(raised):
        send(number)  # handled as before the block


@pytest.mark.parametrize(("number", "raised"), BOTH)
def test_a_signal_that_nobody_looked_at_comes_at_the_end(number: int, raised: type) -> None:
    reached = []

    def end() -> None:
        with held_back("saving"):
            send(number)
            reached.append("end of the block")
        reached.append("after it")

    with pytest.raises(raised):
        end()
    assert reached == ["end of the block"]


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_further_ctrl_c_ends_at_once(first: int, capfd: pytest.CaptureFixture) -> None:
    with held_back("saving"):
        send(first)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    assert capfd.readouterr().err == "thalweg: saving\n"


def test_the_study_that_ends_its_runs_after_a_ctrl_c_does_not_cut_them_short() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, held_back("saving"):
        send(signal.SIGINT, signal.SIGTERM, signal.SIGTERM)
    assert caught.type is KeyboardInterrupt


def test_an_error_in_the_block_is_not_replaced() -> None:
    def fail() -> None:
        with held_back("saving"):
            send(signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


@pytest.mark.parametrize(("number", "raised"), BOTH)
def test_a_block_in_another_ends_both(number: int, raised: type) -> None:
    """As a training in a callback of another training."""
    reached = []

    def outer() -> None:
        with held_back("outer"):
            with held_back("inner") as signals:
                send(number)
                signals.let_through()
                reached.append("inner")
            reached.append("outer")

    with pytest.raises(raised):
        outer()
    assert reached == []

    def at_once() -> None:
        with held_back("outer"), held_back("inner"):
            send(number, signal.SIGINT)
            reached.append("inner")

    with pytest.raises(KeyboardInterrupt):
        at_once()
    assert reached == []


def test_a_signal_at_the_very_end_of_a_block_leaves_no_handler_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = signal.signal

    def interrupted(number: int, handler: object) -> object:
        before = restore(number, handler)
        if handler is signal.default_int_handler:
            send(signal.SIGINT)
        return before

    def end() -> None:
        with held_back("saving"):
            monkeypatch.setattr(signal, "signal", interrupted)

    with pytest.raises(KeyboardInterrupt):
        end()
    monkeypatch.undo()
    with pytest.raises(Terminated):  # and is not kept by a block that is over
        send(signal.SIGTERM)


def test_a_handler_of_the_user_is_called_where_it_is_let_through() -> None:
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    with held_back("saving") as signals:
        send(signal.SIGTERM)
        assert asked == []
        signals.let_through()
        assert (asked, signals.came) == ([signal.SIGTERM], None)
    assert asked == [signal.SIGTERM]


def test_signals_that_are_ignored_stay_so() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise_at_sigterm()
    with held_back("saving") as signals:
        send(signal.SIGTERM)
        assert signals.came is None


def test_other_threads_hold_nothing_back() -> None:
    seen = []

    def work() -> None:
        raise_at_sigterm()
        with held_back("saving") as signals:
            seen.append(signals.handlers)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [{}]


def test_a_command_that_sigterm_ends_says_so(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "app", lambda *_, **__: send(signal.SIGTERM))
    assert cli.call(["anything"]) == TERMINATED == 143
    assert capsys.readouterr().err == "thalweg: ended by SIGTERM; give the same command again to go on\n"
