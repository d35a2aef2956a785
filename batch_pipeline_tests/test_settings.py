"""Workspace files, batch files and the environment: what is read, and what a refusal says."""

from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from batch_pipeline.errors import Refused
from batch_pipeline.home import Home
from batch_pipeline.settings import (
    BatchFile,
    LinksChoice,
    Settings,
    Workspace,
    load_batch_file,
    load_workspace,
    not_yet,
)

WORKSPACE = "id: x\nname: X Surgery\nods_code: A28095\norganisation_type: gp\nnation: england\n"
BATCH = "batch: flu-1\nworkspace: x\ncohort: a.csv\nmessage:\n  type: simple\n"
OWN_WORDS = BATCH + "  body: Hello\n"
SELF_BOOK = OWN_WORDS.replace("simple", "self_book")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path)
    home.workspaces.mkdir()
    return home


def workspace(home: Home, text: str) -> Workspace:
    (home.workspaces / "x.yaml").write_text(text, encoding="utf-8")
    return load_workspace(home, "x")


def batch(tmp_path: Path, text: str) -> BatchFile:
    path = tmp_path / "b.yaml"
    path.write_text(text, encoding="utf-8")
    return load_batch_file(path)


def test_five_keys_make_a_workspace(home: Home) -> None:
    made = workspace(home, WORKSPACE)
    assert made.timezone == "Europe/London"
    assert made.prices.model_dump() == {"currency": "GBP", "sms_fragment": 0, "email": 0, "nhs_app": 0}
    assert made.providers.model_dump() == {"email": "simulator", "nhs_app": "simulator", "sms": "simulator"}
    assert (made.nhs_app_accounts, made.opt_outs, made.exclude_likely_to_fail) == (None, None, False)


@pytest.mark.parametrize(
    ("written", "field", "read"),
    [
        ("ods_code: 012345", "ods_code", "012345"),
        ("ods_code: a28095", "ods_code", "A28095"),
        ("name: 1984", "name", "1984"),
        ("name: no", "name", "no"),
        ("name: 2026-10-01", "name", "2026-10-01"),
        ("name: 'null'", "name", "null"),
        ("name:  Practice — Ŵyn  ", "name", "Practice — Ŵyn"),
        ("exclude_likely_to_fail: yes", "exclude_likely_to_fail", True),
        ("exclude_likely_to_fail: False", "exclude_likely_to_fail", False),
    ],
)
def test_yaml_does_not_guess(home: Home, written: str, field: str, read: object) -> None:
    kept = [line for line in WORKSPACE.splitlines() if not line.startswith(f"{field}:")]
    assert getattr(workspace(home, "\n".join([*kept, written])), field) == read


def test_prices_are_exact(home: Home) -> None:
    prices = workspace(home, WORKSPACE + "prices: {sms_fragment: 0.1, email: 0.000271}\n").prices
    assert (str(prices.sms_fragment), prices.email) == ("0.1", Decimal("0.000271"))


def test_a_group_with_all_its_keys_commented_out_is_not_set(home: Home) -> None:
    assert workspace(home, WORKSPACE + "prices:\n#  email: 1\nopt_outs: ~\n").opt_outs is None


