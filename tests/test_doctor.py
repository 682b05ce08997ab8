import json
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from thalweg import cli
from thalweg.doctor import Device, describe, diagnose

METADATA = """Metadata-Version: 2.4
Name: thalweg
Version: 9.9
Provides-Extra: hf
Provides-Extra: ray
Provides-Extra: test
{required}
Requires-Dist: pluggy>=1; extra == "hf"
Requires-Dist: no-such-ray>=2; extra == "ray"
Requires-Dist: no-such-tester; extra == "test"
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that installs metadata of a thalweg 9.9 with some more requirements, before all others."""

    def install(*more: str) -> None:
        folder = tmp_path / "thalweg-9.9.dist-info"
        folder.mkdir()
        lines = "\n".join(f"Requires-Dist: {line}" for line in ("rich>=1", *more))
        (folder / "METADATA").write_text(METADATA.format(required=lines))
        monkeypatch.syspath_prepend(str(tmp_path))

    return install


def test_versions_and_threads_are_those_of_pytorch(installed, capsys: pytest.CaptureFixture) -> None:
    installed()
    assert cli.call(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["thalweg"], found["torch"], found["threads"]) == ("9.9", torch.__version__, torch.get_num_threads())
    assert found["devices"][0]["name"] == "cpu"
    assert [package["name"] for package in found["packages"]] == ["rich"]
    assert found["problems"] == []


def test_extras_are_installed_or_say_what_to_run(installed) -> None:
    installed()
    lines = describe(diagnose())
    extras = [line for line in lines if line.startswith("extra")]
    assert extras == [
        f"extra hf          installed: pluggy {version('pluggy')}",
        "extra ray         not installed; pip install 'thalweg[ray]': no-such-ray missing",
    ]
    assert lines[-1] == "nothing that thalweg needs is missing"


def test_a_missing_and_an_old_package_are_problems_and_the_exit_code_is_1(installed, capsys: pytest.CaptureFixture) -> None:
    installed("numpy>=99", "no-such-package", 'no-such-windows; sys_platform == "other"')
    assert cli.call(["doctor"]) == 1
    out, err = capsys.readouterr()
    assert "problem: no-such-package is not installed; run: pip install 'no-such-package'\n" in out
    assert " is installed, expected >=99; run: pip install 'numpy>=99' (and 1 more)" in err
    assert err.count("\n") == 1
    assert "no-such-windows" not in out


def test_a_pytorch_that_cannot_be_imported_is_a_finding(installed, monkeypatch: pytest.MonkeyPatch) -> None:
    installed()
    monkeypatch.setitem(sys.modules, "torch", None)
    found = diagnose()
    assert (found.torch, found.devices, found.threads) == (None, (), None)
    assert found.problems[0].startswith("torch cannot be imported: ")
    assert any(line.startswith("torch             cannot be imported") for line in describe(found))


def test_gpus_and_what_their_driver_complains_about(installed, monkeypatch: pytest.MonkeyPatch) -> None:
    installed()

    def available() -> bool:
        warnings.warn("the driver\nis too old", stacklevel=1)
        return True

    monkeypatch.setattr(torch.cuda, "is_available", available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name="Some GPU", total_memory=3 * 2**30))
    found = diagnose()
    assert found.devices[1] == Device("cuda:0", "Some GPU", 3.0)
    assert found.problems == ("torch: the driver is too old",)


def test_the_report_fits_one_screen(installed) -> None:
    installed(*(f"package-{number}" for number in range(20)))
    lines = [line for line in describe(diagnose()) if not line.startswith("problem")]
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100


def test_sources_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thalweg.doctor._distribution", lambda: None)
    assert diagnose().problems == ("thalweg runs from its sources and is not installed; run: pip install -e .",)
