"""What a package needs besides code: equal lists, whole wheels, public names, markers."""

import ast
import os
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import storyboard
from tests.conftest import ROOT
from tools import requirements

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


def test_requirements_are_pyprojects():
    """``make requirements`` writes them."""
    assert requirements.TARGET.read_text(encoding="utf-8") == requirements.from_pyproject()


def test_constraints_lie_in_the_ranges():
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, version = line.split("==")
        pins[canonicalize_name(name)] = version

    extras = PROJECT["optional-dependencies"].values()
    for requirement in map(Requirement, chain(PROJECT["dependencies"], *extras)):
        if requirement.name != "storyboard":
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


def test_type_checkers_see_the_names_that_the_package_has():
    stub = ast.parse((ROOT / "storyboard" / "__init__.pyi").read_text(encoding="utf-8"))
    modules = {node.names[0].asname: node.module for node in stub.body}
    assert modules == {name: f"storyboard.{module}" for name, module in storyboard._MODULES.items()}
    checked = PYPROJECT["tool"]["mypy"]["files"]
    assert {module.replace(".", "/") + ".py" for module in modules.values()} <= set(checked)
    assert all(getattr(storyboard, name) is not None for name in storyboard.__all__)
    with pytest.raises(AttributeError, match="no attribute 'heroine'"):
        storyboard.heroine  # noqa: B018 (reading it is what is tested)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("expression", "selected"),
    [
        ("", ["slow", "plain"]),
        ("slow", ["slow"]),
        ("not browser", ["slow", "plain"]),
        ("not full or slow", ["slow", "plain"]),
        ("full", ["full"]),
        ("full or slow", ["full", "slow"]),
    ],
)
def test_full_runs_only_where_it_is_named(tmp_path, expression, selected):
    (tmp_path / "conftest.py").write_text(
        "from tests.conftest import pytest_collection_modifyitems\n"
    )
    (tmp_path / "test_marked.py").write_text(
        "import pytest\n\n"
        "@pytest.mark.full\ndef test_full(): pass\n\n"
        "@pytest.mark.slow\ndef test_slow(): pass\n\n"
        "def test_plain(): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "--collect-only", "-c", ROOT / "pyproject.toml"]
    listing = subprocess.run(
        [*command, "--rootdir", tmp_path, "-m", expression, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = [line.split("::test_")[1] for line in listing.splitlines() if "::" in line]
    assert found == selected


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """What our wheel installs, in a folder; built by what is installed, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "-w", folder]
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", *options, ROOT], check=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.mark.slow
def test_an_installed_wheel_finds_its_resources_from_another_folder(site, tmp_path):
    script = (
        "import storyboard\n"
        "from storyboard import Settings, check, resources\n"
        "names = ['baseline.ipynb', 'requirements.txt', 'NOTICE.md', 'docs/story.png']\n"
        "names += ['docs/zh/dataset.md', 'docs/figures/train_steps.webp']\n"
        "names += ['recipes/sample.yaml', 'data/sample/metadata.jsonl', 'models/mini/README.md']\n"
        "assert all(resources.path(name).is_file() for name in names)\n"
        "print('imported from', storyboard.__file__)\n"
        "check(Settings(base='mini'))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"imported from {site}" in ran.stdout and "weights present" in ran.stdout


@pytest.mark.slow
def test_an_installed_wheel_runs_the_notebook_from_another_folder(site, tmp_path):
    """As far as a setting that does not exist: past the install cell, into the settings."""
    ran = subprocess.run(
        [sys.executable, "-m", "storyboard", "-p", "base", "flux"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ERROR" not in ran.stdout
    last = ran.stderr.strip().splitlines()[-1]
    assert ran.returncode == 1 and "SettingsError: There is no base called 'flux'" in last
    assert (tmp_path / "outputs" / "baseline.executed.ipynb").is_file()
