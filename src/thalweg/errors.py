"""The exceptions and warnings of thalweg, and functions that build their messages.

A message says what was given, what was expected, and what to do. ``exit_code`` is the exit code of the command line: 1 if a command
failed, 2 if its input was bad.
"""

from __future__ import annotations

import difflib
import os
import re
import reprlib
import sys
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_LONGEST = 200
"""Largest number of characters of a value in a message."""
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories of invisible characters: controls, formats, surrogates, private use, unassigned, line separators."""
SHORT = reprlib.Repr()
SHORT.maxlevel, SHORT.maxstring, SHORT.maxother = 3, _LONGEST, _LONGEST
SHORT.maxlist = SHORT.maxtuple = SHORT.maxdict = SHORT.maxset = SHORT.maxfrozenset = 20
_SYNONYMS: tuple[tuple[str, ...], ...] = (
    ("rate", "learning_rate", "lr", "base_lr", "max_lr", "peak_lr", "step_size", "eta"),
    ("loops", "stages", "n_loops", "num_loops", "loop_count", "passes", "n_passes", "num_passes", "depth", "recurrences"),
    ("width", "hidden_size", "hidden_dim", "d_model", "n_embd", "embed_dim", "embedding_dim", "model_dim", "dim"),
    ("layers", "n_layers", "n_layer", "num_layers", "num_hidden_layers", "blocks", "n_blocks", "num_blocks"),
    ("heads", "n_heads", "n_head", "nhead", "num_heads", "num_attention_heads"),
    ("vocabulary", "vocab", "vocab_size", "n_vocab", "num_tokens"),
    ("length", "seq_len", "seq_length", "sequence_length", "context_length", "block_size", "n_ctx", "max_length", "max_seq_len"),
    ("expansion", "mlp_ratio", "ffn_ratio", "mlp_expansion"),
    ("tied", "tie_weights", "tie_embeddings", "tie_word_embeddings", "weight_tying"),
    ("positions", "pos_emb", "pos_encoding", "position_embedding", "positional_encoding"),
    ("deviation", "std", "init_std", "initializer_range"),
    ("batch", "batch_size", "bs", "train_batch_size", "per_device_train_batch_size"),
    ("steps", "max_steps", "num_steps", "n_steps", "train_steps", "total_steps", "iterations", "max_iters", "updates", "epochs"),
    ("warmup", "warmup_steps", "num_warmup_steps", "warmup_iters"),
    ("schedule", "scheduler", "lr_schedule", "lr_scheduler", "lr_scheduler_type"),
    ("clip", "grad_clip", "gradient_clip", "gradient_clip_val", "clip_grad", "clip_grad_norm", "max_grad_norm"),
    ("weight_decay", "wd", "l2"),
    ("beta1", "adam_beta1", "b1"),
    ("beta2", "adam_beta2", "b2"),
    ("name", "optimizer", "optim", "type"),
    ("evaluate_every", "eval_every", "eval_steps", "eval_interval", "eval_freq"),
    ("checkpoint_every", "save_every", "save_steps", "save_interval", "checkpoint_interval"),
    ("log_every", "logging_steps", "log_steps", "log_interval"),
    ("keep", "save_total_limit", "keep_last"),
    ("threads", "num_threads", "n_threads", "num_workers"),
    ("seed", "random_seed", "random_state", "manual_seed"),
    ("compile", "torch_compile"),
    ("largest", "top", "max", "la"),
    ("smallest", "bottom", "min", "sa"),
    ("magnitude", "lm", "abs"),
    ("k", "top", "num_eigenvalues", "n_eigenvalues", "num_eigs", "neig"),
    ("probes", "num_probes", "n_probes", "num_samples", "n_samples", "n_vectors", "num_vectors"),
    ("steps", "lanczos", "lanczos_steps", "num_lanczos_steps", "n_lanczos"),
    ("batches", "data", "dataloader", "loader", "data_loader"),
    ("loss_fn", "loss", "criterion", "loss_function", "objective"),
    ("params", "parameters", "names"),
    ("plain-looped", "looped", "depth-t"),
    ("depth-1", "single", "baseline"),
    ("shift", "staged", "shift-scp"),
)
"""Names that the field uses for one thing, so that a key from elsewhere leads to ours; the first that exists is suggested."""


class ThalwegError(Exception):
    """Base class of all exceptions of thalweg."""

    exit_code = 1
    told_elsewhere = False
    """Whether another rank prints the message of this error."""


class BadInputError(ThalwegError, ValueError):
    """An input cannot be used; nothing was changed."""

    exit_code = 2


class UnknownNameError(BadInputError, KeyError):
    """An object that is read by names has none of this name; the message suggests one and lists them. A ``KeyError`` too."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # a KeyError would quote its message


