"""Reading all files of a tree, in several processes if it is long."""

import gc
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from ephemport.migrate.finding import read_file
from ephemport.migrate.reporting import watched
from ephemport.migrate.uses import File

# Starting a process that has imported libcst takes as long as reading this many files.
_WORTH_PROCESSES = 60


def read_files(paths: Sequence[Path], jobs: int) -> dict[Path, File]:
    """What every file tells, by path."""
    if jobs > 1 and len(paths) > _WORTH_PROCESSES:
        with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin) as pool:
            read = pool.map(read_file, paths, chunksize=8)
            return {file.path: file for file in watched(read, len(paths), "reading")}
    enabled = gc.isenabled()
    # Syntax trees are many small objects that all live until the file is done.
    gc.disable()
    try:
        return {file.path: file for file in watched(map(read_file, paths), len(paths), "reading")}
    finally:
        if enabled:
            gc.enable()


def _begin() -> None:
    gc.disable()
