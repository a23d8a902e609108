"""Processes that do something at one moment, each with a part of its own."""

import multiprocessing
from collections.abc import Callable
from typing import Any


def run_together(target: Callable[..., object], *arguments: tuple[Any, ...]) -> None:
    """Run ``target(*each, start)`` in a process for each, where all ``start.wait()`` for the last.

    Every one has to end well.
    """
    context = multiprocessing.get_context("fork")
    start = context.Barrier(len(arguments))
    processes = [context.Process(target=target, args=(*each, start)) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)
