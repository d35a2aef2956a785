import base64
import mailbox
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batch_pipeline.errors import Refused
from batch_pipeline.providers import bounces
from batch_pipeline.providers._reference_tokens import ReferenceTokens
from batch_pipeline.providers.bounces import Bounces, notifications
from batch_pipeline.providers.protocol import Receipt
from batch_pipeline.rules import steps
from batch_pipeline_tests.providers import bounce_samples as samples

NOW = datetime(2026, 10, 1, 12, tzinfo=UTC)
REFERENCE = "flu-2026-10:17:primary"
TOKENS = ReferenceTokens(b"a key for tests, and nothing else")
STRANGERS = ReferenceTokens(b"a key that a stranger made himself")


def mail(sample: str, reference: str = REFERENCE, tokens: ReferenceTokens = TOKENS, *, verp: bool = False) -> bytes:
    token = tokens.token(reference)
    address = f"bounce+{token}@surgery.example.test" if verp else "bounce@surgery.example.test"
    message_id = f"<{token}@surgery.example.test>"
    headers = base64.encodebytes(f"Subject: Your flu jab\nMessage-ID: {message_id}\n".encode()).decode()
    text = sample.replace("BASE64-OF-THE-HEADERS", headers)
    return text.replace("MESSAGE-ID", message_id).replace("BOUNCE", address).encode()


def told(raw: bytes) -> list[tuple[Any, ...]] | None:
    found = notifications(raw, TOKENS, NOW)
    return None if found is None else [(r.reference, r.kind, r.failure_kind, r.failure_code) for r in found]


def failed(kind: str, code: str | None) -> list[tuple[Any, ...]]:
    return [(REFERENCE, "failed", kind, code)]


# Tokens


OURS = st.from_regex(
    r"[a-z0-9][a-z0-9-]{0,62}:[0-9a-f]{8}:(0|[1-9][0-9]{0,8}):(primary|fallback|reminder_[1-9])", fullmatch=True
)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=120) | OURS)
@example("flu:00000000:0:primary")
@example("flu:3f9c01ab:16777215:primary")
@example("flu:3f9c01ab:16777216:primary")
@example("flu:3f9c01ab:16777215:reminder_9")
@example("flu:3f9c01ab:16777216:reminder_9")
@example("flu:3f9c01ab:017:primary")
@example("flu:3F9C01AB:17:primary")
@example("flu:17:email:primary")
def test_a_token_gives_its_reference_back(reference: str) -> None:
    token = TOKENS.token(reference)
    assert token == TOKENS.token(reference)
    assert TOKENS.reference(token) == TOKENS.reference(token.upper()) == reference
    assert TOKENS.find(f"<{token}@surgery.example.test>") == reference
    assert STRANGERS.reference(token) is None


@pytest.mark.parametrize("reference", ["", "flü:1:primary", "flu\x01", "flu\x02", "flu\n:1"])
def test_a_reference_that_would_not_come_back_makes_no_token(reference: str) -> None:
    with pytest.raises(ValueError, match="ASCII"):
        TOKENS.token(reference)


