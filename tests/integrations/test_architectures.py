"""Every architecture of the table in docs/architectures.md does what its row says, with the installed version of transformers."""

import pytest

pytest.importorskip("transformers", reason="the extra hf is not installed")

from tests.integrations.architectures import MODELS, NO, YES, documented, generated, made, repeated, row

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


@pytest.mark.parametrize("name", MODELS)
def test_documented_row_is_what_the_architecture_does(name: str) -> None:
    assert row(name) == documented()[name]


def test_at_least_28_architectures_do_all_of_it() -> None:
    assert sum(set(cells.values()) == {YES} for cells in documented().values()) >= 28


def test_the_table_has_a_row_for_every_architecture() -> None:
    assert list(documented()) == list(MODELS)


def test_static_cache_of_gpt_neo_differs_in_plain_transformers_too() -> None:
    plain = repeated("gpt_neo", made("gpt_neo"))
    assert not generated(plain, cache_implementation="static").equal(generated(plain, use_cache=False))
    assert documented()["gpt_neo"]["static cache"] == NO


def test_a_wrong_pass_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from thalweg.integrations.looped_layers import LoopedLayers

    monkeypatch.setattr(LoopedLayers, "_gain", lambda self, number, states: 0.999)
    assert row("llama")["three loops"] == NO


def test_a_slot_of_another_pass_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from thalweg.integrations import pass_cache

    monkeypatch.setattr(pass_cache, "view", lambda value, span, number: value)
    with pytest.raises(RuntimeError, match="must match"):
        row("llama")
