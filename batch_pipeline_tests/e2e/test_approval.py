"""Review and approval: a person approves that very plan, which is then what is sent."""

from datetime import timedelta
from typing import Any

from batch_pipeline.ledger import audit, batches
from batch_pipeline.ledger.audit import Entry
from batch_pipeline_tests.e2e.surgery import HEADINGS, SECOND, Surgery, T, by_email, by_sms, csv_text, hours, numbered


def runs(surgery: Surgery) -> int:
    with surgery.dagster() as instance:
        return len(instance.get_runs())


def plan_again(surgery: Surgery, batch: str, at: Any = T) -> None:
    """As somebody does who materialises the plan again in the UI."""
    from batch_pipeline.runner import Runner  # noqa: PLC0415 - Dagster is loaded by those tests alone that need it

    with surgery.dagster():
        Runner(surgery.home).run("plan", batch, at)


def said(surgery: Surgery, batch: str) -> list[Entry]:
    with surgery.house.ledger.read() as connection:
        return audit.entries(connection, batch)


def test_only_the_plan_that_was_last_shown_can_be_approved(surgery: Surgery) -> None:
    people = numbered(by_sms, range(1, 4))
    spec = surgery.batch("flu", people)
    assert "no batch flu" in surgery.refused("approve", "flu", "--by", "Dr Test")
    first = surgery.done("submit", spec, "--json", at=T).json
    assert first["recipients"] == {"email": 0, "nhs_app": 0, "sms": 3}

    # the same plan made again is the plan that was shown
    plan_again(surgery, "flu", T + hours(1))
    assert surgery.done("review", "flu", "--json").json["plan"] == first["plan"]

    # another plan isn't, until it is shown
    surgery.opt_outs(people[0])
    plan_again(surgery, "flu", T + hours(2))
    assert surgery.refused("approve", "flu", "--by", "Dr Test") == (
        "refused: batch flu: the plan has changed since it was last reviewed: run review"
    )
    second = surgery.done("review", "flu", "--json").json
    assert second["plan"] != first["plan"]
    assert second["recipients"]["sms"] == 2
    assert "not the one given" in surgery.refused("approve", "flu", "--by", "Dr Test", "--plan", first["plan"])
    assert "not the one given" in surgery.refused("approve", "flu", "--by", "Dr Test", "--plan", second["plan"][:4])
    assert "needs a name" in surgery.refused("approve", "flu", "--by", " ")
    assert "no approval" in surgery.refused("dispatch", "flu")
    surgery.status("flu", status="Awaiting approval")

    # approving records who and when, and does nothing else: no run, no message
    before = runs(surgery)
    surgery.done("approve", "flu", "--by", "Dr Test", "--plan", second["plan"][:12], at=T + hours(3))
    assert runs(surgery) == before
    assert surgery.journal() == {}
    last = said(surgery, "flu")[-1]
    assert (last.who, last.action, last.at) == ("Dr Test", "approve", T + hours(3))
    assert second["plan"] in last.detail.values()
    with surgery.house.ledger.read() as connection:
        approved = batches.approval(connection, "flu")
    assert approved is not None
    assert (approved.approved_by, approved.approved_at) == ("Dr Test", T + hours(3))

    # a plan that changes after that has to be approved again; nothing goes before
    surgery.opt_outs(*people[:2])
    plan_again(surgery, "flu", T + hours(4))
    assert "no approval of its present plan" in surgery.refused("dispatch", "flu", at=T + hours(4))
    assert surgery.done("dispatch", at=T + hours(4)).out == "nothing is waiting to be sent\n"
    surgery.status("flu", status="Awaiting approval")
    assert surgery.journal() == {}
    surgery.done("review", "flu")
    surgery.done("approve", "flu", "--by", "Dr Test")
    surgery.done("dispatch", at=T + hours(5))
    assert surgery.sent_once() == {"flu:4:primary"}


def test_auto_approval_sends_on_unless_a_person_is_needed(surgery: Surgery) -> None:
    person, app_user = by_sms(1), by_sms(2)
    surgery.app_users(app_user, as_of="2026-10-01")
    spec = surgery.batch("flu", [person, app_user], approval="auto")

    # by day 8 the list of App users counts for nothing: everybody by SMS, the cost shown, and a person has to approve
    late = T + timedelta(days=8)
    shown = surgery.done("submit", spec, "--json", at=late).json
    assert shown["recipients"] == {"email": 0, "nhs_app": 0, "sms": 2}
    assert any("counts as unknown" in warning and "1 patient" in warning for warning in shown["warnings"])
    surgery.status("flu", status="Awaiting approval")
    assert "no approval" in surgery.refused("dispatch", "flu", at=late)

    # with a fresh list nobody has to
    surgery.app_users(app_user, as_of="2026-10-08")
    shown = surgery.done("submit", spec, "--json", at=late).json
    assert shown["recipients"] == {"email": 0, "nhs_app": 1, "sms": 1}
    surgery.status("flu", status="Scheduled")
    assert [entry.who for entry in said(surgery, "flu") if entry.action == "approve"] == [
        "auto (as the batch file says)"
    ]
    surgery.done("dispatch", "flu", at=late)
    assert len(surgery.sent_once()) == 2


