import re
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_tasks import ARMS, TASKS, make_task_runs, make_tasks
from pages import CHROMIUM, HOSTILE, Tags, laid_out, leaving, opened, unexplained

from thalweg.records.experiment import FirstScreen, TaskOutcome
from thalweg.records.run import Cell, Verdict
from thalweg.report.tasks.page import percent, render_tasks, task_tables, write_task_report

NAMES = ("accuracy-over-length", "accuracy-over-loops", "switch-by-task", "accuracy-over-time", "halting", "cost-saved")


def hostile(study):
    """Everything that can be named has a hostile name; tasks are made with theirs."""
    return replace(
        study,
        name=HOSTILE,
        preset=HOSTILE,
        complete=False,
        missing=(HOSTILE,),
        verdicts=(Verdict(HOSTILE, HOSTILE, numbers={HOSTILE: Cell(1.0)}),),
        first=FirstScreen(HOSTILE, (HOSTILE,), HOSTILE, HOSTILE),
        setup=dict.fromkeys(("Model", "Training", HOSTILE), HOSTILE),
        provenance=replace(study.provenance, device=HOSTILE, commit=HOSTILE),
    )


@pytest.fixture(scope="module")
def study():
    return make_tasks(TASKS[:2], seeds=2)


@pytest.fixture(scope="module")
def folder(study, tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("tasks")
    write_task_report(study, make_task_runs(TASKS[:2], seeds=2), where)
    return where


@pytest.fixture(scope="module")
def page(folder) -> str:
    return (folder / "report.html").read_text()


def table_of(page: str, task: str) -> str:
    part = page[page.index(f"<h3>{task}</h3>") :]
    return part[: part.index("</table>")]


def row_of(page: str, task: str, arm: str) -> str:
    part = table_of(page, task)
    part = part[part.index(f'<th scope="row">{arm}<') :]
    return part[: part.index("</tr>")]


def cells_of(page: str, task: str, arm: str) -> list[str]:
    return re.findall(r"<td data-label=\"[^\"]+\"><span>(.*?)</span></td>", row_of(page, task, arm), re.DOTALL)


def test_page_has_every_figure_inside_with_words_for_the_blind(page) -> None:
    images = [attributes for tag, attributes in Tags(page).found if tag == "img"]
    assert len(images) == 6
    assert all(i["src"].startswith("data:image/") and re.search(r"\d", i["alt"]) for i in images)


def test_units_in_tables_are_explained_above_them(page) -> None:
    assert "nats" in page
    assert unexplained(page) == set()


def test_figures_are_kept_as_files_too(folder) -> None:
    files = {p.name for p in (folder / "figures").iterdir()}
    assert files == {f"{name}.{kind}" for name in NAMES for kind in ("svg", "png")}


def test_page_asks_the_network_for_nothing(page) -> None:
    assert leaving(page) == []
    assert "<script" not in page


def test_the_question_is_the_title_then_answers_tables_figures_set_up_command(page) -> None:
    parts = [
        "<h1>Do loops generalise, and does SHIFT get there sooner?</h1>",
        'Asked by <a href="https://arxiv.org/abs/2510.10089" rel="noopener">https://arxiv.org/abs/2510.10089</a>.',
        "Preset paper, 2 tasks, 7 arms, 2 seeds.",
        "<h2>What was found</h2>",
        "<li>Loops help.</li><li>Stages save.</li>",
        f'id="{NAMES[0]}"',
        "<h2>What to do with it</h2>\n<p>Loop on parity.</p>",
        "<h2>How sure it is</h2>\n<p>Three seeds.</p>",
        'id="answers"',
        "<h3>parity</h3>",
        "<h3>copy</h3>",
        *(f'id="{name}"' for name in NAMES[1:]),
        "<h2>Set-up</h2>",
        "thalweg study tasks --preset paper --task parity,copy",
    ]
    places = [page.index(part) for part in parts]
    assert places == sorted(places)


def test_a_row_has_the_mean_the_interval_and_every_seed(page, study) -> None:
    one = next(o for o in study.outcomes if (o.task, o.arm) == ("copy", "shift"))
    trained, edge, end, *_ = cells_of(page, "copy", "shift")
    assert trained.startswith(f"{100 * one.trained.mean:.1f}<small>[{percent(one.trained.low)}, {percent(one.trained.high)}]")
    for cell, length in ((edge, 20), (end, 40)):
        row = one.accuracy[one.lengths.index(length)]
        assert cell.startswith(f"{50 * sum(row):.1f}<small>[")
        assert cell.endswith(f"<small>{100 * row[0]:.1f} · {100 * row[1]:.1f}</small>")


def test_a_row_has_cost_and_drop_in_the_order_of_the_headings(page, study) -> None:
    headings = re.findall(r'<th scope="col">([^<]*)', table_of(page, "copy"))
    assert headings == [
        "arm", "all trained lengths (%)", "n = 20 (%)", "n = 40 (%)", "time to Looped's score (Looped's: 1)",
        "FLOPs to Looped's score (Looped's: 1)", "drop at a switch (points)",
        "rise at a switch (nats)", "time (s)", "TFLOP",
    ]  # fmt: skip
    one = next(o for o in study.outcomes if (o.task, o.arm) == ("copy", "shift-hard"))
    given = [re.match(r"[^<]*", cell).group() for cell in cells_of(page, "copy", "shift-hard")]
    wanted = [one.share_seconds.value, one.share_flops.value, one.drop.mean, one.jump.mean, one.seconds.mean, one.teraflops.mean]
    assert given[3:] == [f"{value:.3g}" for value in wanted]


def test_arms_stand_in_the_order_of_the_study(study) -> None:
    mixed = replace(study, outcomes=tuple(reversed(study.outcomes)))
    assert [[one.arm for one, _ in table.rows] for table in task_tables(mixed)] == [list(ARMS)] * 2


def test_a_phone_names_every_number_as_the_head_of_the_table_does(page) -> None:
    headings = re.findall(r'<th scope="col">([^<]*)', table_of(page, "copy"))
    assert re.findall(r'<td data-label="([^"]*)"', row_of(page, "copy", "shift-hard")) == headings[1:]


def test_numbers_that_are_not_there_are_dashes(page) -> None:
    cells = cells_of(page, "copy", "single")
    assert cells[5:7] == ["-", "-"]  # drop and jump
    assert cells[3] == "not reached<small>in any of 2 runs</small>"


def test_what_a_length_is_stands_below_it(study) -> None:
    assert [table.lengths for table in task_tables(study)] == [{20: "longest trained", 40: "longest tested"}] * 2
    short = replace(study, longest=dict.fromkeys(TASKS, 22))
    assert task_tables(short)[0].lengths == {20: "in the trained range", 40: "longest tested"}
    inside = replace(study, longest=dict.fromkeys(TASKS, 40))
    assert task_tables(inside)[0].lengths == {40: "longest trained"}


def test_missing_and_failed_runs_are_said(study) -> None:
    failed = TaskOutcome("parity", "shift", (), Cell(None), (), (), 0, (), (), (), failed=2)
    whole = [o for o in study.outcomes if o.task == "parity" and o.arm == "looped"]
    some = replace(
        study,
        complete=False,
        missing=("parity-shift-seed1",),
        command="thalweg study tasks",
        outcomes=(*whole, failed),
        verdicts=(),
    )
    page = render_tasks(some, [])
    assert "This study is not complete: 1 run is missing, and everything below is from the others." in page
    assert "run <code>thalweg study tasks --out FOLDER</code>" in page
    assert "<summary>its name</summary>parity-shift-seed1<" in page
    assert "0 of 2 seeds" in row_of(page, "parity", "shift")
    assert "2 failed" in row_of(page, "parity", "shift")
    assert cells_of(page, "parity", "shift") == ["-"] * 9
    assert "<h3>copy</h3>" not in page
    assert 'id="answers"' not in page
    assert "not complete" not in render_tasks(study, [])


def test_nothing_at_all_still_makes_a_page(study, tmp_path) -> None:
    write_task_report(replace(study, outcomes=(), verdicts=()), {}, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "Outcomes" not in page
    assert "<img" not in page
    assert "<h2>Set-up</h2>" in page


def test_a_single_seed_has_no_intervals(tmp_path) -> None:
    write_task_report(make_tasks(("copy",), seeds=1), make_task_runs(("copy",), seeds=1), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "1 task, 7 arms, 1 seed." in page
    assert "<small>" not in "".join(cells_of(page, "copy", "looped"))


def test_per_cent() -> None:
    assert [percent(x) for x in (None, 1.0, 0.0, -0.0001, 0.12345, -0.2)] == ["-", "100.0", "0.0", "0.0", "12.3", "-20.0"]


def test_names_of_users_are_inert(tmp_path) -> None:
    tasks = (HOSTILE, "parity")
    write_task_report(hostile(make_tasks(tasks, ARMS[:4], 1)), make_task_runs(tasks, ARMS[:4], 1), tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<img src=x" not in page
    assert page.count("{{ 7*7 }}") > 10  # shown as it is, not evaluated
    assert len([tag for tag, _ in Tags(page).found if tag == "img"]) == 6


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study with names that would do harm."""
    tasks, folder = (HOSTILE, *TASKS[:4]), tmp_path_factory.mktemp("hostile")
    write_task_report(hostile(make_tasks(tasks)), make_task_runs(tasks), folder)
    return folder / "report.html"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [1200, 390])
def test_page_in_a_real_browser(hostile_page: Path, width: int) -> None:
    with opened(hostile_page, width) as (page, wrong):
        sizes, overflow, title = laid_out(page)
    assert wrong == []
    assert len(sizes) == 6
    assert all(natural > 0 and shown > 0.8 * min(width, 1088) - 40 for natural, shown in sizes[1:])
    natural, shown = sizes[0]  # beside what was found, where there is room for both
    assert natural > 0
    assert shown > 0.4 * min(width, 1088) - 40
    assert overflow <= 0
    assert HOSTILE in title