@given(st.integers(0, 10_000), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_a_token_with_any_other_letter_is_nobodys(place: int, letter: str) -> None:
    token = TOKENS.token(REFERENCE)
    place %= len(token)
    changed = token[:place] + letter + token[place + 1 :]
    # The last letter holds bits that mean nothing: another one there is the same token.
    assert TOKENS.reference(changed) in ({REFERENCE} if changed == token else {None, REFERENCE})
    if place < len(token) - 1 and changed != token:
        assert TOKENS.reference(changed) is None


def test_an_address_has_room_for_the_token_of_a_usual_batch() -> None:
    """64 characters are all that stand before an @; a longer one comes back in the returned headers alone."""
    for step in (steps.PRIMARY, *steps.REMINDERS):
        reference = f"flu-2026-10:3f9c01ab:16777215:{step}"
        token = TOKENS.token(reference)
        assert len("bounce+" + token) <= 64
        assert TOKENS.reference(token) == reference


def test_a_token_tells_nobody_the_batch() -> None:
    padded = TOKENS.token(REFERENCE).upper() + "=" * 7
    assert b"flu" not in base64.b32decode(padded[: len(padded) // 8 * 8])


def test_a_short_key_is_refused_and_none_is_shown() -> None:
    with pytest.raises(ValueError, match="16"):
        ReferenceTokens(b"short")
    assert "key" not in repr(TOKENS)


# What mail systems write

TABLE = {
    "POSTFIX": failed("permanent", "5.1.1"),
    "POSTFIX_GAVE_UP": failed("temporary", "4.4.1"),
    "POSTFIX_DELAYED": [],
    "POSTFIX_DELIVERED": [],
    "POSTFIX_RELAYED": [],
    "EXIM": failed("permanent", "5.0.0"),
    "OFFICE_365": failed("permanent", "5.1.10"),
    "EXCHANGE_FULL": failed("permanent", "5.2.2"),
    "GMAIL": failed("permanent", "5.1.1"),
    "GATEWAY": failed("permanent", "5.7.1"),
    "WITHOUT_HEADERS": None,
    "OUT_OF_OFFICE": None,
    "SPAM": None,
}


@pytest.mark.parametrize(("sample", "says"), TABLE.items())
def test_what_a_mail_says(sample: str, says: list[tuple[Any, ...]] | None) -> None:
    assert told(mail(getattr(samples, sample))) == says


@pytest.mark.parametrize("sample", TABLE)
def test_nothing_counts_without_a_token_of_ours(sample: str) -> None:
    assert told(mail(getattr(samples, sample), tokens=STRANGERS)) is None


def test_the_address_that_it_came_to_will_do() -> None:
    assert told(mail(samples.WITHOUT_HEADERS, verp=True)) == failed("permanent", "5.1.1")
    assert told(mail(samples.WITHOUT_HEADERS, verp=True).lower()) == failed("permanent", "5.1.1")


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        ("Status: 4.2.2", "temporary", "4.2.2"),
        ("Status:5.2.2 (mailbox full)", "permanent", "5.2.2"),
        ("Status: 5.1.1.1", "permanent", None),
        ("Status: nonsense", "permanent", None),
        ("X-Status: 4.2.2", "permanent", None),
    ],
)
def test_a_failure_with_an_odd_status_is_one_all_the_same(status: str, kind: str, code: str | None) -> None:
    assert told(mail(samples.EXIM.replace("Status: 5.0.0", status))) == failed(kind, code)


def test_of_several_recipients_a_permanent_failure_counts_first() -> None:
    def blocks(*statuses: str) -> str:
        return "\n\n".join(f"Action: {'failed' if s[0] != '2' else 'relayed'}\nStatus: {s}" for s in statuses)

    sample = samples.WITHOUT_HEADERS.replace("Action: failed\nStatus: 5.1.1", blocks("2.0.0", "4.1.1", "5.2.2"))
    assert told(mail(sample, verp=True)) == failed("permanent", "5.2.2")


@pytest.mark.parametrize(
    ("date", "at"),
    [
        ("Thu, 1 Oct 2026 10:00:00 +0100", datetime(2026, 10, 1, 9, tzinfo=UTC)),
        ("Thu, 1 Oct 2026 23:00:00 +0000", NOW),
        ("Thu, 1 Jan 1970 00:00:00 +0000", NOW),
        ("Thu, 1 Oct 2026 10:00:00", NOW),
        ("Thu, 1 Oct 99999999999999 10:00:00 +0000", NOW),
        ("yesterday", NOW),
    ],
)
def test_its_date_counts_if_it_can_be(date: str, at: datetime) -> None:
    sample = samples.WITHOUT_HEADERS.replace("Thu, 1 Oct 2026 09:00:10 +0000", date)
    (receipt,) = notifications(mail(sample, verp=True), TOKENS, NOW) or []
    assert receipt.occurred_at == at


def test_the_same_mail_has_the_same_key_and_another_another() -> None:
    def key(raw: bytes) -> str:
        return (notifications(raw, TOKENS, NOW) or [])[0].provider_key

    first = mail(samples.POSTFIX)
    assert key(first) == key(b"X-Added-On-The-Way: 1\r\n" + first)
    assert key(first) != key(mail(samples.EXIM))
    assert key(first) != key(mail(samples.POSTFIX, "flu-2026-10:18:primary"))
    assert key(mail(samples.GATEWAY)) != key(mail(samples.GATEWAY) + b"\n")


# What nobody should write


@given(st.binary(max_size=2_000))
@example(b"Content-Type: message/delivery-status\n\n")
@example(
    b"Content-Type: multipart/report; boundary=\xff\n\n--\xff\nContent-Type: message/delivery-status\n\nAction: failed"
)
def test_no_bytes_are_too_odd(raw: bytes) -> None:
    assert notifications(raw, TOKENS, NOW) is None


@given(st.data())
def test_no_mail_is_too_broken(data: st.DataObject) -> None:
    raw = mail(getattr(samples, data.draw(st.sampled_from(sorted(TABLE)))), verp=data.draw(st.booleans()))
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(raw)))
        raw = raw[:at] + data.draw(st.binary(max_size=20)) + raw[at + data.draw(st.integers(0, 200)) :]
    for receipt in notifications(raw, TOKENS, NOW) or []:
        assert (receipt.reference, receipt.kind) == (REFERENCE, "failed")
        assert receipt.occurred_at <= NOW


