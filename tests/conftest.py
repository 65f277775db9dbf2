"""Markers, hypothesis's profile and the fixtures of the suite; plain helpers are in support.py."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from support import engines, marks

# Numba compiles during a first example, so none has a deadline; the same examples everywhere keep CI stable.
settings.register_profile(
    "gpuconv", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("gpuconv")

# What a test or its child prints may not depend on what the cache holds, nor a choice on what somebody tuned here.
os.environ["GPUCONV_QUIET"] = "1"
os.environ["GPUCONV_TUNING"] = ""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs an NVIDIA GPU; skipped where there is none")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every test with an `engine` argument each algorithm that can run here."""
    if "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", [pytest.param(e, marks=marks(e), id=str(e)) for e in engines()])


@pytest.fixture(scope="session")
def torch() -> Any:
    """PyTorch, to compare with; the test is skipped where it is not installed."""
    module = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    module.set_num_threads(1)
    return module