def test_an_old_list_of_app_users_is_used_and_warned_about(surgery: Surgery) -> None:
    surgery.app_users(by_sms(1), as_of="2026-09-28")
    shown = surgery.done("submit", surgery.batch("flu", [by_sms(1)]), "--json", at=T).json
    assert shown["recipients"]["nhs_app"] == 1
    assert any("older than 2 days" in warning for warning in shown["warnings"])


def test_what_is_not_yet_carried_out_is_refused_at_review_while_the_plan_stands(surgery: Surgery) -> None:
    people = numbered(by_sms, range(3))
    later = {"stagger": {"days": 3}, "send_at": "2026-10-02T09:00", "expires_after": "3d"}
    spec = surgery.batch("flu", people, approval="auto", **later)
    ran = surgery.shell("submit", spec, "--json", at=T)
    assert ran.code == 1
    assert ran.sentence.startswith("refused: flu can't be approved as it is: send_at is not yet carried out")
    names = [problem.split(" is not yet carried out by this version")[0] for problem in ran.json["problems"]]
    assert sorted(names) == ["expires_after", "send_at", "stagger"]
    assert ran.json["recipients"]["sms"] == 3
    surgery.status("flu", status="Awaiting approval", lines=3)
    assert "send_at is not yet" in surgery.refused("approve", "flu", "--by", "Dr Test")
    assert "no approval" in surgery.refused("dispatch", "flu")
    # mended and submitted again, it goes
    surgery.done("submit", surgery.batch("flu", people, approval="auto"), at=T)
    surgery.done("dispatch", at=T)
    assert len(surgery.sent_once()) == 3


def test_a_field_without_a_value_is_refused_with_the_lines_that_lack_it(surgery: Surgery) -> None:
    people = [person.row() for person in numbered(by_sms, range(1, 6))]
    people[1]["Clinic"] = people[3]["Clinic"] = " "
    body = "Dear {{ first_name }}, your clinic is on {{ clinic }}."
    spec = surgery.batch("flu", csv_text(people), message={"body": body})
    ran = surgery.shell("submit", spec, "--json", at=T)
    assert ran.code == 1
    assert ran.json["problems"] == [
        "{{ clinic }} has no value for 2 patients (lines 3, 5): fill it in, or take the field out of the message"
    ]
    assert "lines 3, 5" in ran.sentence
    assert "lines 3, 5" in surgery.refused("approve", "flu", "--by", "Dr Test")
    surgery.status("flu", lines=5, status="Awaiting approval")

    # a field that the cohort doesn't have at all
    ran = surgery.shell("submit", surgery.batch("flu", csv_text(people), message={"body": "Hi {{ clinik }}"}), at=T)
    assert ran.code == 1
    assert "{{ clinik }}" in ran.sentence
    surgery.status("flu", lines=5)

    # filled in, it goes as it was shown
    people[1]["Clinic"] = people[3]["Clinic"] = "Friday"
    surgery.send(surgery.batch("flu", csv_text(people, HEADINGS), message={"body": body}))
    assert len(surgery.sent_once()) == 5


def test_the_review_shows_all_that_the_spec_asks_for(surgery: Surgery) -> None:
    people = [by_email(1), by_sms(2), by_sms(3)]
    surgery.app_users(people[1])
    shown = surgery.done("submit", surgery.batch("flu", people), at=T).words
    for words in (
        "lines of the file 3", "rejected 0", "duplicates 0", "patient list 3",
        "recipients by email 1", "recipients by NHS App 1", "recipients by SMS 1",
        "every App message read (1 SMS fragments) 0.026", "all fall back (2 SMS fragments) 0.046",
        "Sent in one wave", "unread after 24 hours fall back", "Finished at the latest 96 hours after sending",
        "Sample by email", "Sample by NHS App", "Sample by SMS", "Dear Alex, your flu vaccination is ready",
        "non_contactable.csv", "batch-pipeline approve flu --by NAME --plan", "email simulator",
    ):  # fmt: skip
        assert words in shown, words
    assert people[0].first_name not in shown


def test_send_test_reaches_the_sender_alone_and_counts_nowhere(surgery: Surgery) -> None:
    surgery.done("submit", surgery.batch("flu", [by_sms(1)]), at=T)
    before = surgery.status("flu")
    sms = surgery.done("send-test", "flu", "--to", "07700 900999", at=T).out
    email = surgery.done("send-test", "flu", "--to", "me@example.org", at=T).out
    assert sms.startswith("flu: a test went by sms through simulator, reference flu:test:")
    assert email.startswith("flu: a test went by email through simulator, reference flu:test:")
    assert "neither a UK mobile number nor an email" in surgery.refused("send-test", "flu", "--to", "020 7946 0000")
    assert "no batch nope" in surgery.refused("send-test", "nope", "--to", "me@example.org")
    surgery.done("sweep", at=T + hours(1))
    assert surgery.status("flu") == before
    assert sorted(
        entry.channel for entry in surgery.house.simulator(surgery.house.workspace("larkfield")).journal()
    ) == [
        "email",
        "sms",
    ]
    tests = [entry for entry in said(surgery, "flu") if "test" in entry.action]
    assert len(tests) == 2
    assert all("900999" not in str(entry.detail) and "example.org" not in str(entry.detail) for entry in tests)
    # the test's own receipt disturbs nothing
    surgery.done("approve", "flu", "--by", "Dr Test", at=T + SECOND)
    surgery.done("dispatch", "flu", at=T + hours(2))
    surgery.done("sweep", at=T + hours(3))
    surgery.status("flu", status="Done", delivered=1)