class UnknownKeyError(BadInputError):
    """A section of a config or record has a key that is not known; the message suggests one and lists them.

    Args:
        what: kind of the key, such as "key in model".
        key: as given.
        known: the keys of the section.
    """

    def __init__(self, what: str, key: str, known: Iterable[str]) -> None:
        super().__init__(str(unknown(what, key, known)))
        self.what, self.key, self.known = what, key, tuple(known)

    def __reduce__(self) -> tuple[type[BadInputError], tuple[str]]:
        return BadInputError, (str(self),)  # what another process is told


class UnknownArgumentError(BadInputError, TypeError):
    """A function has no argument of this name; the message suggests one and lists them. A ``TypeError`` too."""


class MissingExtraError(BadInputError, ImportError):
    """An optional package is not installed; the message names the extra that installs it."""


class ElsewhereError(BadInputError):
    """Another rank refused its input, so that this one cannot go on either."""

    told_elsewhere = True


class LostRankError(ThalwegError):
    """Another process of the group has ended or does not answer."""


class FolderError(BadInputError):
    """A folder belongs to another run or study, or another process is writing to it."""


class DamagedFileError(ThalwegError):
    """A file that thalweg wrote cannot be read back; the message names it."""


class DiskFullError(ThalwegError):
    """The disk or a quota is full; existing files are unchanged."""


class DivergedError(ThalwegError):
    """Training stopped because a loss or gradient was no longer finite."""


class StudyError(ThalwegError):
    """Some runs of a study failed; those that finished are kept."""


class InstallationError(ThalwegError):
    """A package that thalweg requires is missing, too old, or cannot be imported."""


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
    """A Hessian-vector product disagrees with central differences of the gradient."""


class NotConvergedError(ThalwegError):
    """An iteration ended before its residuals were small enough; the message gives the residuals reached."""


class ResolutionError(BadInputError):
    """A quantity is finer than the estimate can resolve."""


class MemoryLimitError(BadInputError):
    """A computation needs more memory than the limit allows."""


class EmptySubspaceError(BadInputError):
    """The river or valley subspace is empty, but the formula needs at least one direction."""


class StepSizeError(BadInputError):
    """A step size is not positive, or too large for the requested limit to exist."""


class UnstableDirectionError(BadInputError):
    """A limit or a class of valley does not exist because an eigenvalue is negative."""


class OrthonormalityError(BadInputError):
    """The columns of a frame are not orthonormal."""


class InsufficientDataError(BadInputError):
    """There are fewer seeds, checkpoints, steps or tokens than a method needs."""


class EigenSplitCouplingWarning(UserWarning):
    """The split is made of eigenvectors of the same Hessian, so that the coupling is zero by construction."""


class IndefiniteModelWarning(UserWarning):
    """The quadratic model has no minimum: its coupling exceeds what a positive semidefinite Hessian allows."""


class NoPlateauWarning(UserWarning):
    """No wide range of thresholds gives the same split into river and valley."""


class NoClassWarning(UserWarning):
    """A spectrum is measured without its matrix because that would take long, so that the valley gets no class."""


class NoSwitchWarning(UserWarning):
    """A training ends before its schedule has reached the last stage."""


class ShortTrainingWarning(UserWarning):
    """A training ends before its learning rate is warmed up, or before its lengths have grown."""


class UnsharedGainWarning(UserWarning):
    """A schedule with larger steps for fewer passes is used with a model whose passes share no learned gain."""


class OtherSettingsWarning(UserWarning):
    """The saved state of a schedule goes on with other settings than those that it was saved with."""


class HorizonWarning(UserWarning):
    """The number of steps is outside of the range in which the limit describes the run."""


class NegativeMIWarning(UserWarning):
    """Matrix mutual information of this order may be negative."""


class GaugeWarning(UserWarning):
    """Query and key weights are unbalanced; balanced ones give the same function with another spectrum."""


class GrowthWarning(UserWarning):
    """There are too many loops for the bound on the growth of the linear model's states."""


class DamagedRecordWarning(UserWarning):
    """A file that thalweg wrote is damaged; its intact part is used, and the message says what is lost."""


