import json
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from thalweg.errors import BadInputError
from thalweg.serialization import checked, convert, fingerprint, from_dict, plain, to_dict


@dataclass(frozen=True)
class Circle:
    kind: ClassVar[str] = "circle"
    radius: float = 1.0


@dataclass(frozen=True)
class Box:
    kind: ClassVar[str] = "box"
    sides: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Inner:
    name: str = "a"
    on: bool = False


@dataclass(frozen=True)
class Outer:
    count: int
    shape: Circle | Box = field(default_factory=Circle)
    spare: Circle | None = None
    inner: Inner = field(default_factory=Inner)
    mode: Literal["slow", "fast"] = "slow"
    parts: tuple[Inner, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    anything: Any = None


FULL = Outer(3, Box((4, 5, 6)), Circle(2.5), Inner("b", True), "fast", (Inner(), Inner("c")), {"x": 1.5}, [1, "two"])


@pytest.mark.parametrize("value", [FULL, Outer(0)], ids=["full", "defaults"])
def test_a_nested_dataclass_survives_the_way_through_json(value):
    assert from_dict(Outer, json.loads(json.dumps(to_dict(value)))) == value


def test_a_dataclass_with_a_kind_is_written_with_it_first():
    assert list(to_dict(Circle())) == ["kind", "radius"]


def test_a_dataclass_without_a_kind_is_written_without():
    assert to_dict(Inner("b")) == {"name": "b", "on": False}


def test_the_kind_chooses_the_class_of_a_union():
    assert from_dict(Outer, {"count": 1, "shape": {"kind": "box", "sides": [9]}}).shape == Box((9,))


def test_missing_keys_take_their_defaults():
    assert from_dict(Outer, {"count": 7}) == Outer(7)


def test_a_list_becomes_a_tuple():
    assert from_dict(Box, {"sides": [3, 4]}).sides == (3, 4)


def test_none_is_accepted_where_it_is_allowed():
    assert from_dict(Outer, {"count": 1, "spare": None}).spare is None


def test_a_whole_number_becomes_a_float_where_a_float_is_hinted():
    radius = from_dict(Circle, {"radius": 2}).radius
    assert (radius, type(radius)) == (2.0, float)


def refused(values, message, cls=Outer, place=""):
    with pytest.raises(BadInputError, match=message):
        from_dict(cls, values, place)


def test_an_unknown_key_is_refused_with_the_likely_one():
    refused({"count": 1, "iner": {}}, "unknown key in Outer 'iner'; did you mean 'inner'")


def test_an_unknown_key_deep_inside_is_refused_with_its_place():
    refused({"count": 1, "inner": {"nam": "x"}}, r"unknown key in run\.toml\.inner 'nam'; did you mean 'name'", place="run.toml")


@dataclass(frozen=True)
class Renamed:
    EARLIER: ClassVar[dict[str, str]] = {"old": "new"}
    new: int = 1


def test_a_key_of_an_earlier_version_is_read_and_written_under_its_new_name():
    assert from_dict(Renamed, {"old": 5}) == from_dict(Renamed, {"new": 5}) == Renamed(5)
    assert to_dict(Renamed(5)) == {"new": 5}
    refused({"older": 5}, "unknown key in Renamed 'older'", cls=Renamed)


def test_a_kind_is_an_unknown_key_for_a_class_without_kinds():
    refused({"kind": "inner"}, "unknown key in Inner 'kind'", cls=Inner)


def test_a_missing_key_is_refused_with_what_it_should_hold():
    refused({}, "^Outer: key 'count' is missing; expected a whole number$")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("count", "3", "count: given '3', expected a whole number"),
        ("count", 3.0, r"count: given 3\.0, expected a whole number"),
        ("count", True, "count: given True, expected a whole number"),
        ("count", None, "count: given None, expected a whole number"),
        ("inner", {"name": 1}, r"inner\.name: given 1, expected a string"),
        ("inner", {"on": 1}, r"inner\.on: given 1, expected true or false"),
        ("inner", [], r"inner: given \[\], expected a section with keys"),
        ("inner", None, "inner: given None, expected a section with keys"),
        ("parts", {}, r"parts: given \{\}, expected a list, each a section \(Inner\)"),
        ("parts", [{}, {"on": "no"}], r"parts\[1\]\.on: given 'no', expected true or false"),
        ("weights", {"x": "heavy"}, r"weights\.x: given 'heavy', expected a number"),
        ("weights", {"x": True}, r"weights\.x: given True, expected a number"),
        ("weights", [], r"weights: given \[\], expected a section"),
        ("mode", "fats", "unknown mode 'fats'; did you mean 'fast'"),
        ("spare", {"radius": False}, r"spare\.radius: given False, expected a number"),
        ("shape", {"kind": "bocks"}, r"unknown kind in shape 'bocks'; .*Known: box, circle"),
        ("shape", {"radius": 1}, "shape: expected a section with kind = one of box, circle"),
        ("shape", None, "shape: expected a section with kind = one of box, circle"),
        ("shape", {"kind": "box", "radius": 1}, "unknown key in shape 'radius'"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_place(key, value, message):
    refused({"count": 1} | {key: value}, message)


def test_a_string_is_not_a_list():
    with pytest.raises(BadInputError, match="p: given 'abc', expected a list, each a whole number"):
        convert(tuple[int, ...], "abc", "p")


def test_equal_values_have_equal_fingerprints():
    assert fingerprint(FULL) == fingerprint(from_dict(Outer, to_dict(FULL)))


def test_the_order_of_keys_does_not_change_the_fingerprint():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


@pytest.mark.parametrize("other", [Outer(4), Outer(3, Box()), Outer(3, inner=Inner("b")), Outer(3, mode="fast")])
def test_values_that_differ_have_other_fingerprints(other):
    assert fingerprint(other) != fingerprint(Outer(3))


def test_the_kind_is_part_of_the_fingerprint():
    assert fingerprint(Outer(1, Circle())) != fingerprint(Outer(1, Box()))


def test_a_whole_number_given_for_a_float_has_the_fingerprint_of_the_float():
    assert fingerprint(Circle(2)) == fingerprint(Circle(2.0))


def test_another_kind_is_refused_where_only_one_class_can_stand():
    refused({"kind": "box", "radius": 1.0}, "box", cls=Circle)


def test_a_kind_that_is_no_string_is_refused():
    refused({"count": 1, "shape": {"kind": ["box"]}}, "unknown kind in shape")


def test_a_missing_choice_is_refused_with_its_options():
    @dataclass
    class Chosen:
        mode: Literal["slow", "fast"]

    refused({}, "key 'mode' is missing; expected .*slow.*fast", cls=Chosen)


@dataclass(frozen=True)
class Own:
    """Checks itself."""

    count: int = 1
    size: float = 1.0
    sizes: tuple[float, ...] = ()
    shape: Circle | Box = Box()

    def __post_init__(self):
        checked(self, "own.")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 2.0}, r"own\.count: given 2\.0, expected a whole number"),
        ({"size": float("nan")}, r"own\.size: given nan, expected a finite number"),
        ({"size": 10**400}, r"own\.size: given a number of about 400 digits, expected a number that 64 bits hold"),
        ({"sizes": (1.0, float("inf"))}, r"own\.sizes\[1\]: given inf, expected a finite number"),
        ({"sizes": "12"}, r"own\.sizes: given '12', expected a list, each a number"),
        ({"shape": Box}, r"own\.shape: given the class Box, expected a section with kind = one of box, circle, or an object of"),
    ],
    ids=str,
)
def test_a_dataclass_that_checks_itself_refuses_what_its_fields_cannot_hold(values, message):
    with pytest.raises(BadInputError, match=message):
        Own(**values)


def test_a_dataclass_that_checks_itself_holds_plain_values():
    made = Own(np.int64(3), np.float32(0.5), np.array([1, 2]), Circle(1.0))
    assert made == Own(3, 0.5, (1.0, 2.0), Circle(1.0))
    assert [type(one) for one in (made.count, made.size, *made.sizes)] == [int, float, float, float]


NUMBERS = [np.int64(3), np.bool_(True), np.float32(0.5), np.str_("x"), np.longdouble(2), Fraction(1, 2)]


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_numbers_of_other_libraries_become_plain(value):
    assert type(plain(value)) in (int, bool, float, str)
    assert plain(value) == value
