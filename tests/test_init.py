import subprocess
import sys

import pytest

import marn


def test_every_public_name_is_there():
    assert all(getattr(marn, name) is not None for name in marn.__all__)
    assert {*marn.__all__} - {*marn._HOMES} == {"losses", "metrics"}  # modules themselves
    with pytest.raises(AttributeError, match="no attribute 'biuld'"):
        _ = marn.biuld


def test_preparing_data_does_not_load_torch():
    code = "import sys, data_prep.__main__, data_prep.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