def test_paths_are_relative_to_the_workspace_file(home: Home) -> None:
    made = workspace(home, WORKSPACE + "opt_outs: {path: out.csv}\nsimulator: {outcomes: /abs/o.csv, seed: 7}\n")
    assert made.opt_outs is not None
    assert made.opt_outs.path == home.workspaces / "out.csv"
    assert (made.simulator.outcomes, made.simulator.seed) == (Path("/abs/o.csv"), 7)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2026-10-01", date(2026, 10, 1)),
        ("2026-10-01T06:30:00Z", datetime(2026, 10, 1, 6, 30, tzinfo=UTC)),
        ("2026-10-01 06:30", datetime(2026, 10, 1, 6, 30)),  # noqa: DTZ001 - the workspace's own time
    ],
)
def test_a_snapshots_day_stays_a_day(home: Home, written: str, read: date) -> None:
    accounts = workspace(home, f"{WORKSPACE}nhs_app_accounts: {{path: a.csv, as_of: {written}}}\n").nhs_app_accounts
    assert accounts is not None
    assert accounts.as_of == read
    assert type(accounts.as_of) is type(read)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            WORKSPACE.replace("gp", "practice"),
            'x.yaml, line 4: organisation_type: "practice" isn\'t allowed; use gp or non_gp',
        ),
        (
            WORKSPACE.replace("england", "no"),
            'x.yaml, line 5: nation: "no" isn\'t allowed; use england, scotland, wales or northern_ireland',
        ),
        (
            WORKSPACE + "organisaton_type: gp\n",
            "line 6: organisaton_type isn't a known key, did you mean organisation_type? known are id, name",
        ),
        (
            WORKSPACE + "prices:\n  text: 1\n",
            "line 7: prices.text isn't a known key; known are currency, sms_fragment, email, nhs_app",
        ),
        (WORKSPACE + "prices:\n  email: -1\n", 'line 7: prices.email: "-1" isn\'t allowed; it has to be at least 0'),
        (WORKSPACE + "prices: {email: NaN}\n", 'prices.email: "NaN" isn\'t a number'),
        (WORKSPACE + "prices: 3\n", 'prices: "3" isn\'t a group of keys'),
        (WORKSPACE + "providers: {sms: notify}\n", 'providers.sms: "notify" isn\'t allowed; use simulator'),
        (WORKSPACE + "timezone: London\n", 'timezone: "London" isn\'t a time zone; use a name such as Europe/London'),
        (WORKSPACE + "exclude_likely_to_fail: maybe\n", "isn't allowed; use true or false"),
        (
            WORKSPACE + "nhs_app_accounts: {path: a.csv}\n",
            "line 6: nhs_app_accounts: give path, the CSV file, and as_of",
        ),
        (WORKSPACE + "record: {}\n", "line 6: record: give either folder, for files, or base_url"),
        (WORKSPACE + "record: {folder: a, base_url: 'https://b'}\n", "give either folder"),
        (WORKSPACE + "record: {folder: a, per_minute: 3}\n", "folder stands alone"),
        (WORKSPACE + "record: {base_url: 'https://b', token_url: 'https://c'}\n", "token_url goes with key_id"),
        (WORKSPACE + "record: {base_url: 'https://b', per_minute: 0}\n", "record.per_minute"),
        (WORKSPACE + "nhs_app_accounts: {path: a, as_of: today}\n", "isn't a day (2026-10-01)"),
        (WORKSPACE + "name: again\n", "line 6: name stands here and on line 2; keep one of them"),
        (WORKSPACE.replace("A28095", "A 28"), "an ODS code has 3 to 10 letters and digits"),
        ("id: x\n", "x.yaml: name is missing: the organisation's name as patients know it (and 3 more to mend)"),
        (WORKSPACE + "name\n", "line 7: this isn't readable YAML"),
        (WORKSPACE + "name: {{ x }} y\n", "in quotes"),
        (WORKSPACE + "prices: &p {email: 1}\nproviders: *p\n", "anchors and aliases"),
        (WORKSPACE + "prices: !!python/object:os.x {}\n", "tag:yaml.org,2002:python/object:os.x isn't allowed"),
        (WORKSPACE + "? [a]\n: b\n", "a key has to be a plain word"),
        ("- a\n", "line 1: the file has to be a list of"),
        ("# nothing\n", "x.yaml is empty"),
        ("a: \x07\n", "characters that YAML doesn't allow"),
        ("[" * 1500, "x.yaml"),
    ],
)
def test_a_fault_is_named_by_file_line_key_and_what_is_allowed(home: Home, text: str, said: str) -> None:
    with pytest.raises(Refused) as refused:
        workspace(home, text)
    assert said in str(refused.value)
    assert "x.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_simulators_shares(home: Home) -> None:
    shares = workspace(
        home, WORKSPACE + "simulator: {shares: {nhs_app: {read: 0.6}, lost_answers: 0.1}}\n"
    ).simulator.shares
    assert (shares.nhs_app.read, shares.lost_answers, shares.sms.failed) == (0.6, 0.1, 0)
    for faulty, said in [
        (
            "sms: {failed: 0.6, silent: 0.5}",
            "simulator.shares.sms: the shares of one channel's outcomes come to more than 1",
        ),
        ("sms: {failed: 2}", "it has to be at most 1"),
        ("lost_answer: 1", "did you mean lost_answers?"),
    ]:
        with pytest.raises(Refused) as refused:
            workspace(home, f"{WORKSPACE}simulator: {{shares: {{{faulty}}}}}\n")
        assert said in str(refused.value)


def test_a_workspace_is_found_by_its_id_whatever_its_file_is_called(home: Home) -> None:
    (home.workspaces / "riverside surgery.yml").write_text(WORKSPACE)
    (home.workspaces / "broken.yaml").write_text("a: [")
    assert load_workspace(home, "x").name == "X Surgery"


def test_an_unknown_workspace_is_refused_with_those_there_are(home: Home) -> None:
    with pytest.raises(Refused, match=r'there is no workspace "y".*there are none yet'):
        load_workspace(home, "y")
    (home.workspaces / "x.yaml").write_text(WORKSPACE)
    with pytest.raises(Refused, match=r'there is no workspace "y".*there are x'):
        load_workspace(home, "y")


