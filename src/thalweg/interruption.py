"""Ctrl-C and SIGTERM: an exception for both, which a loop can hold back until what it has made is saved."""

from __future__ import annotations

import contextlib
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
    _handlers: dict[int, Callable[[int, FrameType | None], Any]] = field(default_factory=dict)

    def let_through(self) -> None:
        """Call what handled this signal before, which as a rule raises `KeyboardInterrupt`."""
        came, self.came = self.came, None
        if came is not None:
            self._handlers[came](came, None)


def raise_at_sigterm() -> None:
    """Have SIGTERM raise `Terminated` in this process, so that it says why it ends and leaves nothing half-made behind.

    No effect outside the main thread, and where SIGTERM is ignored or already handled.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _raise)


@contextlib.contextmanager
def held_back(told: str) -> Iterator[HeldBack]:
    """Hold back Ctrl-C and SIGTERM in the ``with`` block, which looks at ``came`` where it can end, and calls `let_through`.

    Only signals whose handler is a Python function are held back. A second Ctrl-C is not. A signal that the block did not let
    through comes at its end. No effect outside the main thread.

    Args:
        told: printed on standard error when the first signal comes.
    """
    held = HeldBack()
    if threading.current_thread() is not threading.main_thread():
        yield held
        return
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    held._handlers = {number: handler for number, handler in found.items() if callable(handler)}

    interrupts = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if number == signal.SIGINT and interrupts > 1:
            held.came = None
            held._handlers[number](number, frame)
        elif held.came is None:
            held.came = number
            _tell(told)

    try:
        for number in held._handlers:
            signal.signal(number, note)
        yield held
    finally:
        for number, handler in held._handlers.items():
            signal.signal(number, handler)
    held.let_through()


def _raise(*_: Any) -> None:
    """What SIGTERM calls."""
    raise Terminated


def _tell(message: str) -> None:
    """Write a line to standard error past its buffer, which the interrupted code may be writing to."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.write(sys.stderr.fileno(), f"thalweg: {message}\n".encode())
