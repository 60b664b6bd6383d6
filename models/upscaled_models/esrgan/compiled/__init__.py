"""What is compiled from C at installation, for processors."""

from pathlib import Path

# Built with the package, by `hatch_build.py`.
LIBRARY = Path(__file__).with_name("_native.so")