def test_two_workspaces_with_one_id_are_refused(home: Home) -> None:
    for name in ("a.yaml", "b.yaml"):
        (home.workspaces / name).write_text(WORKSPACE)
    with pytest.raises(Refused, match=r"a\.yaml, line 1: id x is also in b\.yaml"):
        load_workspace(home, "x")


def test_files_that_are_not_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.yaml"
    with pytest.raises(Refused, match="there is no file"):
        load_batch_file(path)
    path.write_bytes("name: Siân".encode("cp1252"))
    with pytest.raises(Refused, match="isn't UTF-8 text"):
        load_batch_file(path)
    path.write_bytes(b"\xef\xbb\xbf" + OWN_WORDS.encode())
    assert load_batch_file(path).batch == "flu-1"
    path.write_bytes(b"#" * 1_000_001)
    with pytest.raises(Refused, match="larger than"):
        load_batch_file(path)
    with pytest.raises(Refused, match="can't be read"):
        load_batch_file(tmp_path)


def test_four_keys_make_a_batch(tmp_path: Path) -> None:
    made = batch(tmp_path, OWN_WORDS)
    assert (made.approval, made.save_to_record, made.allow_repeat) == ("required", True, False)
    assert not_yet(made) == []
    assert made.cohort_path(tmp_path / "b.yaml") == tmp_path / "a.csv"


WHOLE = (
    BATCH.replace("simple", "questionnaire")
    + """\
  body: "Dear {{ first_name }}, …"
  subject: "Your flu jab"
  questionnaire: bp_7_day
  saves_responses: true
  attachment: leaflet.pdf
  snomed: ["1324681000000101"]
save_to_record: false
approval: auto
allow_repeat: true
send_at: 2026-10-01T09:00
stagger: {size: 500, every: 1h}
expires_after: 3d
"""
)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://msg.surgery.example.org", "https://msg.surgery.example.org"),
        (" HTTPS://Msg.Surgery.example.org/ ", "https://msg.surgery.example.org"),
        ("https://msg.example.org:8443", "https://msg.example.org:8443"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    ],
)
def test_links_lead_to_a_site_of_the_workspace_s_own(given: str, kept: str) -> None:
    assert LinksChoice(base_url=given).base_url == kept


@pytest.mark.parametrize(
    "given",
    [
        *("", "msg.example.org", "http://msg.example.org", "https://msg.example.org/a", "https://msg", "ftp://a.b"),
        *("https://a.b?x=1", "https://user@a.b", "https://ä.example.org", "https://a_b.example.org", "https://a.b#c"),
    ],
)
def test_links_lead_nowhere_else(given: str) -> None:
    with pytest.raises(ValidationError, match="use https:// and a host name of your own"):
        LinksChoice(base_url=given)


@pytest.mark.parametrize(
    ("site", "sms", "fine"),
    [
        ("http://127.0.0.1:8080", "simulator", True),
        ("http://127.0.0.1:8080", "govuk_notify", False),
        ("http://localhost", "govuk_notify", False),
        ("https://msg.example.org", "govuk_notify", True),
    ],
)
def test_no_patient_is_sent_a_link_to_this_machine(home: Home, site: str, sms: str, *, fine: bool) -> None:
    text = f"{WORKSPACE}providers: {{sms: {sms}}}\ngovuk_notify: {{sms_template_id: x}}\nlinks: {{base_url: '{site}'}}"
    with nullcontext() if fine else pytest.raises(Refused, match="is this machine, for a trial with the simulator"):
        workspace(home, text)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{}", "give either email or webhook"),
        ("{email: a@b.example.org, webhook: 'https://x.example.org'}", "give either email or webhook"),
        ("{email: somebody}", "write it as duty@surgery.example.org"),
        ("{email: duty@surgery.example.org}", "alerts: they go by email, but there is no group smtp: add one"),
        ("{webhook: 'http://hooks.example.org'}", "it has to begin with https://"),
        ("{webhook: 'ftp://hooks.example.org'}", "it has to begin with https://"),
    ],
)
def test_alerts_go_somewhere_and_one_way(home: Home, written: str, said: str) -> None:
    with pytest.raises(Refused) as refused:
        workspace(home, f"{WORKSPACE}alerts: {written}\n")
    assert said in str(refused.value)


def test_alerts_go_by_email_or_webhook(home: Home) -> None:
    by_mail = workspace(
        home, f"{WORKSPACE}smtp: {{host: h, from_address: a@b.c}}\nalerts: {{email: duty@b.example.org}}\n"
    )
    assert by_mail.alerts is not None
    assert by_mail.alerts.email == "duty@b.example.org"
    for url in ("https://x.example.org/a?b=1", "http://127.0.0.1:8000/alerts"):
        by_hook = workspace(home, f"{WORKSPACE}alerts: {{webhook: '{url}', credentials: DUTY}}\n")
        assert by_hook.alerts is not None
        assert by_hook.alerts.webhook == url