def _nested(depth: int, kind: str, blank_lines: int = 900_000) -> bytes:
    inner = b"Content-Type: message/delivery-status\n\nAction: failed\n"
    for level in range(depth):
        head = f"Content-Type: multipart/mixed; boundary=b{level}\n\n--b{level}\n" if kind == "multipart" else ""
        inner = (head or "Content-Type: message/rfc822\n\n").encode() + inner
    return inner + b"\n" * blank_lines * (kind == "multipart")


@pytest.mark.parametrize(
    "bomb",
    [
        _nested(10_000, "multipart"),
        _nested(39, "multipart"),
        _nested(18, "multipart"),
        _nested(200, "multipart", 58_000),
        _nested(20_000, "message"),
        _nested(30, "message"),
        b"message/delivery-status\n" * 40_000,
        b"Content-Type: message/delivery-status\n\n" + b"Action: failed\n\n" * 14_000,
        b"To: " + b"a" * 1_000_000 + b"@\nContent-Type: message/delivery-status\n\nAction: failed\n",
        b"To: " + (b"a" * 30 + b"@") * 30_000 + b"\nContent-Type: message/delivery-status\n\nAction: failed\n",
        b"Content-Type: message/delivery-status; " + b"a*0*=b; " * 100_000 + b"\n\nAction: failed\n",
        b"x" * 5_000_000,
    ],
    ids=range(12),
)
def test_a_bomb_is_left_alone_in_little_time(bomb: bytes) -> None:
    begun = time.process_time()  # others may be busy on this machine
    assert notifications(bomb, TOKENS, NOW) is None
    assert time.process_time() - begun < 2


# Boxes


def maildir(folder: Path, *mails: bytes) -> Path:
    place = folder / "Maildir"
    for name in ("new", "cur", "tmp"):
        (place / name).mkdir(parents=True, exist_ok=True)
    for number, raw in enumerate(mails):
        (place / "new" / f"179084520{number}.M1P{number}.relay").write_bytes(raw)
    return place


def mbox(folder: Path, *mails: bytes) -> Path:
    place = folder / "bounces"
    with place.open("ab") as file:
        for raw in mails:
            file.write(b"From MAILER-DAEMON Thu Oct  1 09:00:04 2026\n" + raw + b"\n\n")
    return place


BOXES = pytest.mark.parametrize("box", [maildir, mbox])


def bounced(*line_numbers: int) -> list[bytes]:
    return [
        mail(samples.POSTFIX.replace("4XJt1d2Z@", f"{line}@"), f"flu-2026-10:{line}:primary") for line in line_numbers
    ]


def lines(receipts: Sequence[Receipt]) -> list[int]:
    return [int(receipt.reference.split(":")[1]) for receipt in receipts]


def read_all(box: Bounces) -> list[int]:
    return [line for batch in box.receipts(NOW) for line in lines(batch)]


@BOXES
def test_each_mail_is_read_once(tmp_path: Path, box: Any) -> None:
    reading = Bounces(box(tmp_path, *bounced(2, 3, 4)), TOKENS)
    assert (read_all(reading), reading.unreadable) == ([2, 3, 4], 0)
    assert (read_all(reading), reading.unreadable) == ([], 0)


@BOXES
def test_a_batch_counts_as_read_once_the_next_is_asked_for(tmp_path: Path, box: Any) -> None:
    place = box(tmp_path, *bounced(2, 3, 4, 5, 6))
    reading = Bounces(place, TOKENS, at_once=2).receipts(NOW)
    assert lines(next(reading)) == [2, 3]
    assert read_all(Bounces(place, TOKENS)) == [2, 3, 4, 5, 6]


