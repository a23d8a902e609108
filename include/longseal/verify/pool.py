"""Judging on every core: processes, since sigstore-python gains nothing from threads."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterable
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from types import TracebackType

from longseal.archive.pack import Evidence
from longseal.canonical import digest_of
from longseal.errors import MalformedError, RetryableError, UnsupportedError
from longseal.verify.engine import Engine, Judgement, Outcome
from longseal.verify.formats import Reading, is_intake, readings
from longseal.verify.policy import Policy, Reason
from longseal.verify.trust import TrustMaterial


@dataclass(frozen=True, slots=True)
class Case:
    """One piece of evidence to judge: the bytes as found, and what they were found on.

    :param image: None where nothing else than ``data`` itself says what it speaks of
    :param manifest: what carried ``data``; None where that is a bundle for certain
    :param artifact: what a message signature signs, where that is at hand
    :param material: what was added later, as :func:`longseal.verify.formats.readings` takes it
    """

    data: bytes
    image: str | None
    repository: str
    collected_at: datetime
    manifest: bytes | None = None
    artifact: bytes | None = None
    material: tuple[bytes, ...] = ()

    @classmethod
    def kept(cls, evidence: Evidence) -> Case:
        """What a pack holds, to be judged again as it was then."""
        leaf = evidence.leaf
        return cls(
            evidence.payload,
            leaf.image,
            leaf.repository,
            leaf.collected_at,
            evidence.manifest,
            material=evidence.material,
        )


def judge(engine: Engine, case: Case) -> Judgement:
    """Judge what ``case`` says: of several signatures over it, the first that is accepted.

    Never raises for anything that is found.
    """
    found = Judgement(Outcome.UNKNOWN, None, signed_at=case.collected_at, engine=engine.name)
    try:
        image = None if _stands_alone(case) else case.image
        said = (
            (Reading(case.data),)
            if case.manifest is None
            else readings(case.data, case.manifest, case.material)
        )
    except MalformedError as err:
        return replace(found, outcome=Outcome.REJECTED, reason=Reason("malformed", str(err)))
    except UnsupportedError as err:
        return replace(found, reason=Reason("unsupported", str(err)))
    judgements = [
        engine.judge(
            one.bundle,
            image,
            case.repository,
            case.collected_at,
            artifact=case.artifact if one.artifact is None else one.artifact,
        )
        for one in said
    ]
    accepted = (Outcome.VERIFIED, Outcome.IGNORED)
    return next((one for one in judgements if one.outcome in accepted), judgements[0])


def _stands_alone(case: Case) -> bool:
    """Evidence taken in that names no image by its sha256 is filed under its own digest."""
    return (
        case.manifest is not None
        and case.image == digest_of(case.data)
        and is_intake(case.manifest)
    )


class Judging:
    """Judgements under way in one worker."""

    def __init__(self, future: Future[list[Judgement]]) -> None:
        self._future = future

    def result(self) -> list[Judgement]:
        """Wait for the judgements, in the order of the cases.

        :raises RetryableError: a worker died; nothing was judged
        """
        try:
            return self._future.result()
        except BrokenExecutor as err:
            raise _died() from err


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
        self.software = engine.software
        count = workers or len(os.sched_getaffinity(0))
        self._executor = ProcessPoolExecutor(
            count,
            mp_context=multiprocessing.get_context("fork"),
            initializer=_adopt,
            initargs=(engine,),
        )
        for ready in [self._executor.submit(os.getpid) for _ in range(count)]:
            ready.result()

    def submit(self, cases: Iterable[Case]) -> Judging:
        """Judge ``cases``, in order, in one worker.

        :raises RetryableError: a worker has died before
        """
        try:
            return Judging(self._executor.submit(_judge_all, list(cases)))
        except BrokenExecutor as err:
            raise _died() from err

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
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A task that is killed outright cannot stop its workers, and they would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _died() -> RetryableError:
    return RetryableError(
        "a verifying process died, killed or out of memory: nothing of its work counts; run again"
    )


def _judge_all(cases: list[Case]) -> list[Judgement]:
    assert _engine is not None
    return [judge(_engine, case) for case in cases]