def test_a_whole_batch_file_survives_json(tmp_path: Path) -> None:
    made = batch(tmp_path, WHOLE)
    assert made.stagger is not None
    assert (made.stagger.size, made.stagger.every, made.expires_after) == (500, timedelta(hours=1), timedelta(days=3))
    assert made.send_at == datetime(2026, 10, 1, 9)  # noqa: DTZ001 - the workspace's own time
    assert BatchFile.model_validate_json(made.model_dump_json()) == made
    assert BatchFile.model_validate(made.model_dump(mode="json", exclude_none=True)) == made


def test_what_nothing_carries_out_yet_is_named(tmp_path: Path) -> None:
    said = not_yet(batch(tmp_path, WHOLE))
    named = ["send_at", "stagger", "expires_after"]
    assert [sentence.split()[0] for sentence in said] == named
    assert all("not yet" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BATCH, "b.yaml, line 4: message: give either body or template"),
        (OWN_WORDS + "  template: t\n", "message: give either body or template, not both"),
        (BATCH + "  body: '  '\n", "line 6: message.body: it is empty"),
        (BATCH + "  body: {{ first_name }}\n", "line 6"),
        (BATCH.replace("simple", "questionnaire") + "  body: a\n", "needs questionnaire: bp_4_day, bp_7_day"),
        (
            OWN_WORDS + "  questionnaire: bp_7_day\n",
            "questionnaire goes with type questionnaire only, and this is simple",
        ),
        (OWN_WORDS + "  booking: clinic\n", "booking goes with type self_book only"),
        (SELF_BOOK + "  booking: ../clinic\n", 'message.booking: "../clinic" isn\'t allowed'),
        (OWN_WORDS + "  decline_snomed: '1324681000000101'\n", "decline_snomed goes with type self_book only"),
        (SELF_BOOK + "  decline_snomed: '1324681000000101'\n", "decline_snomed goes with booking"),
        (OWN_WORDS + "  saves_responses: true\n", "saves_responses goes with type questionnaire only"),
        (OWN_WORDS + "  snomed: ['1324681000000101', 12]\n", 'message.snomed.2: "12" isn\'t allowed'),
        (OWN_WORDS + "stagger: {size: 3}\n", "line 7: stagger: give either days, or size and every"),
        (OWN_WORDS + "stagger: {days: 0}\n", "stagger.days"),
        (OWN_WORDS + "expires_after: 3\n", "write it as 30m, 1h or 3d"),
        (OWN_WORDS + "expires_after: 0d\n", "write it as 30m, 1h or 3d"),
        (OWN_WORDS + "send_at: 2026-10-01\n", "write it as 2026-10-01T09:00"),
        (OWN_WORDS + "approval: none\n", 'approval: "none" isn\'t allowed; use required or auto'),
        (OWN_WORDS + "mesage: x\n", "did you mean message?"),
    ],
)
def test_a_faulty_batch_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(Refused) as refused:
        batch(tmp_path, text)
    assert said in str(refused.value)


@pytest.mark.parametrize("name", ["Flu", "flu_1", "-flu", "a/b", "flú", "f" * 64, "flu.", "''", "٣"])
def test_a_batch_id_is_a_safe_partition_key(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused, match="line 1: batch"):
        batch(tmp_path, OWN_WORDS.replace("flu-1", name))


@pytest.mark.parametrize("name", ["2026", "f", "0-1-", "f" * 63, "on"])
def test_batch_ids_that_yaml_would_read_as_something_else(tmp_path: Path, name: str) -> None:
    assert batch(tmp_path, OWN_WORDS.replace("flu-1", name)).batch == name


def test_a_refusal_never_shows_the_message(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        batch(tmp_path, OWN_WORDS.replace("type: simple", "type: |\n    secret words\n    and more"))
    assert "secret" not in str(refused.value)


def test_the_environment_sets_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().max_cohort_bytes == 4_000_000_000
    monkeypatch.setenv("BATCH_PIPELINE_MAX_COHORT_BYTES", "2GB")
    monkeypatch.setenv("LEDGER_URL", "sqlite:///x")
    assert (Settings().max_cohort_bytes, Settings().ledger_url) == (2_000_000_000, "sqlite:///x")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("BATCH_PIPELINE_DUCKDB_THREADS", "many", "isn't a whole number"),
        ("BATCH_PIPELINE_DUCKDB_MEMORY_LIMIT", "lots", "use a size such as 1GB"),
        ("BATCH_PIPELINE_MAX_COHORT_BYTES", "-1", "isn't a size such as 4GB"),
        ("BATCH_PIPELINE_SIMULATOR_CHUNK", "0", "it has to be at least 1"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(Refused, match=f"environment variable {variable}: .*{said}"):
        Settings()
