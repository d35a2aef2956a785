import threading

from batch_pipeline.providers._refusals_in_a_row import FEW, MANY, RefusalsInARow


def test_a_few_are_too_many_before_anybody_was_taken() -> None:
    row = RefusalsInARow()
    for number in range(FEW):
        assert not row.are_too_many
        assert row.add(f"r{number}")
    assert row.are_too_many


def test_a_message_counts_once_however_often_it_is_refused() -> None:
    row = RefusalsInARow()
    assert row.add("r1")
    assert not any(row.add("r1") for _ in range(MANY))
    assert not row.are_too_many
    assert "r1" in row
    assert "r2" not in row


def test_who_is_taken_ends_the_row_and_speaks_for_the_account() -> None:
    row = RefusalsInARow()
    for number in range(FEW):
        row.add(f"r{number}")
    assert not row.has_taken
    row.taken()
    assert row.has_taken
    assert "r0" not in row
    for number in range(MANY - 1):
        row.add(f"r{number}")
    assert not row.are_too_many
    row.add("another")
    assert row.are_too_many


def test_threads_count_together() -> None:
    row = RefusalsInARow()
    row.taken()
    threads = [threading.Thread(target=row.add, args=[f"r{number}"]) for number in range(MANY)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert row.are_too_many
