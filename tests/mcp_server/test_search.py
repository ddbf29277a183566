"""Search joins words and meaning, says what answered, and returns nothing that a filter leaves out."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mcp_server.stand_in import StandInEmbedder
from toolkit.errors import ToolkitError
from toolkit.mcp_server import full_text
from toolkit.mcp_server.embeddings import BackgroundEmbedder
from toolkit.mcp_server.full_text import query_terms, search_text
from toolkit.mcp_server.passages import Passage, delete_passages, replace_passages
from toolkit.mcp_server.search import Filters, Indexer, Search, fuse
from toolkit.mcp_server.store import Store

TEXTS = {
    "milk": "Milk is ordered on Mondays.",
    "coal": "Coal is kept in the cellar behind the door.",
    "wood": "Wood is kept in the shed behind the house.",
    "limit": "Set train.max_seq_tokens to 512 when memory is short.",
    "tokens": "The train takes tokens at most stations, one seq after the other.",
}


class Memories:
    def __init__(self, store: Store, background: BackgroundEmbedder) -> None:
        self.store = store
        self.indexer = Indexer(store, background)
        self.search = Search(store, background)

    def put(self, owner: str, text: str, kind="memory", namespace: str = "default", heading: str = "") -> None:
        with self.store.writing() as connection:
            replace_passages(connection, kind, owner, namespace, [Passage(text, heading)])

    def owners(self, query: str, **options) -> list[str]:
        return [hit.owner_id for hit in self.search.find(query, **options).hits]


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "memory.sqlite3")
    yield store
    store.close()


@pytest.fixture
def memories(store):
    memories = Memories(store, BackgroundEmbedder(embedder=StandInEmbedder()))
    for owner, text in TEXTS.items():
        memories.put(owner, text)
    memories.indexer.flush()
    yield memories
    memories.search.close()


def test_a_hit_says_where_it_stands_in_both_lists(memories):
    result = memories.search.find("milk mondays")
    best, *others = result.hits
    assert (result.mode, result.notes) == ("hybrid", ())
    assert (best.owner_id, best.text_rank, best.vector_rank) == ("milk", 1, 1)
    assert best.similarity is not None and best.similarity > 0.5
    assert all(hit.text_rank is None and hit.vector_rank is not None for hit in others)
    assert [hit.score for hit in result.hits] == sorted((hit.score for hit in result.hits), reverse=True)


def test_text_alone_and_vectors_alone_can_be_asked_for(memories):
    text = memories.search.find("cellar", mode="text")
    assert text.mode == "text" and [hit.owner_id for hit in text.hits] == ["coal"] and text.hits[0].similarity is None
    vector = memories.search.find("cellar", mode="vector")
    assert vector.mode == "vector" and len(vector.hits) == 5 and {hit.text_rank for hit in vector.hits} == {None}


def test_while_the_model_loads_full_text_answers_and_says_so(store):
    gate = threading.Event()
    background = BackgroundEmbedder(load=lambda: (gate.wait(10), StandInEmbedder())[1])
    memories = Memories(store, background)
    memories.put("coal", TEXTS["coal"])
    assert memories.search.find("cellar").notes == ("full text alone answered: the embedding model is switched off",)
    background.start()
    result = memories.search.find("where is the cellar")
    assert result.mode == "text" and [hit.owner_id for hit in result.hits] == ["coal"]
    assert result.notes == ("full text alone answered: the embedding model is still loading",)
    assert memories.search.similar(TEXTS["coal"], namespace="default") == []
    gate.set()
    background.wait(10)
    memories.indexer.flush()
    assert memories.search.find("where is the cellar").mode == "hybrid"


def test_without_a_model_the_reason_is_told(store):
    background = BackgroundEmbedder(load=lambda: (_ for _ in ()).throw(ToolkitError("no model", hint="Type x")))
    background.start()
    background.wait(10)
    result = Memories(store, background).search.find("words")
    assert result.mode == "text" and "no model. Type x" in result.notes[0]


def test_a_store_of_another_model_is_searched_by_words_and_the_command_is_told(memories, store):
    other = Search(store, BackgroundEmbedder(embedder=StandInEmbedder("another")))
    result = other.find("cellar")
    assert result.mode == "text" and "toolkit mcp reembed" in result.notes[0]
    assert [hit.owner_id for hit in result.hits] == ["coal"]
    assert other.similar(TEXTS["coal"], namespace="default") == []


def test_a_model_that_fails_leaves_full_text(memories, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(StandInEmbedder, "embed", fail)
    result = memories.search.find("cellar")
    assert result.mode == "text" and [hit.owner_id for hit in result.hits] == ["coal"]
    assert result.notes == ("full text alone answered, the embedding model failed: out of memory",)


def test_passages_that_wait_for_vectors_are_found_by_words_and_counted(memories):
    memories.put("new", "Apples are pressed in October.")
    result = memories.search.find("apples")
    assert result.hits[0].owner_id == "new" and result.hits[0].similarity is None
    assert result.notes == ("1 passages wait for their vectors: they were searched by their words alone",)


def test_filters_hold_in_every_mode(memories):
    memories.put("page", "Milk and coal and wood.", kind="document", namespace="other")
    memories.indexer.flush()
    with memories.store.writing() as connection:
        for owner, tags in (("milk", ["food", "weekly"]), ("coal", ["food"])):
            connection.execute(
                "INSERT INTO items (id, namespace, text, fingerprint, preservation, metadata, created_at, updated_at,"
                " last_used_at, use_count, version, tokens)"
                " VALUES (?, 'default', ?, '', 'moderate', '{}', '', '', '', 0, 1, 1)",
                (owner, TEXTS[owner]),
            )
            connection.executemany("INSERT INTO item_tags (item_id, tag) VALUES (?, ?)", [(owner, tag) for tag in tags])
    for mode in ("hybrid", "text", "vector"):

        def owners(mode=mode, **filters):
            return set(memories.owners("milk coal wood", mode=mode, filters=Filters(**filters)))

        assert owners(kinds=["document"]) == {"page"}
        assert owners(namespaces=["other"]) == {"page"}
        assert owners(owner_ids=["milk", "wood"]) == {"milk", "wood"}
        assert owners(tags=["food"]) == {"milk", "coal"}
        assert owners(tags=["food", "weekly"]) == {"milk"}
        assert owners(kinds=["document"], tags=["food"]) == set()
        assert owners(namespaces=[]) == set()


def test_an_identifier_goes_before_its_words(memories):
    assert memories.owners("train.max_seq_tokens")[0] == "limit"
    assert memories.owners("max_seq_tokens", mode="text") == ["limit", "tokens"]


def test_what_is_deleted_is_not_found_any_more(memories):
    with memories.store.writing() as connection:
        delete_passages(connection, "memory", "coal")
    assert "coal" not in memories.owners("coal in the cellar", limit=100)


def test_similar_looks_at_the_memory_of_one_namespace(memories):
    memories.put("elsewhere", TEXTS["coal"], namespace="other")
    memories.put("page", TEXTS["coal"], kind="document")
    memories.indexer.flush()
    hits = memories.search.similar("Coal is kept in the cellar.", namespace="default", limit=2)
    assert [hit.owner_id for hit in hits] == ["coal", "wood"]
    assert hits[0].similarity is not None and hits[0].similarity > 0.8


def test_diversity_puts_back_what_says_the_same(memories):
    for number in range(4):
        memories.put(f"again{number}", f"Milk is ordered on Mondays, note {number}.")
    memories.put("other", "Ordered goods come to the back door on Fridays.")
    memories.indexer.flush()
    plain = memories.owners("milk ordered on mondays", limit=4)
    diverse = memories.owners("milk ordered on mondays", limit=4, diversity=0.5)
    assert diverse[0] == plain[0]
    assert "other" in diverse and "other" not in plain
    assert memories.owners("milk ordered on mondays", limit=4, diversity=0.0) == plain


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": 1001}, {"diversity": 1.5}, {"diversity": float("nan")}])
def test_numbers_out_of_range_are_refused(memories, options):
    with pytest.raises(ToolkitError, match="must be"):
        memories.search.find("words", **options)


def test_the_order_of_equals_does_not_depend_on_chance(memories):
    for number in range(20):
        memories.put(f"same{number}", "exactly the same words")
    memories.indexer.flush()
    first = memories.search.find("exactly the same words", limit=20)
    assert [hit.passage_id for hit in first.hits] == sorted(hit.passage_id for hit in first.hits)


def test_a_query_is_embedded_once(store):
    embedder = StandInEmbedder()
    memories = Memories(store, BackgroundEmbedder(embedder=embedder))
    memories.search.find("one question")
    memories.search.find("one question")
    assert embedder.calls == [["one question"]]


def test_many_threads_search_while_another_writes(memories):
    faults: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(30):
                assert "milk" in memories.owners("milk mondays", limit=3)
        except BaseException as error:  # noqa: BLE001
            faults.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(30):
        memories.put(f"n{number}", f"another text about something, number {number}")
        memories.indexer.flush()
    for thread in threads:
        thread.join()
    assert faults == []


# --- fusion ----------------------------------------------------------------------------------------------------------


def test_fusion_is_the_sum_of_reciprocal_ranks():
    scores = fuse([(1, 1.0), (2, 1.0)], [(2, 1.0), (3, 1.0)], constant=60)
    assert scores == pytest.approx({1: 1 / 61, 2: 1 / 62 + 1 / 61, 3: 1 / 62})


def test_a_list_counts_by_its_weights():
    assert fuse([(1, 2.0)], [(2, 0.5)], constant=10) == pytest.approx({1: 2 / 11, 2: 0.5 / 11})


# --- full text -------------------------------------------------------------------------------------------------------


def test_terms_are_letters_and_digits_and_an_identifier_is_a_phrase_too():
    assert query_terms("Where is train.max_seq_tokens? IS it") == [
        "where",
        "is",
        "train",
        "max",
        "seq",
        "tokens",
        "train max seq tokens",
        "it",
    ]
    assert query_terms("!!! ---") == []


HOSTILE = [
    '"',
    "'",
    "*",
    "a OR b",
    "NEAR(a b)",
    "text:milk",
    "^milk",
    "milk AND",
    "NOT",
    "(",
    "a\0b",
    "{text}: x",
    "-",
    "+",
]


@pytest.mark.parametrize(
    "query", [*HOSTILE, '" OR rowid > 0 --', "milk'; DROP TABLE passages; --", "é" * 10_000, "\ud800"]
)
def test_no_query_reaches_the_syntax_of_full_text_search(memories, query):
    memories.search.find(query, mode="text")
    assert memories.owners("mondays", mode="text") == ["milk"]


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=80))
def test_no_text_makes_a_query_fail(text):
    import sqlite3

    from toolkit.mcp_server.passages import PASSAGES_DDL

    connection = sqlite3.connect(":memory:")
    connection.executescript(PASSAGES_DDL)
    replace_passages(connection, "memory", "x", "default", [Passage("milk and NEAR or AND words")])
    search_text(connection, text, 10)
    connection.close()


def test_frequent_terms_are_left_out_and_the_rarest_asked_for_first(store, monkeypatch):
    monkeypatch.setattr(full_text, "BUDGET", 40)
    with store.writing() as connection:
        for number in range(100):
            words = "common" + (" some" if number < 30 else "") + (" rare" if number == 7 else "")
            replace_passages(connection, "memory", str(number), "default", [Passage(f"{words} text {number}")])
    with store.reading() as connection:
        counted = full_text._counted(connection, ["common", "some", "rare", "absent"])
        assert counted == {"common": 41, "some": 30, "rare": 1, "absent": 0}
        assert full_text.affordable_terms(counted, 100) == ["rare"]
        assert full_text.affordable_terms({"common": 41}, 100) == ["common"]
        assert full_text.affordable_terms({"more": 30, "less": 20}, 1000) == ["less"]
        assert full_text.affordable_terms({"some": 19, "rare": 1}, 100) == ["rare", "some"]
        found = search_text(connection, "common some rare", 10)
    assert len(found) == 1 and found[0].score > 0


def test_of_terms_too_frequent_to_be_counted_the_rarer_is_asked_for(store, monkeypatch):
    monkeypatch.setattr(full_text, "BUDGET", 10)
    with store.writing() as connection:
        for number in range(100):
            words = "common" + (" some" if number % 4 == 0 else "")
            replace_passages(connection, "memory", str(number), "default", [Passage(f"{words} text {number}")])
    with store.reading() as connection:
        for query in ("common some", "some common"):
            assert {match.passage_id % 4 for match in search_text(connection, query, 100)} == {1}


def test_coverage_tells_a_full_match_from_a_few_common_words(memories):
    with memories.store.reading() as connection:
        (full, *_) = search_text(connection, "milk mondays ordered", 5)
        (part, *_) = search_text(connection, "milk for elephants riding quietly homewards", 5)
    assert 0 <= part.coverage < 0.3 < full.coverage <= 1
