"""The shell: ``batch-pipeline``. Exit code 0 done, 1 refused for a reason the user can mend, 2 wrong usage.

Dagster and the set work are imported by the commands that need them: ``status`` answers in a fraction of the time
that Dagster takes to load.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from batch_pipeline.errors import DISK_IS_FULL, Refused, RunFailed, is_full_disk
from batch_pipeline.home import Home, keep_private
from batch_pipeline.house import House
from batch_pipeline.rules import steps

app = typer.Typer(
    name="batch-pipeline",
    help="Messages a cohort of patients from a CSV: one message each, by the best path, every line accounted for.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _instant(text: str) -> datetime:
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not an ISO time such as 2026-10-01T09:00+01:00") from None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)


At = Annotated[
    datetime | None,
    typer.Option(
        "--at",
        parser=_instant,
        metavar="ISO-TIME",
        help="Do it as of this time (without an offset: UTC).",
        show_default="now",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, and nothing else.")]
Batch = Annotated[str, typer.Argument(metavar="BATCH", help="The batch's id.")]


@app.callback()
def at_home(
    context: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option("--home", metavar="DIR", help="The home folder.", show_default="$BATCH_PIPELINE_HOME or ./.home"),
    ] = None,
) -> None:
    """Every command works in one home folder."""
    context.obj = House(Home.resolve(home))


def _now(at: datetime | None) -> datetime:
    return at or datetime.now(UTC)


@app.command()
def init(context: typer.Context) -> None:
    """Make the home folder: workspaces, templates, inbox, data, ledger, reports and Dagster's own."""
    from batch_pipeline.operations.reporting import publish_metrics

    house: House = context.obj
    house.home.init()
    if not house.home.metrics_path.exists():
        publish_metrics(house)
    house.ledger.close()
    _say(f"the home is ready: {house.home.root}")


