"""What lies under the compiled loops; the loops themselves are tested where they are used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from modules import compiled


def test_the_exponential_is_exact_to_rounding_and_bounded():
    x = np.linspace(-87.0, 88.0, 100_001, dtype=np.float32)
    ours = np.array([compiled.exp(value) for value in x[::50]])
    np.testing.assert_allclose(ours, np.exp(x[::50].astype(np.float64)), rtol=3e-7)
    assert compiled.exp(np.float32(-1e30)) == compiled.exp(np.float32(-87)) > 0
    assert compiled.exp(np.float32(1e30)) == compiled.exp(np.float32(88)) < np.inf
    assert np.isnan(compiled.exp(np.float32(np.nan)))


def test_where_compiled_loops_are_kept(tmp_path: Path) -> None:
    source = tmp_path / "src" / "modules" / "compiled.py"
    source.parent.mkdir(parents=True)
    named, no_folder = tmp_path / "named", tmp_path / "file"
    no_folder.write_text("")

    def folder(addition: str, environment: Path) -> Path:
        source.write_text(Path(compiled.__file__).read_text() + addition)
        found = subprocess.run(
            [sys.executable, "-c", "import modules.compiled, numba; print(numba.config.CACHE_DIR)"],
            env={"PYTHONPATH": str(source.parents[1]), "NUMBA_CACHE_DIR": str(environment), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )
        return Path(found.stdout.strip())

    first, changed = folder("", named), folder("# another state of the file", named)
    assert first.parent == changed.parent == named and first != changed and re.fullmatch("[0-9a-f]{16}", first.name)
    assert folder("", no_folder) == source.parent / "__pycache__" / first.name