class KinkWarning(UserWarning):
    """The loss has kinks, from ReLU for instance; its second derivative is that of the smooth pieces."""


class NonFiniteLossWarning(UserWarning):
    """A schedule received a loss or gradient norm that is NaN or infinite, and there is no switch to take back."""


class SkippedFilesWarning(UserWarning):
    """Something in a folder of text is not a readable file, and was left out."""


_GIVEN: set[tuple[str, type[Warning], str, int]] = set()
"""Text, category, file and line of the warnings that were given."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Give a warning that points to the line outside of thalweg that led to it; once for each line, see `warn_at`.

    ``stacklevel`` would count frames, whose number depends on the way that a call took through thalweg.

    Args:
        message: one line.
        category: its class.
    """
    frame, ours = sys._getframe(1), str(Path(__file__).parent) + os.sep
    file = frame.f_code.co_filename
    while frame.f_back is not None and (file.startswith(ours) or file.endswith("contextlib.py")):
        frame = frame.f_back
        file = frame.f_code.co_filename
    warn_at(message, category, file, frame.f_lineno, frame.f_globals.get("__name__", ""))


def warn_at(message: str | Warning, category: type[Warning], filename: str, line: int, module: str = "") -> None:
    """Give a warning for a line of a file; where the filters show a warning once for each line, only the first time.

    Python forgets which warnings it gave whenever the filters change, and ``warnings.catch_warnings`` changes them, as PyTorch and
    we do at many places. So a warning in a loop would be repeated in every turn.

    Args:
        message: text, or the warning itself.
        category: its class.
        filename, line: where it belongs.
        module: its name, for the filters; where it is empty, that of the file.
    """
    place, module = (str(message), category, filename, line), module or filename
    if place in _GIVEN and _once_for_each_line(*place, module):
        return
    _GIVEN.add(place)
    warnings.warn_explicit(message, category, filename, line, module)


def _once_for_each_line(text: str, category: type[Warning], filename: str, line: int, module: str) -> bool:
    """Whether the first filter that fits a warning asks for one in each place."""
    for action, text_like, kind, module_like, number in warnings.filters:
        fits = _like(text_like, text) and _like(module_like, module)
        if fits and issubclass(category, kind) and number in (0, line):
            return action in ("default", "module", "once")
    return True


def _like(wanted: re.Pattern[str] | str | None, given: str) -> bool:
    """Whether a filter's pattern fits; Python's own default filters hold plain text, which has to be equal."""
    return wanted is None or (wanted == given if isinstance(wanted, str) else wanted.match(given) is not None)


class Phrase(str):
    """What was given, in words, where there is no value to show: `shown` prints it without quotation marks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def shown(value: object) -> str:
    """Format a value as one line that is safe to print: its ``repr``, shortened if it is long or deep; a class by its name.

    Example:
        >>> print(shown("x" * 1000)[-25:])
        xx...' (1,000 characters)
        >>> shown("two\\nlines"), shown(int)
        ("'two\\\\nlines'", 'the class int')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, str | bytes) and not isinstance(value, Phrase):
        text = escape_hidden(repr(value[:_LONGEST]))
        return text if len(value) <= _LONGEST else f"{text[:-1]}...{text[-1]} ({len(value):,} characters)"
    if isinstance(value, int) and value.bit_length() > 4 * _LONGEST:
        return f"a number of about {round(value.bit_length() * 0.30103):,} digits"
    text = SHORT.repr(value) if isinstance(value, list | tuple | dict | set | frozenset) else repr(value)
    text = escape_hidden(" ".join(text.split()) if "\n" in text else text)
    return text if len(text) <= 4 * _LONGEST else f"{text[: 4 * _LONGEST]}..."


def escape_hidden(text: object) -> str:
    r"""Replace invisible characters of a text by their escapes, among them those that control a terminal.

    Example:
        >>> print(escape_hidden("x\udce9\x1b[31m\n\u202ey"))
        x\udce9\x1b[31m\n\u202ey
    """
    string = str(text)
    if string.isprintable():
        return string
    return "".join(repr(char)[1:-1] if unicodedata.category(char) in _HIDDEN else char for char in string)


def format_error(error: BaseException) -> str:
    """Format an exception from a user's code as one line that is safe to print.

    Example:
        >>> format_error(ValueError("two\\n  lines"))
        'ValueError: two lines'
    """
    return escape_hidden(" ".join(f"{type(error).__name__}: {error}".split()))