@app.command()
def check(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A cohort (CSV) or a batch file (YAML).")],
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Read a cohort or a batch file and say what it holds and what is wrong with it. Keeps nothing, sends nothing."""
    from batch_pipeline.operations.checking import check_file

    found = check_file(context.obj, file, _now(at))
    if as_json:
        _print_json(found)
    else:
        _console().print(_view().checked(found))


@app.command()
def submit(
    context: typer.Context,
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="A batch file (YAML), its cohort beside it.")],
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Take a batch in, plan it, and show the plan: a review. Sends nothing."""
    from batch_pipeline.operations import submission
    from batch_pipeline.runner import Runner
    from batch_pipeline.settings import load_batch_file

    house: House = context.obj
    house.home.require()
    spec = house.home.inbox / spec if not spec.is_file() and (house.home.inbox / spec).is_file() else spec
    batch = load_batch_file(spec).batch
    submission.check_inbox(house, spec)
    with _watched(f"planning {batch}"):
        Runner(house.home).run("plan", batch, _now(at), {"cohort": {"config": {"spec": submission.place(house, spec)}}})
    submission.into_inbox(house, spec)
    _show_plan(house, batch, _now(at), as_json=as_json)


@app.command()
def review(context: typer.Context, batch: Batch, at: At = None, as_json: AsJson = False) -> None:
    """Show the standing plan of a batch; from now on that is the plan that `approve` approves."""
    _show_plan(context.obj, batch, _now(at), as_json=as_json)


def _show_plan(house: House, batch: str, now: datetime, *, as_json: bool) -> None:
    from batch_pipeline.operations import review as reviewing

    plan, figures = reviewing.shown(house, batch, now)
    if as_json:
        _print_json({"batch": batch, "plan": plan, **figures})
    else:
        _console().print(_view().plan(batch, plan, figures, house.home.reports / batch))
    if figures["problems"]:
        raise Refused(f"{batch} can't be approved as it is: {figures['problems'][0]}")


@app.command()
def approve(
    context: typer.Context,
    batch: Batch,
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who approves.")],
    plan: Annotated[
        str | None, typer.Option("--plan", metavar="HASH", help="Only if this is the standing plan.")
    ] = None,
    at: At = None,
) -> None:
    """Record the approval of the plan that was last shown. Sends nothing."""
    from batch_pipeline.operations import review as reviewing

    now = _now(at)
    approval = reviewing.approve(context.obj, batch, by, plan, now)
    already = "" if (approval.approved_by, approval.approved_at) == (by, now) else "already: "
    when = approval.approved_at.isoformat(timespec="seconds")
    _say(f"{batch}: {already}{approval.approved_by} approved plan {approval.plan_hash[:12]} at {when}")


@app.command(name="send-test")
def send_test(
    context: typer.Context,
    batch: Batch,
    to: Annotated[str, typer.Option("--to", metavar="ADDRESS", help="A number or email address of your own.")],
    at: At = None,
) -> None:
    """Send the message, rendered for a made-up patient, to a number or address of your own."""
    from batch_pipeline.operations.dispatching import send_test as send

    sent = send(context.obj, batch, to, _now(at))
    _say(f"{batch}: a test went by {sent.channel} through {sent.provider}, reference {sent.reference}")


@app.command()
def dispatch(
    context: typer.Context, batch: Annotated[str | None, typer.Argument(metavar="[BATCH]")] = None, at: At = None
) -> None:
    """Send what is approved: one batch, or every batch that has something to send. Each message goes once."""
    from batch_pipeline.operations.dispatching import plan_to_send, ready_to_send

    house: House = context.obj
    if batch is not None:
        plan_to_send(house, batch)
    due = [batch] if batch is not None else ready_to_send(house)
    if not _carry_out(house, _now(at), ("dispatch", "sending", lambda: due)):
        _say("nothing is waiting to be sent")


By = Annotated[str, typer.Option("--by", metavar="NAME", help="Who decides this.")]
All = Annotated[bool, typer.Option("--all", help="All batches, those made later too.")]
SomeBatch = Annotated[str | None, typer.Argument(metavar="[BATCH]", help="The batch's id.")]


@app.command()
def pause(
    context: typer.Context,
    by: By,
    batch: SomeBatch = None,
    every: All = False,
    because: Annotated[str | None, typer.Option("--because", metavar="TEXT", help="Why; name no patient.")] = None,
    at: At = None,
) -> None:
    """Send nothing more of a batch, or of all, within one chunk, until it is resumed."""
    from batch_pipeline.operations import controlling

    if _one_or_all(batch, every=every):
        paused, new = controlling.pause(context.obj, str(batch), by, because, _now(at))
    else:
        paused, new = controlling.pause_all(context.obj, by, because, _now(at))
    already, why = "" if new else "already: ", f": {paused.because}" if paused.because else ""
    _say(f"{batch or 'all batches'}: {already}{paused.by} paused {_them(batch)} at {_when(paused.at)}{why}")


@app.command()
def resume(context: typer.Context, by: By, batch: SomeBatch = None, every: All = False, at: At = None) -> None:
    """Lift the pause of a batch, or of all. Sends nothing itself: the dispatch sensor does, or `dispatch`."""
    from batch_pipeline.operations import controlling

    now = _now(at)
    if not _one_or_all(batch, every=every):
        lifted, still_paused = controlling.resume_all(context.obj, by, now)
        _say(
            f"all batches: {by} resumed them at {_when(now)}" if lifted else "all batches: already: they aren't paused"
        )
        if still_paused:
            _say(f"still paused by themselves: {', '.join(still_paused)}")
        return
    lifted, of_all = controlling.resume(context.obj, str(batch), by, now)
    _say(f"{batch}: {by} resumed it at {_when(now)}" if lifted else f"{batch}: already: it isn't paused by itself")
    if of_all:
        _say(
            f"nothing of it goes yet: {of_all.by} paused all batches at {_when(of_all.at)}; "
            "`batch-pipeline resume --all` lifts that"
        )


def _one_or_all(batch: str | None, *, every: bool) -> bool:
    """Whether one batch is meant. Naming one and all, or neither, is wrong usage."""
    if (batch is None) != every:
        raise typer.BadParameter("give either BATCH or --all")
    return batch is not None


def _them(batch: str | None) -> str:
    return "it" if batch is not None else "them"


def _when(instant: datetime) -> str:
    return instant.isoformat(timespec="seconds")


@app.command()
def cancel(
    context: typer.Context,
    batch: Batch,
    by: By,
    with_fallbacks: Annotated[
        bool, typer.Option("--with-fallbacks", help="No text follows any more on an App message that was sent.")
    ] = False,
    at: At = None,
) -> None:
    """Cancel a batch for ever: what isn't begun is never sent, reminders too. What was sent keeps its course."""
    from batch_pipeline.operations import controlling

    done = controlling.cancel(context.obj, batch, by, _now(at), with_fallbacks=with_fallbacks)
    already, how = "" if done.new else "already: ", " with its fallbacks" if done.with_fallbacks else ""
    _say(f"{batch}: {already}{done.by} cancelled it{how} at {_when(done.at)}")
    if done.new:
        _say(f"{done.messages:,} messages and {done.fallbacks:,} queued fallbacks are not sent")
    if done.reminders:
        _say("nobody is reminded any more")


@app.command()
def revoke(
    context: typer.Context,
    batch: Batch,
    by: By,
    line: Annotated[
        list[int] | None,
        typer.Option("--line", metavar="N", help="The line of the cohort; may be given often. None: all of the batch."),
    ] = None,
    at: At = None,
) -> None:
    """Revoke the links of a batch, or of some of its patients, at once and for ever."""
    from batch_pipeline.operations import controlling

    done = controlling.revoke(context.obj, batch, line or [], by, _now(at))
    whose = f", {'line' if len(line) == 1 else 'lines'} {', '.join(map(str, line))}" if line else ""
    if not done.links:
        _say(f"{batch}{whose}: already: no link of it opens")
    else:
        _say(f"{batch}{whose}: {by} revoked {done.links:,} {'link' if done.links == 1 else 'links'} for ever")
    if done.messages:
        several = "messages with them are" if done.messages > 1 else "message with them is"
        _say(f"{done.messages:,} {several} not sent")


@app.command()
def unlock(
    context: typer.Context,
    batch: Batch,
    line: Annotated[int, typer.Option("--line", metavar="N", help="The patient's line of the cohort.")],
    by: By,
    at: At = None,
) -> None:
    """Let a patient try again whose link was locked by wrong dates of birth."""
    from batch_pipeline.operations import controlling

    if controlling.unlock(context.obj, batch, line, by, _now(at)):
        _say(f"{batch}, line {line}: {by} unlocked the link")
    else:
        _say(f"{batch}, line {line}: already: the link isn't locked")


@app.command()
def resolve(
    context: typer.Context,
    batch: Batch,
    line: Annotated[
        list[int] | None, typer.Option("--line", metavar="N", help="The line of the cohort; may be given often.")
    ] = None,
    sent: Annotated[bool, typer.Option("--sent", help="They were sent after all.")] = False,
    not_sent: Annotated[bool, typer.Option("--not-sent", help="They were not sent: the next dispatch does.")] = False,
    by: Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who found it out.")] = None,
    at: At = None,
) -> None:
    """List the messages that may or may not have been sent, or say what became of them."""
    from batch_pipeline.operations import controlling

    if sent and not_sent:
        raise typer.BadParameter("give either --sent or --not-sent")
    if not (sent or not_sent):
        found = controlling.unconfirmed(context.obj, batch)
        _console().print(_view().unconfirmed(batch, [each for each in found if not line or each.line in line]))
        return
    if by is None:
        raise typer.BadParameter("--sent and --not-sent need --by NAME: say who found it out")
    resolved = controlling.resolve(context.obj, batch, line or [], by, _now(at), sent=sent)
    for each in resolved:
        what = "was sent" if sent else "was not sent: the next dispatch sends it, unless the batch is cancelled"
        _say(f"{batch}, line {each.line}: the {steps.label(each.step)} by {each.channel} {what}")
    if not resolved:
        _say(f"{batch}: nothing is unconfirmed")


@app.command()
def reconcile(
    context: typer.Context,
    by: By,
    without_journal: Annotated[
        bool,
        typer.Option(
            "--without-journal", help="The claims journal is lost: ask the providers, as far as they can tell."
        ),
    ] = False,
    at: At = None,
) -> None:
    """Put back what a ledger that was restored from a copy has forgotten. Sends nothing."""
    from batch_pipeline.operations import controlling, restoring

    house: House = context.obj
    controlling.require_name(by)
    if without_journal:
        done, asked = restoring.reconcile_without_journal(house, by, _now(at))
    else:
        done, asked = restoring.reconcile(house, by, _now(at)), None
    for sentence in _view().reconciled(done, asked):
        _say(sentence)
    if asked is None and not done.released:
        raise Refused(
            "the ledger isn't reconciled yet, and nothing is sent: do what is said above, then reconcile again"
        )
    _say("the ledger is reconciled: `batch-pipeline resume --all --by NAME` lets it send again")


@app.command()
def sweep(context: typer.Context, at: At = None) -> None:
    """Do all that is due by now for every batch: answers; then receipts and time-outs, fallbacks, and reminders."""
    from batch_pipeline.operations.answering import with_answers
    from batch_pipeline.operations.dispatching import with_fallbacks_due, with_news, with_reminders_due

    house: House = context.obj
    now = _now(at)
    if not _carry_out(
        house,
        now,
        ("inbox", "answers of", lambda: with_answers(house, now)),  # fallbacks may take an hour, and some can't wait
        ("receipts", "receipts of", lambda: with_news(house, now)),
        ("fallback", "fallbacks of", lambda: with_fallbacks_due(house, now)),
        ("reminders", "reminders of", lambda: with_reminders_due(house, now)),
    ):
        _say("nothing is due")


@app.command()
def inbox(
    context: typer.Context,
    batch: SomeBatch = None,
    seen: Annotated[bool, typer.Option("--seen", help="You have seen its answers that can't wait.")] = False,
    by: Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who has seen them.")] = None,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Say what patients have answered: of every batch, or of one, line by line. The answers are in `responses.csv`."""
    from batch_pipeline.operations import answering
    from batch_pipeline.runner import Runner

    house: House = context.obj
    now = _now(at)
    if seen and (batch is None or by is None):
        raise typer.BadParameter("--seen needs a BATCH and --by NAME: say who has seen what")
    if seen:
        lines = answering.seen(house, str(batch), str(by), now)
        what = (
            f"{by} has seen {'line' if len(lines) == 1 else 'lines'} {', '.join(map(str, lines))}"
            if lines
            else "already"
        )
        typer.echo(f"{batch}: {what}", err=as_json)
    if batch is not None:
        answering.inbox(house, batch)  # whether there can be any
    for due in answering.with_answers(house, now) if batch is None else [batch]:
        with _watched(f"answers of {due}"):
            Runner(house.home).run("inbox", due, now)
    found = answering.inboxes(house) if batch is None else answering.inbox(house, batch)
    if as_json:
        _print_json(found)
    elif batch is None:
        _console().print(_view().inboxes(found))
    else:
        _console().print(_view().inbox(found, house.home.reports / batch))


@app.command()
def save(
    context: typer.Context,
    batch: SomeBatch = None,
    again: Annotated[bool, typer.Option("--again", help="Also what the record has refused.")] = False,
    at: At = None,
) -> None:
    """Save what was sent to patients' records: of one batch, or of every batch that has something to save."""
    from batch_pipeline.operations import saving

    house: House = context.obj
    now = _now(at)
    if again and batch is None:
        raise typer.BadParameter("--again needs a BATCH: say which entries were mended")
    if again:
        _say(f"{batch}: {saving.try_again(house, str(batch), now):,} entries are tried again")
    due = [batch] if batch is not None else saving.with_entries_due(house, now)
    try:
        if not _carry_out(house, now, ("records", "saving", lambda: due)):
            _say("nothing is waiting to be saved")
    finally:
        for sentence in (sentence for each in due for sentence in saving.told(house, each)):
            _say(sentence)


def _carry_out(house: House, now: datetime, *stages: tuple[str, str, Callable[[], Sequence[str]]]) -> bool:
    """Runs each stage's job for the batches due for it, and says where they stand then; False when none was due.

    A batch that is refused doesn't keep the others waiting: what was refused is raised at the end.
    """
    runner: Any = None
    touched: dict[str, None] = {}
    faults: list[Refused | RunFailed] = []
    for job, doing, batch in _one_by_one(stages):
        if runner is None:
            from batch_pipeline.runner import Runner

            runner = Runner(house.home)
        touched[batch] = None
        try:
            with _watched(f"{doing} {batch}"):
                runner.run(job, batch, now)
        except (Refused, RunFailed) as fault:
            faults.append(fault)
    for batch in touched:
        try:
            _say(_view().one_line(_status(house, batch)))
        except Refused as fault:
            faults.append(fault)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise Refused("; ".join(dict.fromkeys(map(str, faults))))
    return bool(touched)


def _one_by_one(stages: Sequence[tuple[str, str, Callable[[], Sequence[str]]]]) -> Iterator[tuple[str, str, str]]:
    """Each batch once a stage, those too that are due for what was done for another: a mailbox has news of many."""
    for job, doing, due in stages:
        done = set[str]()
        while new := [batch for batch in due() if batch not in done]:
            done.update(new)
            yield from ((job, doing, batch) for batch in new)


@app.command()
def status(
    context: typer.Context,
    batch: Annotated[str | None, typer.Argument(metavar="[BATCH]")] = None,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Say where a batch, or every batch, stands."""
    house: House = context.obj
    _tell_if_held(house, _now(at))
    if batch is not None:
        found = _status(house, batch)
        if as_json:
            _print_json(found)
        else:
            _console().print(_view().status(found))
        return
    from batch_pipeline.operations.status import all_statuses

    every, faulty = all_statuses(house)
    if as_json:
        _print_json(every)
    else:
        _console().print(_view().statuses(every))
    if faulty:
        raise Refused("; ".join(faulty))


@app.command()
def report(
    context: typer.Context,
    batch: Batch,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Also copy the reports here.")] = None,
    at: At = None,
) -> None:
    """Write the batch's reports as they stand now."""
    from batch_pipeline.operations.reporting import copy_reports, reports_of
    from batch_pipeline.runner import Runner

    house: House = context.obj
    _status(house, batch)
    with _watched(f"reports of {batch}"):
        Runner(house.home).run("report", batch, _now(at))
    written = copy_reports(house, batch, out) if out else reports_of(house, batch)
    for path in written:
        _say(str(path))


@app.command()
def slots(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The file's name, without .csv or .ics.")],
    by: By,
    workspace: Annotated[
        str | None, typer.Option("--workspace", metavar="ID", help="Whose; needed where several have slots.")
    ] = None,
    at: At = None,
) -> None:
    """Take a file of slots in again that was changed, for every batch that offers them."""
    from batch_pipeline.operations import controlling

    whose, changed = controlling.take_in_slots(context.obj, name, workspace, by, _now(at))
    counts = ((len(changed.new), "new"), (len(changed.altered), "changed"), (len(changed.removed), "taken out"))
    _say(f"{name} of {whose.id}: {', '.join(f'{n:,} {what}' for n, what in counts if n) or 'nothing has changed'}")
    for id_, places, booked in changed.keep_bookings:
        _say(
            f"slot {id_}: {booked:,} booked it, and it has {places:,} places by now: they keep them; tell those you can't see"
        )


@app.command()
def bookings(context: typer.Context, batch: SomeBatch = None, at: At = None, as_json: AsJson = False) -> None:
    """Say what patients booked: of one batch line by line, or of every batch that offers slots."""
    from batch_pipeline.operations import booking

    house: House = context.obj
    now = _now(at)
    found = [booking.answered(house, each, now) for each in ([batch] if batch else booking.with_slots(house))]
    if as_json:
        _print_json(found[0] if batch else [{k: v for k, v in each.items() if k != "lines"} for each in found])
    else:
        _console().print(_view().bookings(found, each_line=batch is not None))


look_up = typer.Typer(no_args_is_help=True)
app.add_typer(look_up, name="look-up", help="Look up what patients' files don't say.")


@look_up.command(name="nhs-app-accounts")
def look_up_nhs_app_accounts(
    context: typer.Context,
    workspace: Annotated[str, typer.Argument(metavar="WORKSPACE", help="The workspace's id.")],
    again: Annotated[bool, typer.Option("--again", help="Although today's are there.")] = False,
    at: At = None,
) -> None:
    """Fetch who of a practice has the NHS App, once a day. The schedule of the UI does so by itself."""
    from batch_pipeline.operations import app_accounts
    from batch_pipeline.runner import Runner

    house: House = context.obj
    now = _now(at)
    if now > datetime.now(UTC):
        raise Refused("--at: accounts are of the day they are fetched on, and that one is still to come: leave it out")
    practice, day = app_accounts.practice_of(house.workspace(workspace)), app_accounts.day_of(now)
    there = house.app_accounts_of(practice, day).exists()
    if again or not there:
        with _watched(f"NHS App accounts of {practice}"):
            Runner(house.home).look_up("app_accounts", practice, day, now)
    already = "already: " if there and not again else ""
    accounts, notified = app_accounts.counted(house, practice, day)
    _say(f"{practice}: {already}{accounts:,} NHS App accounts as of {day}, {notified:,} of them with notifications on")


templates = typer.Typer(no_args_is_help=True)
app.add_typer(templates, name="templates", help="The templates of the home: list them, show one, try one on a cohort.")
TemplateName = Annotated[str, typer.Argument(metavar="NAME", help="The template's name.")]


@templates.command(name="list")
def list_templates(context: typer.Context, as_json: AsJson = False) -> None:
    """List the templates, and say which files can't be read."""
    from batch_pipeline.templates import readable_templates

    house: House = context.obj
    found, faults = readable_templates(house.home.require())
    if as_json:
        _print_json([each.model_dump(exclude_none=True) for each in found])
    else:
        _console().print(_view().templates(found))
    if faults:
        raise Refused("; ".join(faults))


@templates.command(name="show")
def show_template(context: typer.Context, name: TemplateName, as_json: AsJson = False) -> None:
    """Show a template: its keys, the fields that it names, and its words by channel."""
    from batch_pipeline.templates import fields_of, load_template

    house: House = context.obj
    template, message = load_template(house.home.require(), name)
    if as_json:
        _print_json({**template.model_dump(exclude_none=True), "fields": fields_of(message)})
    else:
        _console().print(_view().template(template, message, fields_of(message)))


@templates.command(name="preview")
def preview_template(
    context: typer.Context,
    name: TemplateName,
    cohort: Annotated[Path, typer.Option("--cohort", metavar="FILE", help="A cohort (CSV).")],
    workspace: Annotated[
        str | None, typer.Option("--workspace", metavar="ID", help="Who sends; needed where there are several.")
    ] = None,
    line: Annotated[
        list[int] | None, typer.Option("--line", metavar="N", help="A line of the cohort; may be given often.")
    ] = None,
    patients: Annotated[int, typer.Option("--patients", min=1, max=100, help="Else: so many from the top.")] = 3,
    at: At = None,
) -> None:
    """Fill a template in for a few lines of a cohort. Patients' values are shown on a terminal alone. Sends nothing."""
    from batch_pipeline.operations.previewing import masked, preview

    on_a_terminal = sys.stdout.isatty()
    written = str if on_a_terminal else masked
    chosen = line or []
    found = preview(
        context.obj, name, cohort, _now(at), workspace_id=workspace, lines=chosen, most=patients, written=written
    )
    _console().print(_view().previews(found))
    if not on_a_terminal:
        typer.echo("patients' values are hidden: this isn't a terminal, and may be a log", err=True)


@app.command()
def gateway(
    context: typer.Context,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65_535, help="The port to listen at.")] = 8080,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes; more than one: PostgreSQL only.")] = 1,
    proxy: Annotated[
        list[str] | None,
        typer.Option("--proxy", metavar="ADDRESS", help="A reverse proxy on another machine; may be given often."),
    ] = None,
) -> None:
    """Take the providers' callbacks into the ledger, and show patients what their links open, until it is stopped.

    A reverse proxy with TLS stands before it.
    """
    from batch_pipeline.gateway.server import serve

    serve(context.obj, host, port, workers, proxy or ())


@app.command()
def demo(context: typer.Context) -> None:
    """Send the three sample cohorts all the way with the simulator, and show what each step did."""
    from batch_pipeline.demo import run_demo

    run_demo(context.obj)


def _tell_if_held(house: House, now: datetime) -> None:
    """On stderr: the figures stand on stdout whatever the ledger has forgotten."""
    from batch_pipeline.operations.restoring import look

    _ = house.ledger  # what is wrong with that is for the command itself to say
    try:
        hold = look(house, now)
    except Refused as fault:
        typer.echo(f"nothing is sent: {fault}", err=True)
        return
    if hold is not None:
        typer.echo(f"nothing is sent: {hold.because}", err=True)


def _status(house: House, batch: str) -> dict[str, Any]:
    from batch_pipeline.operations.status import status as status_of

    return status_of(house, batch)


def _view() -> Any:
    from batch_pipeline import view

    return view


def _console() -> Any:
    from rich.console import Console

    return Console(soft_wrap=True)


def _watched(what: str) -> Any:
    from batch_pipeline.view import watched

    return watched(what)


def _say(sentence: str) -> None:
    typer.echo(sentence)


def _print_json(found: Any) -> None:
    from batch_pipeline.view import as_json

    sys.stdout.write(as_json(found) + "\n")


def main() -> None:
    """The console script."""
    keep_private()
    try:
        app()
    except Refused as refusal:
        sentence = f"refused: {refusal}"
    except RunFailed as failure:
        sentence = f"failed: {failure}"
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        if not is_full_disk(error):
            raise
        sentence = f"refused: {DISK_IS_FULL}"
    else:
        return
    typer.echo(sentence, err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
