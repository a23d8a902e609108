"""Judging on every core: processes, since sigstore-python gains nothing from threads."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType

from longseal.verify.engine import Engine, Judgement
from longseal.verify.policy import Policy
from longseal.verify.trust import TrustMaterial


@dataclass(frozen=True, slots=True)
class Case:
    """One attestation to judge: the bytes as found, and what they were found on."""

    data: bytes
    image: str
    repository: str
    collected_at: datetime


class VerifierPool:
    """Judges many cases at once under one trusted root and one policy.

    The processes are forked before the caller starts any thread, so make the pool first. A worker
    that dies breaks the pool: the task fails, and a rerun takes it up where it stopped.

    :param trusted_root: the ``trusted_root.json`` as archived
    :param policy: the policy document as archived
    :param workers: processes; None for one a core
    """

    def __init__(self, trusted_root: bytes, policy: bytes, workers: int | None = None) -> None:
        # Parsed here first, so that settings that do not hold fail before any process starts.
        engine = Engine(TrustMaterial.parse(trusted_root), Policy.parse(policy))
        self.trust_digest = engine.trust.digest
        self.policy_digest = engine.policy.digest
        count = workers or len(os.sched_getaffinity(0))
        self._executor = ProcessPoolExecutor(
            count,
            mp_context=multiprocessing.get_context("fork"),
            initializer=_adopt,
            initargs=(engine,),
        )
        for ready in [self._executor.submit(os.getpid) for _ in range(count)]:
            ready.result()

    def submit(self, cases: Iterable[Case]) -> Future[list[Judgement]]:
        """Judge ``cases``, in order, in one worker."""
        return self._executor.submit(_judge_all, list(cases))

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._executor.shutdown(cancel_futures=True)


_engine: Engine | None = None


def _adopt(engine: Engine) -> None:
    global _engine
    _engine = engine


def _judge_all(cases: list[Case]) -> list[Judgement]:
    assert _engine is not None
    return [
        _engine.judge(case.data, case.image, case.repository, case.collected_at) for case in cases
    ]
