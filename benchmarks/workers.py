"""Run many cells in a few worker processes.

Each process runs several cells, because importing the libraries takes longer than a small cell. If a worker dies, only
its current cell is lost.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from cells import DONE, Cell, keep, result_of, run_cell

GRACE_S = 60.0
"""How long an interrupted cell may take to end its step and to save itself."""


def run_cells(
    cells: Sequence[Cell],
    out: Path,
    workers: int,
    say: Callable[[str], None] = print,
    run: Callable[[Cell, Path], str] = run_cell,
) -> None:
    """Run every cell that is not done, distributed over worker processes; crashed cells are run again."""
    todo: SimpleQueue[Cell] = SimpleQueue()
    for cell in cells:
        found = result_of(cell, out)
        if found and found["status"] == DONE:
            say(f"{cell.folder(out).name}: done before")
        else:
            todo.put(cell)
    os.environ["OMP_NUM_THREADS"] = "1"
    hands = [_Hand(todo, out, say, run) for _ in range(workers)]
    pool = ThreadPoolExecutor(workers)
    try:
        for job in [pool.submit(hand.serve) for hand in hands]:
            job.result()
    except KeyboardInterrupt:
        for hand in hands:
            hand.stop()
        for hand in hands:
            hand.wait()
        say("Interrupted: the same command goes on with the cells that were running.")
        raise
    finally:
        pool.shutdown(wait=False)


class _Hand:
    """Gives cells to a worker process, and replaces it if it dies, until no cell is left."""

    def __init__(
        self, todo: SimpleQueue[Cell], out: Path, say: Callable[[str], None], run: Callable[[Cell, Path], str]
    ) -> None:
        self.todo, self.out, self.say, self.run = todo, out, say, run
        self.process: Any = None
        self.pipe: Any = None
        self.stopped = False

    def serve(self) -> None:
        """Run until the queue is empty; a worker that dies is replaced, and its cell counts as crashed."""
        for cell in self._each():
            if self.process is None:
                self._start()
            folder = cell.folder(self.out)
            try:
                self.pipe.send(cell)
                status = self.pipe.recv()
            except (EOFError, OSError):
                if self.stopped:
                    return
                self.process.join()
                status = keep(
                    cell, self.out, f"the worker process died with exit status {self.process.exitcode}", folder=folder
                )
                self.process = None
            self.say(f"{folder.name}: {status}" + ("" if status == DONE else f", see {folder / 'log.txt'}"))
        if self.process is not None and not self.stopped:
            self.pipe.send(None)
            self.process.join()

    def stop(self) -> None:
        """Tell the worker to stop; its cell saves itself and has no result."""
        self.stopped = True
        if self.process is not None:
            self.process.terminate()

    def wait(self) -> None:
        """Wait until the worker has stopped; one that takes too long is killed."""
        if self.process is not None:
            self.process.join(GRACE_S)
            self.process.kill()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, end = context.Pipe()
        self.process = context.Process(target=_work, args=(end, self.out, self.run), daemon=True)
        self.process.start()
        end.close()

    def _each(self) -> Iterator[Cell]:
        while not self.stopped:
            try:
                yield self.todo.get_nowait()
            except Empty:
                return


def _work(pipe: Any, out: Path, run: Callable[[Cell, Path], str]) -> None:
    """A worker process: receives cells, returns their status. It ends together with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles the interrupt and stops its workers
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    while (cell := pipe.recv()) is not None:
        pipe.send(run(cell, out))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
