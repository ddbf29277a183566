"""Passages keep their full-text entries, vectors and waiting list in step, whoever writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import numpy as np
import pytest

from tests.mcp_server.stand_in import StandInEmbedder
from toolkit.mcp_server.passages import (
    PASSAGES_DDL,
    Passage,
    delete_passages,
    pending,
    pending_count,
    replace_passages,
    set_vectors,
)

MILK = Passage("Milk is ordered on Mondays.", "Kitchen", 1, 1)
COAL = Passage("Coal is kept in the cellar.", "Heating", 3, 4)
VECTOR = np.ones(384, np.float32)


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.executescript(PASSAGES_DDL)
    yield connection
    connection.close()


def found(connection: sqlite3.Connection, word: str) -> list[int]:
    rows = connection.execute(
        "SELECT rowid FROM passages_fts WHERE passages_fts MATCH ? ORDER BY rowid", (f'"{word}"',)
    )
    return [row[0] for row in rows]


def full_text_is_whole(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO passages_fts (passages_fts, rank) VALUES ('integrity-check', 1)")


def test_a_passage_is_found_by_its_words_and_waits_for_its_vector(connection):
    milk, coal = replace_passages(connection, "document", "d1", "default", [MILK, COAL])

    assert found(connection, "mondays") == [milk]
    assert found(connection, "heating") == [coal]
    assert [entry.passage_id for entry in pending(connection, 10)] == [milk, coal]
    assert pending(connection, 1)[0].text == "Kitchen\nMilk is ordered on Mondays."
    full_text_is_whole(connection)


def test_the_newest_passages_do_not_wait_behind_all_others(connection):
    passages = [Passage(f"text {number}") for number in range(20)]
    ids = replace_passages(connection, "document", "d1", "default", passages)
    assert [entry.passage_id for entry in pending(connection, 6)] == [*ids[:3], *ids[-3:]]
    assert [entry.passage_id for entry in pending(connection, 50)] == ids


def test_an_unchanged_passage_keeps_its_row_and_vector_and_takes_its_new_place(connection):
    milk, coal = replace_passages(connection, "document", "d1", "default", [MILK, COAL])
    set_vectors(connection, [(milk, VECTOR), (coal, VECTOR)])
    moved = Passage(COAL.text, COAL.heading, 1, 2)
    new = Passage("Wood is kept in the shed.")

    ids = replace_passages(connection, "document", "d1", "default", [moved, new])

    assert ids[0] == coal
    assert [entry.passage_id for entry in pending(connection, 10)] == [ids[1]]
    assert connection.execute(
        "SELECT ordinal, start_line, end_line FROM passages WHERE id = ?", (coal,)
    ).fetchone() == (0, 1, 2)
    assert found(connection, "milk") == []
    assert connection.execute("SELECT passage_id FROM vectors").fetchall() == [(coal,)]
    full_text_is_whole(connection)


def test_the_same_text_twice_is_two_passages(connection):
    ids = replace_passages(connection, "document", "d1", "default", [MILK, MILK])
    assert len(set(ids)) == 2
    assert replace_passages(connection, "document", "d1", "default", [MILK, MILK]) == ids


def test_deleting_an_owner_leaves_nothing_of_it_and_nothing_else_is_touched(connection):
    replace_passages(connection, "document", "x", "default", [MILK])
    (kept,) = replace_passages(connection, "memory", "x", "default", [COAL])
    set_vectors(connection, [(1, VECTOR), (kept, VECTOR)])

    assert delete_passages(connection, "document", "x") == 1

    assert found(connection, "milk") == []
    assert found(connection, "coal") == [kept]
    assert connection.execute("SELECT passage_id FROM vectors").fetchall() == [(kept,)]
    full_text_is_whole(connection)


def test_an_id_is_never_used_twice(connection):
    (first,) = replace_passages(connection, "memory", "x", "default", [MILK])
    delete_passages(connection, "memory", "x")
    (second,) = replace_passages(connection, "memory", "x", "default", [MILK])
    assert second > first


def test_a_vector_that_comes_too_late_or_twice_is_passed_over(connection):
    (milk,) = replace_passages(connection, "memory", "x", "default", [MILK])

    assert set_vectors(connection, [(milk, VECTOR), (milk, VECTOR * 2), (999, VECTOR)]) == 1

    (stored,) = connection.execute("SELECT vector FROM vectors").fetchone()
    assert np.array_equal(np.frombuffer(stored, "<f4"), VECTOR)
    assert pending_count(connection) == 0


def test_every_change_of_a_vector_or_its_namespace_is_in_the_list_of_changes(connection):
    (milk,) = replace_passages(connection, "memory", "x", "default", [MILK])
    set_vectors(connection, [(milk, VECTOR)])
    replace_passages(connection, "memory", "x", "default", [MILK])
    replace_passages(connection, "memory", "x", "elsewhere", [MILK])
    delete_passages(connection, "memory", "x")
    assert connection.execute("SELECT passage_id FROM vector_changes").fetchall() == [(milk,)] * 3


def test_a_passage_cannot_be_edited_in_place(connection):
    (milk,) = replace_passages(connection, "memory", "x", "default", [MILK])
    with pytest.raises(sqlite3.IntegrityError, match="replaced, never edited"):
        connection.execute("UPDATE passages SET text = 'other' WHERE id = ?", (milk,))


def test_the_stand_in_puts_texts_with_common_words_closer_than_others():
    same, near, far = StandInEmbedder().embed(["milk on mondays", "on mondays: milk!", "coal in the cellar"])
    assert same @ near > 0.9
    assert same @ far < 0.3
    assert np.linalg.norm(far) == pytest.approx(1.0, abs=1e-6)