@BOXES
def test_who_dies_between_two_batches_leaves_the_second(tmp_path: Path, box: Any) -> None:
    place = box(tmp_path, *bounced(2, 3, 4, 5, 6))
    reading = Bounces(place, TOKENS, at_once=2).receipts(NOW)
    assert [lines(next(reading)), lines(next(reading))] == [[2, 3], [4, 5]]
    del reading
    assert read_all(Bounces(place, TOKENS)) == [4, 5, 6]


@BOXES
def test_what_is_not_ours_stays_and_is_counted(tmp_path: Path, box: Any) -> None:
    others = [
        mail(samples.OUT_OF_OFFICE),
        mail(samples.SPAM),
        mail(samples.POSTFIX, tokens=STRANGERS),
        b"",
        b"\xff" * 100,
        mail(samples.POSTFIX) + b"x\n" * bounces.LARGEST,
    ]
    place = box(tmp_path, *others, *bounced(2), mail(samples.POSTFIX_DELAYED))
    reading = Bounces(place, TOKENS)
    assert (read_all(reading), reading.unreadable) == ([2], 6)
    assert (read_all(reading), reading.unreadable) == ([], 6)
    if box is maildir:
        assert len(list((place / "new").iterdir())) == 6


@BOXES
def test_what_was_looked_at_is_not_parsed_again(tmp_path: Path, box: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place = box(tmp_path, mail(samples.OUT_OF_OFFICE), mail(samples.SPAM), *bounced(2))
    assert read_all(Bounces(place, TOKENS)) == [2]
    monkeypatch.setattr(bounces, "notifications", None)
    again = Bounces(place, TOKENS)
    assert (read_all(again), again.unreadable) == ([], 2)


@BOXES
def test_mail_waits_until_it_was_looked_at(tmp_path: Path, box: Any) -> None:
    place = box(tmp_path, *bounced(2))
    assert Bounces(place, TOKENS).waiting()
    assert read_all(Bounces(place, TOKENS)) == [2]
    assert not Bounces(place, TOKENS).waiting()
    box(tmp_path, mail(samples.OUT_OF_OFFICE))
    assert Bounces(place, TOKENS).waiting()
    assert read_all(Bounces(place, TOKENS)) == []
    assert not Bounces(place, TOKENS).waiting()


@BOXES
def test_mail_waits_on_where_its_reader_died(tmp_path: Path, box: Any) -> None:
    place = box(tmp_path, *bounced(2, 3, 4, 5))
    reading = Bounces(place, TOKENS, at_once=2).receipts(NOW)
    next(reading)
    next(reading)
    del reading
    assert Bounces(place, TOKENS).waiting()


def test_nothing_waits_where_nothing_is_and_what_cannot_be_told_does(tmp_path: Path) -> None:
    assert not Bounces(tmp_path / "bounces", TOKENS).waiting()
    place = maildir(tmp_path)
    assert not Bounces(place, TOKENS).waiting()
    (place / "new" / "a folder").mkdir()
    (place / "new" / "a dead link").symlink_to("nowhere")
    assert not Bounces(place, TOKENS).waiting()
    (tmp_path / "a file").touch()
    assert Bounces(tmp_path / "a file" / "bounces", TOKENS).waiting()


def test_mail_that_is_not_ours_stays_unseen_when_a_mail_program_moves_it(tmp_path: Path) -> None:
    place = maildir(tmp_path, mail(samples.OUT_OF_OFFICE))
    reading = Bounces(place, TOKENS)
    read_all(reading)
    (moved,) = (place / "new").iterdir()
    moved.rename(place / "cur" / f"{moved.name}:2,F")
    assert not reading.waiting()
    assert (read_all(reading), reading.unreadable) == ([], 1)
    assert [path.name[-4:] for path in (place / "cur").iterdir()] == [":2,F"]


def test_a_box_that_can_never_be_is_refused_when_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"smtp\.bounces"):
        read_all(Bounces(tmp_path / "none" / "bounces", TOKENS))


@BOXES
def test_a_box_that_is_not_there_yet_holds_nothing(tmp_path: Path, box: Any) -> None:
    reading = Bounces(tmp_path / "bounces", TOKENS)
    reading.check()
    assert read_all(reading) == []


