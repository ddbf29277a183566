"""On a Mac (here only a platform that says so) the GPU's watchdog is relaxed before a framework can load Metal."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

VARIABLE = "AGX_RELAX_CDM_CTXSTORE_TIMEOUT"
# Says what the variable is when a framework is first asked for, and refuses the framework.
CODE = """
import os, sys
import toolkit.protocols
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mlx", "mlx_lm", "torch"):
            print(name, os.environ.get("{variable}"))
            sys.exit()
sys.meta_path.insert(0, Refuse())
sys.platform = "{platform}"
import toolkit.{backend}_backend.session
"""


def value_when_loading(backend: str, platform: str, **environment: str) -> list[str]:
    code = CODE.format(variable=VARIABLE, platform=platform, backend=backend)
    clean = {name: value for name, value in os.environ.items() if name != VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**clean, **environment}
    )
    return done.stdout.split()


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_on_macos_the_metal_watchdog_is_relaxed_before_a_framework_is_loaded(backend):
    assert value_when_loading(backend, "darwin")[1] == "1"
    assert value_when_loading(backend, "darwin", **{VARIABLE: "0"})[1] == "0"  # the user's own choice stays
    assert value_when_loading(backend, "linux")[1] == "None"
