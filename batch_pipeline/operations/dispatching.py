"""From an approved plan to sent messages, and what became of them: outbox, dispatch, receipts, fallbacks."""

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa

from batch_pipeline.errors import Refused
from batch_pipeline.house import House, Submitted, owner
from batch_pipeline.ledger import audit, batches, due, links, outbox, unread
from batch_pipeline.ledger import reminders as reminders_
from batch_pipeline.ledger.breaker import Breaker
from batch_pipeline.operations import restoring, review
from batch_pipeline.planning.channels import queue
from batch_pipeline.planning.duck import scan
from batch_pipeline.planning.message import SAMPLE
from batch_pipeline.progress import tell
from batch_pipeline.providers.bounces import Bounces
from batch_pipeline.providers.protocol import Channel, ChunkRefused, ChunkTooLarge, OutgoingMessage, Unfinished
from batch_pipeline.rules import emails, phones, policy, steps
from batch_pipeline.rules import links as link_rules
from batch_pipeline.sending import dispatcher, fallbacks, receipts, reminders
from batch_pipeline.sending.recording import Recorder

_ROWS = 20_000


@dataclass(frozen=True)
class TestSent:
    """How a test message went."""

    __test__ = False
    channel: str
    provider: str
    reference: str


def plan_to_send(house: House, batch: str) -> str | None:
    """The hash of the standing plan, if it is approved; ``None`` when only an earlier one is, which is being sent.

    Of a cancelled batch too there is only what is being sent. ``Refused`` when nothing of the batch was ever approved,
    or it was cancelled before anything was queued.
    """
    plan, _ = review.standing(house, batch)
    with house.ledger.read() as connection:
        approval = batches.approval(connection, batch)
        known = batches.get(connection, batch)
    applied = known.applied_plan
    if known.cancelled_at is not None and applied is not None:
        return None
    if known.cancelled_at is not None:
        raise Refused(f"{batch} is cancelled: nothing of it was sent; submit it under a new batch id")
    if approval is not None and approval.plan_hash == plan:
        return plan
    if applied is not None:
        return None
    raise Refused(
        f"{batch} has no approval of its present plan {plan[:12]}: review it, and approve it with "
        f"`batch-pipeline approve {batch} --by NAME`"
    )


def write_outbox(
    house: House, batch: str, channel_plan: Path, patients: Path, cohort: Path, now: datetime
) -> outbox.OutboxWritten:
    """Queues the approved plan's messages in the ledger, once; what an earlier plan queued stays until then.

    The tables are checked against the plan's digest first: what is queued is what was approved, to the letter.
    """
    plan = plan_to_send(house, batch)
    submitted = house.submitted(batch)
    if plan is None or plan == submitted.row.applied_plan:
        return outbox.OutboxWritten(0, 0, 0, 0)
    with house.ledger.read() as connection:
        figures = json.loads(batches.plan(connection, batch, plan).figures)
    if figures["problems"]:
        raise Refused(f"{batch} can't be sent: {figures['problems'][0]}")
    with house.duck() as con:
        message = review.message_of(con, submitted, cohort)
        digest = queue(con, channel_plan, patients, cohort, message, house.hasher)
        if digest != figures["digest"]:
            raise Refused(
                f"{batch}: the plan's tables have changed since it was made: make the plan again, review and approve it"
            )
        if submitted.file.message.carries_link:  # on disk before any message that has one
            links.write(house.ledger, batch, _kind_of(submitted), house.link_keys, _births(con, patients), now)
        # As the plan has it that was approved: one that was made by an earlier version has none.
        first_day = min(figures.get("reminders", {}).get("days", ()), default=None)
        return outbox.write(house.ledger, batch, plan, _rows(con, house, submitted, first_day, now), now)


def _kind_of(submitted: Submitted) -> link_rules.Kind:
    message = submitted.file.message
    return link_rules.kind_of(message.type, message.booking)


def _births(con: duckdb.DuckDBPyConnection, patients: Path) -> Iterator[pa.RecordBatch]:
    """The dates of birth by which the patients' links open."""
    query = f"SELECT patient, date_of_birth FROM outgoing JOIN {scan(patients)} p USING (line) ORDER BY line"
    yield from con.sql(query).to_arrow_reader(_ROWS)