def test_a_box_that_can_never_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"smtp\.bounces"):
        Bounces(tmp_path / "none" / "bounces", TOKENS).check()
    with pytest.raises(Refused, match="Maildir"):
        Bounces(tmp_path, TOKENS).check()
    Bounces(maildir(tmp_path), TOKENS).check()


def test_a_box_that_cannot_be_noted_in_is_refused_after_its_receipts_were_given(tmp_path: Path) -> None:
    reading = Bounces(mbox(tmp_path, *bounced(2)), TOKENS, at_once=1)
    batches = reading.receipts(NOW)
    assert lines(next(batches)) == [2]
    (tmp_path / "bounces.read").mkdir()
    with pytest.raises(Refused, match=r"smtp\.bounces"):
        next(batches)


def test_a_mail_that_was_read_is_flagged_as_seen(tmp_path: Path) -> None:
    place = maildir(tmp_path, *bounced(2, 3))
    (place / "new" / "1790845201.M1P1.relay").rename(place / "cur" / "1790845201.M1P1.relay:2,F")
    (place / "cur" / "1790845209.M1P9.relay:2,S").write_bytes(bounced(9)[0])
    assert read_all(Bounces(place, TOKENS)) == [2, 3]
    assert sorted(path.name for path in (place / "cur").iterdir()) == [
        "1790845200.M1P0.relay:2,S",
        "1790845201.M1P1.relay:2,FS",
        "1790845209.M1P9.relay:2,S",
    ]
    assert [mail.get_flags() for mail in mailbox.Maildir(place)].count("S") == 2


def test_odd_things_in_a_maildir_stop_nothing(tmp_path: Path) -> None:
    place = maildir(tmp_path, *bounced(2))
    (place / "new" / "a folder").mkdir()
    (place / "new" / ".hidden").write_bytes(bounced(3)[0])
    (place / "new" / "a link").symlink_to("/dev/zero")
    (place / "new" / "a dead link").symlink_to("nowhere")
    os.mkfifo(place / "new" / "a pipe")
    assert read_all(Bounces(place, TOKENS)) == [2]


def test_another_reader_may_be_quicker(tmp_path: Path) -> None:
    place = maildir(tmp_path, *bounced(2, 3))
    reading = Bounces(place, TOKENS).receipts(NOW)
    assert lines(next(reading)) == [2, 3]
    assert read_all(Bounces(place, TOKENS)) == [2, 3]
    assert next(reading, None) is None


def test_what_is_appended_to_an_mbox_is_read_next_time(tmp_path: Path) -> None:
    reading = Bounces(mbox(tmp_path, *bounced(2)), TOKENS)
    assert read_all(reading) == [2]
    mbox(tmp_path, *bounced(3))
    assert read_all(Bounces(tmp_path / "bounces", TOKENS)) == [3]
    assert (tmp_path / "bounces.read").stat().st_mode & 0o777 == 0o600
    assert b"flu" not in (tmp_path / "bounces.read").read_bytes()


def test_an_mbox_as_pythons_own_library_writes_it(tmp_path: Path) -> None:
    box = mailbox.mbox(tmp_path / "bounces")
    for raw in bounced(2, 3):
        box.add(raw)
    box.close()
    assert read_all(Bounces(tmp_path / "bounces", TOKENS)) == [2, 3]


_LOCKS_IT = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_an_mbox_that_is_being_written_is_read_next_time(tmp_path: Path) -> None:
    place = mbox(tmp_path, *bounced(2))
    command = [sys.executable, "-S", "-c", _LOCKS_IT, str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"locked\n"
        assert read_all(Bounces(place, TOKENS)) == []
        writer.communicate()
    assert read_all(Bounces(place, TOKENS)) == [2]


def test_a_large_mbox_is_not_held_in_memory(tmp_path: Path) -> None:
    place = mbox(tmp_path, *bounced(2), b"X: y\n\n" + b"z" * 30_000_000 + b"\n", *bounced(3))
    reading = Bounces(place, TOKENS)
    assert (read_all(reading), reading.unreadable) == ([2, 3], 1)


def test_receipts_can_be_late_and_still_have_their_moment(tmp_path: Path) -> None:
    (batch,) = Bounces(mbox(tmp_path, *bounced(2)), TOKENS).receipts(NOW + timedelta(days=10))
    assert batch[0].occurred_at == datetime(2026, 10, 1, 9, 0, 4, tzinfo=UTC)
