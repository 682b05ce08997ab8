"""The exceptions of thalweg, and the one way to refuse an input.

Every message says three things: what was given, what was expected, what to do.
``exit_code`` is what the command line returns: 1 for "failed", 2 for "bad input".
"""

from __future__ import annotations

import difflib
import reprlib
import unicodedata
from collections.abc import Iterable

_LONGEST = 200
"""Characters of a given value in a message."""
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories of what is not seen itself: controls, formats, surrogates, private and unassigned ones, separators."""
SHORT = reprlib.Repr()
SHORT.maxlevel, SHORT.maxstring, SHORT.maxother = 3, _LONGEST, _LONGEST
SHORT.maxlist = SHORT.maxtuple = SHORT.maxdict = SHORT.maxset = SHORT.maxfrozenset = 20


class ThalwegError(Exception):
    """Base of everything thalweg raises on purpose."""

    exit_code = 1


class BadInputError(ThalwegError, ValueError):
    """Something that the caller gave cannot be used; nothing was changed."""

    exit_code = 2


class FolderError(BadInputError):
    """A folder belongs to another run or study, or another process is writing it."""


class DamagedFileError(ThalwegError):
    """A file that thalweg wrote cannot be read back; the message names it."""


class DiskFullError(ThalwegError):
    """The disk or quota is full; what was on disk before is still there."""


class DivergedError(ThalwegError):
    """Training stopped because a loss or gradient was no longer finite."""


class StudyError(ThalwegError):
    """Some runs of a study failed; those that finished are kept."""


class VerificationError(ThalwegError):
    """A statement of the theory did not hold on this machine."""


class NonFiniteError(BadInputError):
    """NaN or infinity where a number must be finite."""


class ShapeMismatchError(BadInputError):
    """A tensor does not have the shape that the operator or the formula needs."""


class NotSymmetricError(BadInputError):
    """A matrix or operator that must be symmetric is not."""


class NotDeterministicError(BadInputError):
    """The same loss at the same point gave two values."""


class NotDifferentiableError(BadInputError):
    """The loss has no gradient, or its gradient has no derivative."""


class WrongProductError(ThalwegError):
    """A product is not the derivative of the gradient, by central differences."""


class NotConvergedError(ThalwegError):
    """An iteration ended before its residuals were small enough; the message says how far it came."""


class ResolutionError(BadInputError):
    """A question finer than what the estimate can resolve."""


class MemoryLimitError(BadInputError):
    """More memory would be needed than the limit allows."""


class EmptySubspaceError(BadInputError):
    """River or valley has no dimension where a formula needs one."""


class StepSizeError(BadInputError):
    """A rate that is not positive, or too large for the limit that was asked for."""


class UnstableDirectionError(BadInputError):
    """A limit or a class was asked for while some eigenvalue is negative."""


class OrthonormalityError(BadInputError):
    """The columns of a frame are not orthonormal."""


class InsufficientDataError(BadInputError):
    """Fewer seeds, checkpoints or steps than a method needs."""


class EigenSplitCouplingWarning(UserWarning):
    """The split comes from the eigenvectors of this same Hessian: its coupling is zero by construction."""


class IndefiniteModelWarning(UserWarning):
    """The quadratic model has no minimum: its coupling is larger than a positive semidefinite Hessian allows."""


class NoPlateauWarning(UserWarning):
    """No threshold separates river from valley over a wide range."""


class HorizonWarning(UserWarning):
    """The number of steps lies outside of the window in which the limit describes the run."""


class NegativeMIWarning(UserWarning):
    """Matrix mutual information of this order may be negative."""


class GaugeWarning(UserWarning):
    """Query and key weights are unbalanced: the same function with another spectrum."""


class GrowthWarning(UserWarning):
    """Too many loops for the bound on how far the linear model's states grow."""


class DamagedRecordWarning(UserWarning):
    """A file that thalweg wrote is not as it was written; what is intact is used, and the message says what was lost."""


class KinkWarning(UserWarning):
    """The loss has kinks (ReLU and its like): its second derivative is that of the smooth pieces, the kinks left out."""


class NonFiniteLossWarning(UserWarning):
    """A schedule was told a loss or a gradient norm that is NaN or infinite, and there is no switch to take back."""


class SkippedFilesWarning(UserWarning):
    """Something in a folder of text is not a file that can be read, and was left out."""


def shown(value: object) -> str:
    """A value as one line that is safe to print: its ``repr``, shortened where it is long or deep; a class by its name.

    Example:
        >>> print(shown("x" * 1000)[-25:])
        xx...' (1,000 characters)
        >>> shown("two\\nlines"), shown(int)
        ("'two\\\\nlines'", 'the class int')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, str | bytes):
        text = escape_hidden(repr(value[:_LONGEST]))
        return text if len(value) <= _LONGEST else f"{text[:-1]}...{text[-1]} ({len(value):,} characters)"
    if isinstance(value, int) and value.bit_length() > 4 * _LONGEST:
        return f"a number of about {round(value.bit_length() * 0.30103):,} digits"
    text = SHORT.repr(value) if isinstance(value, list | tuple | dict | set | frozenset) else repr(value)
    text = escape_hidden(" ".join(text.split()) if "\n" in text else text)
    return text if len(text) <= 4 * _LONGEST else f"{text[: 4 * _LONGEST]}..."


def escape_hidden(text: object) -> str:
    r"""Text in which every character can be seen: one that a terminal obeys, or that is not printed, is written as its escape.

    Example:
        >>> print(escape_hidden("x\udce9\x1b[31m\n\u202ey"))
        x\udce9\x1b[31m\n\u202ey
    """
    words = str(text)
    if words.isprintable():
        return words
    return "".join(repr(one)[1:-1] if unicodedata.category(one) in _HIDDEN else one for one in words)


def format_error(error: BaseException) -> str:
    """An exception of a user's code in one line that is safe to print.

    Example:
        >>> format_error(ValueError("two\\n  lines"))
        'ValueError: two lines'
    """
    return escape_hidden(" ".join(f"{type(error).__name__}: {error}".split()))


def require(ok: bool, what: str, given: object, expected: str) -> None:
    """Raise `BadInputError` with one clear line unless ``ok``.

    Example:
        >>> require(0 > 1, "width", 0, "a whole number of at least 1")
        Traceback (most recent call last):
        ...
        thalweg.errors.BadInputError: width: given 0, expected a whole number of at least 1
    """
    if not ok:
        raise BadInputError(f"{what}: given {shown(given)}, expected {expected}")


def unknown(what: str, given: str, known: Iterable[str]) -> BadInputError:
    """The error for a name that does not exist, with the likely meaning.

    Example:
        >>> print(unknown("arm", "lopped", ["single", "looped"]))
        unknown arm 'lopped'; did you mean 'looped'? Known: looped, single
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(given)[:_LONGEST], names, n=1, cutoff=0.5)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return BadInputError(f"unknown {what} {shown(given)}; {meant}Known: {', '.join(names) or 'none'}")
