"""Boots kernels of Debian and runs tests on them: `python -m tests.kernels --help`."""
