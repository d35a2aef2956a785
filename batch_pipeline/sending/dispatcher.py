"""Sending each message once, whatever dies when (SPEC 2.7).

A chunk of messages is *claimed* in the ledger (a reference never used before, a lease and a fence), the claim is
*committed* to disk, the lease is *checked* again, the chunk is *posted*, and the answer *recorded* under the same
fence. Wherever a process dies, the chunk stays open with a lease that runs out, and whoever finds it then takes it
over and finishes it as its provider allows (``Recovery``).

The rules that keep two processes from posting one chunk at the same time:

- a lease lasts ten times the provider's time-out; who holds it posts only while at least one time-out of it is left;
- a takeover waits until the lease is over by one time-out more, so that a call begun in time has ended;
- the check right before a post looks at the ledger (is it still mine?), then at the machine's clock, and at a clock
  that nobody can set: a process that slept, or whose clock was put back, doesn't post;
- a process halted after that look, and woken past its lease, does post: what comes so late makes no second message at
  a provider that deduplicates, nor at one whose requests are dated (GOV.UK Notify), and with any other a takeover
  never posts;
- a lease whose end lies far ahead, because the clock was put back, counts as over when it was watched, unchanged,
  for as long as a lease can last.

A provider's messages are sent by as many workers at once as it takes calls (``Limits.at_once``), each in a thread of
its own, and each provider's by workers of its own: one that has to wait holds nobody else up. To one another they are
like processes, but that they don't watch each other's chunks, write to SQLite with one commit for all that wait to
(``batch_pipeline.ledger.together``), and share what they learn of a channel: that it stopped, and how much a call of it
may hold.
"""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import replace
from datetime import UTC, datetime

from batch_pipeline.clocks import seconds_since_boot
from batch_pipeline.errors import Refused
from batch_pipeline.ledger import batches, chunks, controls
from batch_pipeline.ledger.chunks import Chunk, Message
from batch_pipeline.ledger.engine import Ledger
from batch_pipeline.providers.protocol import Channel, Provider
from batch_pipeline.rules import steps
from batch_pipeline.sending._run import Dispatched, Run
from batch_pipeline.sending._worker import Worker

__all__ = ["Dispatched", "dispatch"]


