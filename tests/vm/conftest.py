"""The marker of this folder, and WAGGLE_VM: which kernels to boot."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Known here too, so that this folder can be run by itself."""
    config.addinivalue_line("markers", "vm: boots a kernel under emulation, takes minutes")
