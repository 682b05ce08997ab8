import dataclasses
from collections import OrderedDict, UserDict, defaultdict, deque, namedtuple
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from thalweg.curvature.containers import cast, copied, map_tensors, shapes_in, tensors_in
from thalweg.errors import BadInputError

Pair = namedtuple("Pair", "x y")


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: torch.Tensor
    name: str = "a"


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x


def two():
    return torch.tensor([1.0, 2.0])


HOLDERS = {
    "list": lambda x: [x, 1],
    "tuple": lambda x: (x, "name"),
    "namedtuple": lambda x: Pair(x, None),
    "dict": lambda x: {"x": x},
    "OrderedDict": lambda x: OrderedDict(x=x),
    "defaultdict": lambda x: defaultdict(list, x=x),
    "UserDict": lambda x: UserDict(x=x),
    "read-only mapping": lambda x: MappingProxyType({"x": x}),
    "deque": lambda x: deque([x]),
    "frozen dataclass": Frozen,
    "slots": Slotted,
    "attributes": lambda x: SimpleNamespace(inner=SimpleNamespace(x=x), name="a"),
    "nested": lambda x: {"a": [(x,), UserDict(b=Frozen(x))]},
}


@pytest.mark.parametrize("name", HOLDERS)
def test_tensors_are_found_converted_and_put_into_a_container_of_the_same_kind(name):
    before = HOLDERS[name](two())
    after = map_tensors(torch.neg, before)
    assert type(after) is type(before)
    assert all(torch.equal(tensor, -two()) for tensor in tensors_in(after))
    assert all(torch.equal(tensor, two()) for tensor in tensors_in(before))
    assert len(tensors_in(after)) == len(tensors_in(before)) >= 1


@pytest.mark.parametrize("name", HOLDERS)
def test_a_copy_does_not_change_with_what_it_was_copied_from(name):
    buffer = two()
    kept = copied(HOLDERS[name](buffer))
    buffer.zero_()
    assert all(torch.equal(tensor, two()) for tensor in tensors_in(kept))


def test_arrays_stay_arrays_and_are_converted():
    after = map_tensors(
        lambda tensor: cast(tensor, torch.float64), {"x": np.ones(3, np.float32), "n": np.arange(2), "s": np.array(["a"])}
    )
    assert [type(part) for part in after.values()] == [np.ndarray] * 3
    assert [part.dtype.kind + str(part.dtype.itemsize) for part in after.values()] == ["f8", "i8", "U4"]


def test_a_packed_sequence_keeps_its_batch_sizes():
    packed = pack_padded_sequence(torch.randn(3, 4, 2), torch.tensor([4, 2, 1]), batch_first=True, enforce_sorted=False)
    doubled = map_tensors(lambda tensor: cast(tensor, torch.float64), packed)
    assert doubled.data.dtype == torch.float64
    assert torch.equal(doubled.batch_sizes, packed.batch_sizes)


def test_a_cycle_ends():
    holder = SimpleNamespace(x=two())
    holder.itself = holder
    assert torch.equal(map_tensors(torch.neg, holder).x, -two())


def test_objects_without_tensors_are_handed_on_as_they_are():
    for value in (SimpleNamespace(a=1), "text", 3, None, torch.nn.Linear(1, 1), open):
        assert map_tensors(torch.neg, value) is value


def test_a_copy_still_requires_a_gradient_and_is_a_leaf():
    given = two().requires_grad_()
    kept = copied([given * 1, given])
    assert [tensor.requires_grad for tensor in kept] == [True, True]
    assert all(tensor.is_leaf for tensor in kept)


def test_an_iterator_inside_of_a_batch_is_refused():
    with pytest.raises(
        BadInputError, match=r"^batches: a batch holds a generator, which can be read once only, .*; make it a list first$"
    ):
        copied((two(), (i for i in range(3))))


def test_a_container_that_cannot_be_made_again_is_named():
    class Odd(list):
        def __init__(self):
            super().__init__([two()])

    with pytest.raises(BadInputError, match=r"^batches: a batch holds a Odd, which cannot be copied; give its tensors in a dict"):
        copied(Odd())


@pytest.mark.parametrize(
    ("dtype", "given", "expected"),
    [
        (torch.float64, torch.float32, torch.float64),
        (torch.float64, torch.complex64, torch.complex128),
        (torch.float32, torch.complex128, torch.complex64),
        (torch.float64, torch.int64, torch.int64),
        (torch.float64, torch.bool, torch.bool),
    ],
)
def test_only_numbers_with_a_point_change_their_type(dtype, given, expected):
    assert cast(torch.ones(2).to(given), dtype).dtype == expected


def test_shapes_are_those_of_tensors_and_of_lists_where_there_are_none():
    assert shapes_in(UserDict(x=two(), names=["a"])) == ((2,),)
    assert shapes_in([["a", "b"], ["c"]]) != shapes_in([["a", "b"], ["c", "d"]])
    jagged = [torch.nested.nested_tensor([torch.ones(n, 3) for n in sizes], layout=torch.jagged) for sizes in ((1, 2), (2, 2))]
    assert shapes_in(jagged[0]) == ((3, 3),) != shapes_in(jagged[1])


def test_a_copy_has_the_attributes_that_were_set_on_a_tensor_and_a_jagged_one_keeps_its_own():
    given = two()
    given.lengths = [1, 1]
    assert copied(given).lengths == [1, 1]
    jagged = torch.nested.nested_tensor([torch.ones(1, 3), torch.ones(2, 3)], layout=torch.jagged)
    assert map_tensors(lambda tensor: cast(tensor, torch.float64), jagged).values().dtype == torch.float64