def _rows(
    con: duckdb.DuckDBPyConnection, house: House, submitted: Submitted, first_day: int | None, now: datetime
) -> Iterator[pa.RecordBatch]:
    """The outbox's rows, with provider and fallback policy by path, and the day of the first reminder.

    Who had the message meanwhile from another batch is held back as well. That is asked here and not before, because
    the ledger takes these rows in the transaction that writes them: of two outboxes the later one sees the earlier.
    """
    had = pa.array(sorted(house.already_had(submitted, now)), pa.string())
    con.register("given_had", pa.table({"patient": had}))
    window = policy.fallback_window("nhs_app", submitted.file.message.questionnaire, now)
    policy_id, after = (window[0], window[1] // timedelta(microseconds=1)) if window else (None, None)
    names = submitted.workspace.providers.names
    con.register(
        "given_paths",
        pa.table(
            {
                "path": list(names),
                "provider": list(names.values()),
                "policy": [policy_id if path == "nhs_app" else None for path in names],
                "fallback_after": pa.array([after if path == "nhs_app" else None for path in names], pa.int64()),
            }
        ),
    )
    query = f"""
        SELECT line, nhs_number, patient, path, provider, address, address_hash, fallback_number, subject, text,
            sms_text, fragments, held_back OR patient IN (SELECT patient FROM given_had) AS held_back, policy, fallback_after,
            {"NULL" if first_day is None else first_day}::INTEGER AS reminder_day
        FROM outgoing JOIN given_paths USING (path) ORDER BY line
    """
    yield from con.sql(query).to_arrow_reader(_ROWS)


Clock = Callable[[], datetime]
"""Business time, asked anew at each chunk: what was accepted late must not fall back early."""


def send(house: House, batch: str, step: str, clock: Clock) -> dispatcher.Dispatched:
    """Sends what is queued of a step, each message once, and finishes what a killed run left open.

    Whoever opted out, was found to have died, or whose link was revoked since the plan was made is withdrawn first
    (SPEC 2.3, 2.12). ``Refused`` when a provider takes nothing more, with its reason; what was sent stays sent; and for
    a ledger that was restored from a copy, until it is reconciled.
    """
    submitted = house.submitted(batch)
    restoring.require_whole(house, clock())
    breaker = Breaker(house.ledger, batch, submitted.workspace.circuit_breaker.as_rule())
    if step == steps.PRIMARY:
        now = clock()
        outbox.withdraw(house.ledger, batch, house.not_to_be_sent(submitted.workspace, now), now)
        with house.ledger.write() as connection:
            links.withdraw_revoked(connection, batch, now)
    recorder = Recorder(house.ledger, house.journal)
    with house.providers(submitted.workspace) as providers, closing(house.journal):
        done = dispatcher.dispatch(
            house.ledger,
            batch,
            providers,
            step=step,
            now=clock,
            owner=owner(),
            on_progress=lambda sent, total: tell(steps.labels(step), sent, total),
            after_chunk=lambda refused: breaker.after_chunk(refused, clock()),
            before_post=recorder.before_post,
            before_return=recorder.before_return,
            was_posted=recorder.was_posted,
            complete=links.completer(house.link_keys, batch),
        )
    if done.stopped:
        channel, reason = next(iter(done.stopped.items()))
        raise Refused(f"{batch}: sending by {channel} stopped: {reason}; mend that and dispatch again")
    return done


def send_test(house: House, batch: str, to: str, now: datetime) -> TestSent:
    """Sends the batch's message, rendered for a made-up patient, to a number or address of the sender's own.

    Outside the batch's figures; audited, with the address hidden. ``Refused`` for what is neither a UK mobile nor an
    email address.
    """
    submitted = house.submitted(batch)
    review.standing(house, batch)
    channel, address = _own_address(to)
    subject, text = review.sample_of(house, submitted, channel)
    name = submitted.workspace.providers.names[channel]
    reference = f"{batch}:test:{secrets.token_hex(6)}"
    message = OutgoingMessage(
        reference=reference,
        channel=channel,
        nhs_number=SAMPLE["nhs_number"],
        address=address,
        text=text,
        subject=subject if channel == "email" else None,
    )
    with house.ledger.write() as connection:
        detail = {"channel": channel, "provider": name, "reference": reference}
        audit.record(connection, now, "send-test", "send_test", batch, detail)
    try:
        with house.providers(submitted.workspace) as providers:
            answer = providers[channel].send(reference, [message], now)
    except (ChunkRefused, ChunkTooLarge, Unfinished) as fault:
        raise Refused(f"{batch}: the test may not have been sent: {fault}") from None
    if answer.refused:
        raise Refused(f"{batch}: the provider refused the test: {answer.refused[0].failure_code}")
    return TestSent(channel, name, reference)


def _own_address(to: str) -> tuple[Channel, str]:
    email = emails.classify(to)
    if email.kind == "good" and email.address:
        return "email", email.address
    phone = phones.classify(to)
    if phone.kind == "mobile" and phone.e164:
        return "sms", phone.e164
    raise Refused("--to is neither a UK mobile number nor an email address: correct it")


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of asking the providers for receipts, and folding those of a batch."""

    folded: receipts.Folded
    other_mail: int | None
    """Mails in the bounces' mailbox that are no bounces of ours; ``None`` where the workspace has no mailbox."""
    unread_news: int
    """What providers told, of whatever batch, and this version couldn't read."""
    faults: Mapping[str, Exception]
    """By provider, of those that couldn't be asked, or not to the end."""

    def fault(self) -> Exception | None:
        """All the faults as one to raise: a sentence, where each is for a person to mend."""
        others = [fault for fault in self.faults.values() if not isinstance(fault, Refused)]
        return next(iter(others), Refused("; ".join(map(str, self.faults.values())))) if self.faults else None


def collect(house: House, batch: str, now: datetime) -> Heard:
    """Fetches waiting receipts, folds those of this batch into its attempts, and times out silent texts.

    Where the receipts tell of too many failures, the circuit breaker pauses the batch. The fault of a provider that
    couldn't be asked is raised when all that is done.
    """
    heard = hear(house, batch, now)
    if (fault := heard.fault()) is not None:
        raise fault
    return heard


def hear(house: House, batch: str, now: datetime) -> Heard:
    """As ``collect``, for who has something else to do, whatever becomes of one provider: its faults are given."""
    submitted = house.submitted(batch)
    sources = house.receipt_sources(submitted.workspace)
    faults: Mapping[str, Exception] = {}
    try:
        receipts.collect(house.ledger, sources, now)
    except receipts.NotHeard as unheard:
        faults = unheard.faults
    folded = receipts.fold(house.ledger, now, batch)
    if folded.folded:
        Breaker(house.ledger, batch, submitted.workspace.circuit_breaker.as_rule()).after_receipts(now)
    timed_out = receipts.time_out(house.ledger, now, batch)
    if folded.folded or timed_out:
        with house.ledger.write() as connection:
            batches.mark_changed(connection, batch)
    mailboxes = [source.unreadable for source in sources if isinstance(source, Bounces)]
    with house.ledger.read() as connection:
        unread_news = unread.count(connection)
    return Heard(folded, next(iter(mailboxes), None), unread_news, faults)


def fall_back(house: House, batch: str, clock: Clock) -> tuple[fallbacks.Swept, dispatcher.Dispatched]:
    """Queues every fallback that is due, ends those that can't go, and sends what is queued.

    What the providers have to say is heard first, or a message that was read meanwhile would be texted as well. Nothing
    falls back where whoever carries the App's messages couldn't be asked; a mailbox of bounces keeps nobody's text.
    """
    now = clock()
    restoring.require_whole(house, now)
    submitted = house.submitted(batch)
    heard = hear(house, batch, now)
    if submitted.workspace.providers.nhs_app in heard.faults and (fault := heard.fault()) is not None:
        raise fault
    swept = fallbacks.sweep(house.ledger, batch, now, house.fallback_facts(submitted.workspace, now))
    if swept.paused:  # a pause lifted since would let go what was decided long ago
        return swept, dispatcher.Dispatched()
    return swept, send(house, batch, steps.FALLBACK, clock)


def remind(house: House, batch: str, clock: Clock) -> tuple[reminders.Swept, list[dispatcher.Dispatched]]:
    """Queues every reminder that is due, leaves out those that aren't to go, and sends what is queued, day by day.

    What the providers have to say is heard first: nobody is reminded of a message that failed. Whose messages went by a
    provider that couldn't be asked wait, and nobody else: the fault is raised when all that is done. So is that of a day
    whose reminders couldn't be sent.
    """
    now = clock()
    restoring.require_whole(house, now)
    submitted = house.submitted(batch)
    heard = hear(house, batch, now)
    if submitted.workspace.providers.nhs_app not in heard.faults:
        # Who is to get the text only now, after a pause or an outage, gets no reminder by the App beside it.
        fallbacks.sweep(house.ledger, batch, now, house.fallback_facts(submitted.workspace, now))
    facts = house.reminder_facts(submitted.workspace, now)
    swept = reminders.sweep(house.ledger, batch, now, replace(facts, unheard=heard.faults.keys()))
    sent, faults = list[dispatcher.Dispatched](), list[Exception]()
    if not swept.paused:
        with house.ledger.write() as connection:
            unfinished = reminders_.unfinished_steps(connection, batch)
            if unfinished:  # some may be in chunks that a run left before the batch was reported, and saved
                batches.reopen(connection, batch)
        for step in unfinished:
            try:
                sent.append(send(house, batch, step, clock))
            except Exception as fault:  # noqa: BLE001 - the others' moment is now
                faults.append(fault)
    if (fault := heard.fault()) is not None:
        faults.append(fault)
    if faults:
        raise faults[0]
    return swept, sent


def ready_to_send(house: House) -> list[str]:
    """Batches with something approved to send."""
    with house.ledger.read() as connection:
        return due.ready_to_send(connection)


def with_news(house: House, now: datetime) -> list[str]:
    """Batches for which a receipt waits, here or at a provider that has to be asked, or a time-out is due.

    Whose bounces lie in a mailbox nobody knows before it is read: the workspace's last batch by email reads it, and what
    it brings is news of the others.
    """
    with house.ledger.read() as connection:
        found = due.with_receipts(connection) | due.with_time_outs(connection, now)
        by_mail = due.last_sent_by(connection, "smtp")
    found |= {batch for workspace, batch in by_mail.items() if house.bounces_wait(workspace)}
    return sorted(found | house.simulator_news(now))


def with_fallbacks_due(house: House, now: datetime) -> list[str]:
    """Batches in which a fallback is due, or was queued and not sent."""
    with house.ledger.read() as connection:
        return sorted(fallbacks.due(connection, now).keys() | due.with_unsent_fallbacks(connection))


def with_reminders_due(house: House, now: datetime) -> list[str]:
    """Batches in which a reminder is due, or was queued and not sent. Paused ones wait."""
    with house.ledger.read() as connection:
        return due.with_reminders(connection, now)
