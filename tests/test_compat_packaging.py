"""packaging's copy in pip: read without pip."""

import subprocess
import sys

import packaging.requirements
import pytest

from storyboard.compat import packaging as copied


def test_the_copy_reads_requirements_as_packaging_does():
    line = 'torch[opt]>=2.6,<2.16; python_version > "3"'
    copy = copied.part("requirements").Requirement(line)
    assert str(copy) == str(packaging.requirements.Requirement(line))
    assert copied.part("utils").canonicalize_name("py_data.Juicer") == "py-data-juicer"


@pytest.mark.parametrize("copy", ["packaging", "pip"])
def test_a_copy_is_loaded_without_switching_off_setuptools_distutils(copy):
    """As the look for pip does; see the module."""
    script = (
        "import sys\n"
        "looked_for = []\n"
        "class DistutilsMetaFinder:\n"
        "    def find_spec(self, name, path=None, target=None): looked_for.append(name)\n"
        "finder = DistutilsMetaFinder()\n"
        "from storyboard.compat import packaging\n"
        "sys.meta_path.insert(0, finder)\n"
        f"packaging.COPIES = {{{copy!r}: packaging.COPIES[{copy!r}]}}\n"
        "assert packaging.is_here()\n"
        "assert packaging.part('requirements').Requirement('x>=2.6').specifier.contains('2.7')\n"
        "assert 'pip' not in looked_for and 'packaging' not in sys.modules\n"
        "assert sys.meta_path[0] is finder\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
