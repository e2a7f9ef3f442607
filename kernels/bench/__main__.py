"""``python -m penstock.kernels.bench``, or from a bare checkout ``python kernels/bench/__main__.py``."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

if not __package__ and importlib.util.find_spec("penstock") is None:
    # Run by its path where penstock is not installed: the kernels need nothing of it but a name to be found
    # under.
    package = ModuleType("penstock")
    package.__path__ = [str(Path(__file__).resolve().parents[2] / "python" / "penstock")]
    sys.modules["penstock"] = package

from penstock.kernels.bench.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