def require(ok: bool, what: str, given: object, expected: str) -> None:
    """Raise `BadInputError` with a message of one line unless a condition holds.

    Args:
        ok: the condition.
        what: name of the input.
        given: the value that was given, or a `Phrase` that completes "given ...".
        expected: phrase that completes "expected ...".

    Example:
        >>> require(0 > 1, "width", 0, "a whole number of at least 1")
        Traceback (most recent call last):
        ...
        thalweg.errors.BadInputError: width: given 0, expected a whole number of at least 1
    """
    if not ok:
        raise BadInputError(f"{what}: given {shown(given)}, expected {expected}")


def plural(count: int, noun: str, more: str = "") -> str:
    """A number with its noun, in the plural unless it is 1.

    Example:
        >>> plural(1, "seed"), plural(3, "seed"), plural(2, "pass", "passes")
        ('1 seed', '3 seeds', '2 passes')
    """
    return f"{count:,} {noun if count == 1 else more or noun + 's'}"


def unknown(what: str, given: str, known: Iterable[str], elsewhere: Mapping[str, Sequence[str]] | None = None) -> BadInputError:
    """Build the error for an unknown name; its message suggests a known one and lists them.

    The suggestion is, in this order: a common synonym of the given name; the same name in another place; a synonym in another
    place; the only name that begins so; the name that is spelled most alike.

    Args:
        what: kind of the name, such as "arm".
        given: the name that was given.
        known: the names that exist.
        elsewhere: names that exist in other places -> phrases that say where, such as "steps" -> ("'training.steps'",).

    Example:
        >>> print(unknown("arm", "lopped", ["single", "looped"]))
        unknown arm 'lopped'; did you mean 'looped'? Known: looped, single
        >>> print(unknown("key", "max_steps", ["seed"], {"steps": ["'training.steps'"]}))
        unknown key 'max_steps'; did you mean 'training.steps'? Known: seed
    """
    names, places = sorted(known), elsewhere or {}
    likely = " or ".join(_likely(str(given)[:_LONGEST].lstrip("-"), {name.lstrip("-"): name for name in names}, places))
    listed = ", ".join(names) or "none"
    return BadInputError(f"unknown {what} {shown(given)}; {f'did you mean {likely}? Known' if likely else 'known'}: {listed}")


def synonyms(name: str) -> list[str]:
    """A name and those that the field uses for the same, the name itself first.

    Example:
        >>> synonyms("Weight-Decay")
        ['Weight-Decay', 'weight_decay', 'wd', 'l2']
    """
    spellings = {name.lower(), name.lower().replace("-", "_")}
    return [name, *(one for group in _SYNONYMS if spellings & set(group) for one in group)]


def _likely(given: str, names: Mapping[str, str], places: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """The known name that was probably meant, or the places of one that exists elsewhere; empty where nothing is near.

    Args:
        given: a name, without the dashes of an option.
        names: known name without dashes -> as it is written.
        places: name that exists elsewhere -> phrases that say where.
    """
    meant = synonyms(given)
    if here := next((name for name in meant if name in names), None):
        return [repr(names[here])]
    if there := next((name for name in meant if name in places), None):
        return places[there]
    begun = [name for name in names if len(given) > 2 and name.startswith(given)]
    if len(begun) == 1:
        return [repr(names[begun[0]])]
    # A name that shares no part has to be nearer, and one in another place too, as there are many.
    alike = [name for name in names if _share_a_part(given, name)]
    near = difflib.get_close_matches(given, alike, 1, 0.5) + difflib.get_close_matches(given, names, 1, 0.7)
    near += difflib.get_close_matches(given, list(places), 1, 0.75)
    best = max(near, key=lambda name: difflib.SequenceMatcher(None, name, given).ratio(), default=None)
    return [] if best is None else [repr(names[best])] if best in names else places[best]


def _share_a_part(given: str, name: str) -> bool:
    """Whether two names begin with the same letter or have four letters in a row in common."""
    common = difflib.SequenceMatcher(None, given, name).find_longest_match().size
    return common >= 4 or name[:1].lower() == given[:1].lower()


def require_known(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise the error of `unknown` for the first of some names that does not exist.

    Args:
        what: kind of the names, such as "arm".
        given: the names that were given.
        known: the names that exist.
    Raises:
        BadInputError: suggests a similar name.
    """
    names = list(known)
    for name in given:
        if name not in names:
            raise unknown(what, name, names)
