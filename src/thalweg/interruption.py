"""Ctrl-C and SIGTERM: an exception for both, which a loop can hold back until what it has made is saved."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a command that Ctrl-C ended."""
TERMINATED = 128 + signal.SIGTERM
"""Exit code of a command that SIGTERM ended."""


class Terminated(KeyboardInterrupt):
    """SIGTERM asked this process to end; it passes every ``except Exception``, as Ctrl-C does."""


@dataclass
class HeldBack:
    """The signal that came in a `held_back` block, if any."""

    came: int | None = None
    """Its number; None if none came."""
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = field(default_factory=dict)
    """Number of a signal -> what handled it before the block."""
    ended: bool = False
    """Whether the block is over, so that nothing is held back any more."""

    def note(self, number: int, frame: FrameType | None, told: str) -> None:
        """Keep a signal for `let_through`; a Ctrl-C after another signal is not kept."""
        if self.ended or (number == signal.SIGINT and self.came is not None):
            self.came = None
            self._pass_on(number, frame)
        elif self.came is None:
            self.came = number
            _tell(told)

    def let_through(self) -> None:
        """Call what handled this signal before, which as a rule raises `KeyboardInterrupt`."""
        came, self.came = self.came, None
        if came is not None:
            self._pass_on(came, None)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Call what handled a signal before; where that is a block around this one, which only keeps it, leave both."""
        handler = self.handlers[number]
        handler(number, frame)
        if isinstance(handler, functools.partial) and isinstance(getattr(handler.func, "__self__", None), HeldBack):
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def raise_at_sigterm() -> None:
    """Have SIGTERM raise `Terminated` in this process, so that it says why it ends and leaves nothing half-made behind.

    No effect outside the main thread, and where SIGTERM is ignored or already handled.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _raise)


@contextlib.contextmanager
def held_back(told: str) -> Iterator[HeldBack]:
    """Hold back Ctrl-C and SIGTERM in the ``with`` block, which looks at ``came`` where it can end, and calls `let_through`.

    Only signals whose handler is a Python function are held back. A Ctrl-C after another signal is not. A signal that the block did
    not let through comes at its end, unless the block raises. No effect outside the main thread.

    Args:
        told: printed on standard error when the first signal comes.
    """
    held = HeldBack()
    if threading.current_thread() is threading.main_thread():
        found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        held.handlers = {number: handler for number, handler in found.items() if callable(handler)}
    try:
        for number in held.handlers:
            signal.signal(number, functools.partial(held.note, told=told))
        yield held
    finally:
        held.ended = True  # a signal that comes before its handler is restored goes on to it
        for number, handler in held.handlers.items():
            signal.signal(number, handler)
    held.let_through()


def _raise(*_: Any) -> None:
    """What SIGTERM calls."""
    raise Terminated


def _tell(message: str) -> None:
    """Write a line to standard error past its buffer, which the interrupted code may be writing to."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.write(sys.stderr.fileno(), f"thalweg: {message}\n".encode())
