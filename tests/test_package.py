"""The distribution: built twice alike, with everything in it that an installed thalweg reads."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytest.importorskip("hatchling", reason="hatchling, of the extra `test`, is not installed")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, bytes]]:
    """Name -> bytes of wheel and sdist, built in two folders and two time zones."""
    builds = []
    for zone in ("UTC", "Asia/Tokyo"):
        folder = tmp_path_factory.mktemp("dist")
        command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
        environment = {"PATH": "/usr/bin:/bin", "SOURCE_DATE_EPOCH": "1700000000", "TZ": zone}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        builds.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())})
    return builds


def test_two_builds_are_equal_to_the_last_byte(built: list[dict[str, bytes]]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert list(built[0]) == [f"thalweg-{version}-py3-none-any.whl", f"thalweg-{version}.tar.gz"]
    assert built[0] == built[1]


def test_the_wheel_holds_the_package_and_nothing_else(built: list[dict[str, bytes]], tmp_path: Path) -> None:
    wheel = next(name for name in built[0] if name.endswith(".whl"))
    (tmp_path / wheel).write_bytes(built[0][wheel])
    inside = {name for name in zipfile.ZipFile(tmp_path / wheel).namelist() if ".dist-info/" not in name}
    sources = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src/thalweg").rglob("*") if path.is_file()}
    assert inside == {name for name in sources if "__pycache__" not in name}
    assert "thalweg/py.typed" in inside


def test_the_sdist_holds_what_the_tests_need(built: list[dict[str, bytes]], tmp_path: Path) -> None:
    name = next(name for name in built[0] if name.endswith(".tar.gz"))
    (tmp_path / name).write_bytes(built[0][name])
    with tarfile.open(tmp_path / name) as archive:
        inside = {member.partition("/")[2] for member in archive.getnames()}
    assert {"Makefile", "pyproject.toml", "README.md", "requirements/constraints.txt", "tests/conftest.py", "LICENSE"} <= inside
