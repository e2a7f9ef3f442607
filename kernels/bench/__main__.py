"""``python -m penstock.kernels.bench``, or from a bare copy of ``kernels`` ``python kernels/bench``."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

if not __package__ and importlib.util.find_spec("penstock") is None:
    # Run by its path where penstock is not installed: the kernels need nothing of it but a name to be found
    # under.
    for name, paths in (("penstock", []), ("penstock.kernels", [str(Path(__file__).resolve().parents[1])])):
        package = ModuleType(name)
        package.__path__ = paths
        sys.modules[name] = package

from penstock.kernels.bench.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
