"""Every line of every kernel runs in some test of this folder."""

import pathlib

import pytest
import strict


def test_every_line_of_the_kernels_ran(request):
    here = pathlib.Path(__file__).parent
    ran = {item.path.name for item in request.session.items}
    if {path.name for path in here.glob("test_*.py")} - ran or request.config.option.keyword:
        pytest.skip("only after all other tests of this folder")
    assert len(strict.Lines.missing) > 8
    missing = {(pathlib.Path(path).name, line) for (path, _), lines in strict.Lines.missing.items() for line in lines}
    assert not sorted(missing)
