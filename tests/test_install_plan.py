"""What an installation is said to do, and why pip could not, from what pip wrote."""

import sys
import sysconfig

import pytest

from storyboard.errors import InstallError
from storyboard.installation import host, pip
from storyboard.installation.pip import Found
from storyboard.installation.plan import Plan
from tests.conftest import ROOT


def test_running_needs_neither_a_browser_nor_the_tests_packages():
    names = {host.requirement(line).name for line in host.needed(ROOT / "requirements.txt")}
    assert {"torch", "py-data-juicer", "ipykernel"} <= names
    assert not {"jupyterlab", "pytest", "hatchling"} & names


def test_what_is_added_and_changed_is_told_with_the_way_back():
    found = {
        "Pillow": Found("13.0.0"),
        "numpy": Found("2.4.6"),
        "crcmod": Found("1.7", from_source=True),
    }
    plan = Plan.of(found, {"pillow": "11.3.0", "numpy": "2.0.2"})
    assert plan.lines(compiler=True) == [
        "adds 1 package: crcmod 1.7",
        "changes on this host: numpy 2.0.2 -> 2.4.6, Pillow 11.3.0 -> 13.0.0",
        'to undo the changes: pip install "numpy==2.0.2" "Pillow==11.3.0"',
    ]
    assert plan.lines(compiler=False)[-1].startswith("no C compiler is here; crcmod have no wheel")
    assert plan.versions == [("crcmod", "1.7"), ("numpy", "2.4.6"), ("Pillow", "13.0.0")]


def test_of_many_packages_the_first_are_named():
    plan = Plan.of({f"p{number}": Found("1") for number in range(12)}, {})
    assert plan.lines(compiler=True)[0].startswith("adds 12 packages: p0 1, p1 1, p10 1")
    assert plan.lines(compiler=True)[0].endswith("and 4 more")


def test_conflicts_go_on_where_the_disk_is_thrown_away_or_the_reader_allows_it():
    plan = Plan({}, {"numpy": ("2.0", "2.4")}, broken=("numba 0.60 needs numpy<2.1",))
    why = "numba 0.60 needs numpy<2.1 and gets 2.4"
    with pytest.raises(InstallError, match=f"Nothing was installed, .*: {why}: make an env"):
        plan.check(None, {})
    with pytest.raises(InstallError):
        plan.check(False, {"COLAB_RELEASE_TAG": "1"})
    assert plan.check(None, {"KAGGLE_KERNEL_RUN_TYPE": "Batch"}) == [
        f"goes on, as Kaggle forgets it all, though {why}"
    ]
    assert plan.check(True, {}) == [f"goes on, as you allow it, though {why}"]
    assert Plan({}, {}).check(None, {}) == []


def test_requirements_of_requirements_count():
    lines = host.needed(ROOT / "requirements.txt")
    versions = host.installed()
    assert host.unmet(lines, versions) == []
    assert "pyarrow>=21.0.0" in host.unmet(lines, versions | {"pyarrow": "1.0"})
    assert host.unmet(lines, {name: versions[name] for name in versions if name != "dill"})
    assert any("datasets" in text for text in host.broken({"pyarrow": "1.0"}))


def test_modules_of_a_shared_folder_are_those_of_the_package_that_brings_them(
    tmp_path, monkeypatch
):
    """As ``google``, which Colab's kernel has imported."""
    for name, package in (("first", "shared_by/first"), ("second", "shared_by/second")):
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "RECORD").write_text(f"{package}/__init__.py,,\n{package}/_c.abi3.so,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("shared_by", "shared_by.first"):
        monkeypatch.setitem(sys.modules, name, sys)
    assert host.modules("first") == {"shared_by.first"}
    assert host.modules("second") == set()


CONFLICT = """ERROR: Cannot install -r requirements.txt and tornado==6.1.

The conflict is caused by:
    jupyter-thing 1.0 depends on tornado>=6.2
    The user requested (constraint) tornado==6.1

To fix this you could try to:
ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/"""


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (CONFLICT, "(jupyter-thing 1.0 depends on tornado>=6.2; The user requested (constraint)"),
        (
            "ERROR: Could not find a version that satisfies the requirement x>=2 (from versions: "
            "none)\nERROR: No matching distribution found for x>=2",
            "pip reaches no index that has x>=2: connect to a network, or name a mirror",
        ),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on "
            "device",
            "pip stopped as the disk is full: free some GB",
        ),
        (
            "  error: command 'gcc' failed: No such file or directory\n"
            "ERROR: Failed building wheel for lz4",
            "lz4 has no wheel for this Python and no C compiler is here to build it",
        ),
        (
            "\nUsage:   \n  python -m pip install [options] ...\n\nno such option: --dry-run",
            "This pip is too old to say what it would do: run `pip install -U pip`",
        ),
        ("ERROR: Something else.", "pip stopped: Something else; mend that and run this cell"),
        ("", "pip stopped: no reason given; mend that"),
    ],
)
def test_why_pip_stopped_is_one_sentence(said, sentence):
    assert sentence in pip.why_not(said) and "\n" not in pip.why_not(said)


@pytest.fixture
def managed(tmp_path, monkeypatch):
    """A Python that another program than pip manages, and pip's settings."""
    for name in ("PIP_BREAK_SYSTEM_PACKAGES", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    (tmp_path / "EXTERNALLY-MANAGED").touch()
    return tmp_path


def test_a_python_that_another_program_manages_is_left_alone(managed, monkeypatch):
    with pytest.raises(InstallError, match="forbids pip to change it: make an environment"):
        pip.check_usable()
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    pip.check_usable()  # an environment made from it
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    (managed / "EXTERNALLY-MANAGED").unlink()
    pip.check_usable()


def test_whoever_lets_pip_change_such_a_python_may(managed, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("PIP_BREAK_SYSTEM_PACKAGES", "1")
        pip.check_usable()
    settings = managed / "pip.conf"
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    settings.write_text("[install]\nbreak-system-packages = true\n")
    pip.check_usable()
    settings.write_text("[install]\nbreak-system-packages = false\n")
    with pytest.raises(InstallError, match="managed by another program than pip"):
        pip.check_usable()