def dispatch(  # noqa: PLR0913 - the clocks and the sleep are for tests
    ledger: Ledger,
    batch: str,
    providers: Mapping[Channel, Provider],
    *,
    step: str = steps.PRIMARY,
    now: datetime | Callable[[], datetime],
    owner: str,
    wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    steady: Callable[[], float] | None = None,
    sleep: Callable[[float], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    after_chunk: Callable[[int], object] | None = None,
    before_post: Callable[[Chunk, Sequence[Message] | None], object] | None = None,
    before_return: Callable[[Chunk], object] | None = None,
    was_posted: Callable[[Chunk], bool] = lambda _: False,
    complete: Callable[[Message], Message] = lambda message: message,
) -> Dispatched:
    """Sends every unsent message of a batch's step, and finishes the chunks that others left open.

    Any number of dispatches may work on one batch at once; each returns when nothing of the step is open that it
    could finish.

    Args:
        ledger: where the outbox is.
        batch: whose messages.
        providers: one for each channel; two channels may share one.
        step: one of ``rules.steps``.
        now: business time, for the record: fixed, or asked anew at each chunk.
        owner: names this process in a lease, for a person who looks.
        wall: the machine's clock, for leases alone.
        steady: seconds by a clock that nobody sets, and that runs on while the machine sleeps.
        sleep: waits that many seconds; none: by the real clock.
        on_progress: told (messages answered, messages in all) now and then.
        after_chunk: called each time a chunk's answer is on disk, once at a time, with how many messages of it were
            refused; it may pause the batch.
        before_post: called before each call for a chunk, under its lease, by the thread that posts it; with the chunk's
            messages, where they are at hand. What it raises keeps the chunk from being posted; ``ProviderStopped`` ends
            the channel.
        before_return: called, by the same thread, before messages of a chunk that was surely not taken are unsent again.
        was_posted: asked before a chunk is taken over that waits for its first post, by what the ledger says.
        complete: gives a queued message what is in no queue, such as the patient's own address: the same at each post.

    Raises:
        Refused: for an unknown batch, one without an outbox, or one planned for other providers than these.
        Exception: what a provider or the ledger raised in a worker; the others end what they have in hand first.
    """
    run = Run(
        ledger=ledger,
        batch=batch,
        step=step,
        now=now if callable(now) else lambda: now,
        owner=owner,
        wall=wall,
        steady=steady or seconds_since_boot,
        sleeps=sleep,
        on_progress=on_progress,
        after_chunk=after_chunk,
        before_post=before_post,
        before_return=before_return,
        was_posted=was_posted,
        complete=complete,
    )
    _let_work(run, _begin(run, providers))
    return _end(run)


def _begin(run: Run, providers: Mapping[Channel, Provider]) -> list[Worker]:
    """Counts what there is to do, and finds who is to do it."""
    with run.ledger.read() if run.step == steps.PRIMARY else run.ledger.write() as connection:
        if batches.get(connection, run.batch).applied_plan is None:
            raise Refused(f"batch {run.batch} has no outbox yet: approve its plan first")
        if run.step != steps.PRIMARY:
            chunks.drop_needless(connection, run.batch, run.step)
        waiting = chunks.unsent(connection, run.batch, run.step)
        open_now = chunks.open_chunks(connection, run.batch, run.step)
        begun = chunks.count_begun(connection, run.batch, run.step)
    planned = {*waiting, *((chunk.channel, chunk.provider) for chunk in open_now)}
    _refuse_other_providers(run.batch, planned, providers)
    run.answered = begun - sum(chunk.messages for chunk in open_now)
    run.total = begun + sum(waiting.values())
    run.tell(0)
    work = Counter[str]()
    for (channel, _), messages in waiting.items():
        work[channel] += messages
    work.update(chunk.channel for chunk in open_now)
    return [
        Worker(run, provider, channels)
        for provider, channels in _by_provider(providers)
        for _ in range(min(provider.limits.at_once, sum(work[channel] for channel in channels)))
    ]


def _refuse_other_providers(batch: str, planned: set[tuple[str, str]], providers: Mapping[Channel, Provider]) -> None:
    given: dict[str, str] = {channel: provider.name for channel, provider in providers.items()}
    for channel, provider in sorted(planned):
        if given.get(channel) != provider:
            raise Refused(
                f"batch {batch}: messages by {channel} are planned for the provider {provider}, but the workspace "
                f"names {given.get(channel, 'none')}: put it back, or make and approve the plan again"
            )


def _by_provider(providers: Mapping[Channel, Provider]) -> list[tuple[Provider, list[Channel]]]:
    found: dict[int, tuple[Provider, list[Channel]]] = {}
    for channel, provider in providers.items():
        found.setdefault(id(provider), (provider, []))[1].append(channel)
    return list(found.values())


def _let_work(run: Run, workers: Sequence[Worker]) -> None:
    """Each in a thread of its own; returns when all have ended."""
    failures: list[BaseException] = []

    def work(worker: Worker) -> None:
        try:
            worker.work()
        except BaseException as failure:  # noqa: BLE001 - it is raised below, where it can be seen
            failures.append(failure)
            run.ending.set()

    threads: list[threading.Thread] = []
    try:
        for number, worker in enumerate(workers, start=1):
            # Who watches the progress is known by the context.
            thread = threading.Thread(
                target=copy_context().run, args=[work, worker], name=f"dispatch-{worker.provider.name}-{number}"
            )
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
    finally:  # somebody ended the run: what is in hand is brought to its end, and nothing more begun
        run.ending.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]


def _end(run: Run) -> Dispatched:
    if run.step != steps.PRIMARY:
        with run.ledger.write() as connection:
            chunks.drop_needless(connection, run.batch, run.step)
    with run.ledger.read() as connection:
        unsent = sum(chunks.unsent(connection, run.batch, run.step).values())
        open_now = chunks.open_chunks(connection, run.batch, run.step)
        cancelled = chunks.sendable(connection, run.batch).cancelled
    left_open = sum(chunk.messages for chunk in open_now)
    if cancelled:  # a chunk that was given back since
        with run.ledger.write() as connection:
            controls.end_unsent_if_cancelled(connection, run.batch, run.now())
    return replace(run.done, unsent=unsent, left_open=left_open, stopped=run.stopped)
