import pytest
import torch
from torch import nn

import thalweg as tw
from thalweg.errors import BadInputError


@pytest.fixture(scope="module")
def points() -> list[tw.LayerProbe]:
    torch.manual_seed(0)
    model, probe = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), tw.LayerProbe()
    found = []
    for step in range(3):
        found.append(probe.measure(lambda m, x: m(x).square().mean(), model, [torch.eye(3)], step))
        with torch.no_grad():
            model[0].weight.mul_(0.5)
    return found


def test_bars_are_the_numbers_of_one_point(points) -> None:
    axes = tw.plot(points[0]).axes
    assert [panel.get_title() for panel in axes] == ["largest eigenvalue", "trace", "entropy $S_1$ / log P"]
    widths = [bar.get_width() for bar in axes[1].patches]
    assert widths == pytest.approx([block.trace.value for block in points[0].layers.values()])
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["0", "2"]


def test_colours_are_the_numbers_along_the_training(points) -> None:
    panels = [panel for panel in tw.plot(points).axes if panel.get_title()]
    assert [panel.get_title() for panel in panels][-1] == "cosine with the point before"
    cells = panels[0].images[0].get_array()
    truth = [[point.layers[name].largest[0] for point in points] for name in ("0", "2")]
    assert cells.tolist() == truth
    assert len(panels[0].texts) == 6


def test_other_groups_are_refused(points) -> None:
    other = tw.LayerProbe("matrix").measure(lambda m, x: m(x).square().mean(), nn.Linear(3, 2), [torch.eye(3)])
    with pytest.raises(BadInputError, match="records: given 2 sets of groups"):
        tw.plot([*points, other])
