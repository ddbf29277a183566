-- A memory file of version 1, as text: made when version 1 was written, and never changed since.

CREATE TABLE meta (key TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE items (
    id TEXT PRIMARY KEY NOT NULL,
    namespace TEXT NOT NULL,
    text TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    preservation TEXT NOT NULL CHECK (preservation IN ('strict', 'moderate', 'flexible')),
    metadata TEXT NOT NULL,
    source TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    last_used_at TEXT NOT NULL,
    use_count INTEGER NOT NULL CHECK (use_count >= 0),
    expires_at TEXT,
    version INTEGER NOT NULL CHECK (version >= 1),
    tokens INTEGER NOT NULL CHECK (tokens >= 0),
    CHECK (expires_at IS NULL OR preservation = 'flexible')
) STRICT;
CREATE INDEX items_by_namespace ON items (namespace, id);
CREATE INDEX items_by_fingerprint ON items (fingerprint, namespace);
CREATE INDEX items_by_level ON items (preservation, id, namespace, tokens);
CREATE INDEX flexible_by_use ON items (namespace, last_used_at, id) WHERE preservation = 'flexible';
CREATE INDEX flexible_by_age ON items (namespace, created_at, id) WHERE preservation = 'flexible';
CREATE INDEX flexible_by_expiry ON items (expires_at, id) WHERE expires_at IS NOT NULL;

CREATE TABLE item_tags (
    tag TEXT NOT NULL,
    item_id TEXT NOT NULL REFERENCES items (id) ON DELETE CASCADE,
    PRIMARY KEY (tag, item_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX item_tags_by_item ON item_tags (item_id, tag);

CREATE TABLE links (
    source_id TEXT NOT NULL REFERENCES items (id) ON DELETE CASCADE,
    relation TEXT NOT NULL,
    target_id TEXT NOT NULL REFERENCES items (id) ON DELETE CASCADE,
    created_at TEXT NOT NULL,
    PRIMARY KEY (source_id, relation, target_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX links_by_target ON links (target_id, relation, source_id);

CREATE TABLE history (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    item_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    operation TEXT NOT NULL,
    at TEXT NOT NULL,
    by_person INTEGER NOT NULL CHECK (by_person IN (0, 1)),
    reason TEXT NOT NULL,
    successor TEXT,
    namespace TEXT NOT NULL,
    text TEXT,
    preservation TEXT NOT NULL,
    tags TEXT NOT NULL,
    metadata TEXT NOT NULL,
    source TEXT,
    expires_at TEXT,
    updated_at TEXT NOT NULL
) STRICT;
CREATE INDEX history_by_item ON history (item_id, sequence);
CREATE INDEX history_by_successor ON history (successor, sequence) WHERE successor IS NOT NULL;

CREATE TABLE namespace_totals (
    namespace TEXT NOT NULL,
    preservation TEXT NOT NULL,
    items INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    PRIMARY KEY (namespace, preservation)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER totals_of_new_items AFTER INSERT ON items BEGIN
    INSERT INTO namespace_totals VALUES (new.namespace, new.preservation, 1, new.tokens)
        ON CONFLICT DO UPDATE SET items = items + 1, tokens = tokens + excluded.tokens;
END;
CREATE TRIGGER totals_of_deleted_items AFTER DELETE ON items BEGIN
    UPDATE namespace_totals SET items = items - 1, tokens = tokens - old.tokens
        WHERE namespace = old.namespace AND preservation = old.preservation;
END;
CREATE TRIGGER totals_of_changed_items AFTER UPDATE OF namespace, preservation, tokens ON items BEGIN
    UPDATE namespace_totals SET items = items - 1, tokens = tokens - old.tokens
        WHERE namespace = old.namespace AND preservation = old.preservation;
    INSERT INTO namespace_totals VALUES (new.namespace, new.preservation, 1, new.tokens)
        ON CONFLICT DO UPDATE SET items = items + 1, tokens = tokens + excluded.tokens;
END;

CREATE TABLE consents (item_id TEXT PRIMARY KEY NOT NULL) STRICT, WITHOUT ROWID;

CREATE TRIGGER strict_items_keep_their_text
BEFORE UPDATE OF id, namespace, text, source, created_at ON items
WHEN old.preservation = 'strict' AND NOT EXISTS (SELECT 1 FROM consents WHERE item_id = old.id)
    AND (old.id, old.namespace, old.text, old.source, old.created_at)
        IS NOT (new.id, new.namespace, new.text, new.source, new.created_at)
BEGIN
    SELECT raise(ABORT, 'a strict item is never altered: only a person can allow it');
END;
CREATE TRIGGER strict_items_stay_strict BEFORE UPDATE OF preservation ON items
WHEN old.preservation = 'strict' AND new.preservation <> 'strict'
    AND NOT EXISTS (SELECT 1 FROM consents WHERE item_id = old.id)
BEGIN
    SELECT raise(ABORT, 'a strict item stays strict: only a person can allow less');
END;
CREATE TRIGGER strict_items_are_kept BEFORE DELETE ON items
WHEN old.preservation = 'strict' AND NOT EXISTS (SELECT 1 FROM consents WHERE item_id = old.id)
BEGIN
    SELECT raise(ABORT, 'a strict item is never deleted: only a person can allow it');
END;
CREATE TRIGGER strict_items_are_not_replaced BEFORE INSERT ON items
WHEN EXISTS (SELECT 1 FROM items WHERE id = new.id AND preservation = 'strict')
BEGIN
    SELECT raise(ABORT, 'a strict item is never replaced: only a person can allow it');
END;
CREATE TRIGGER strict_items_keep_their_tags BEFORE DELETE ON item_tags
WHEN EXISTS (SELECT 1 FROM items WHERE id = old.item_id AND preservation = 'strict')
    AND NOT EXISTS (SELECT 1 FROM consents WHERE item_id = old.item_id)
BEGIN
    SELECT raise(ABORT, 'a strict item keeps its tags: only a person can allow less');
END;
CREATE TRIGGER consents_are_used_up_by_a_deletion AFTER DELETE ON items BEGIN
    DELETE FROM consents WHERE item_id = old.id;
END;

CREATE TRIGGER history_is_not_rewritten BEFORE UPDATE ON history BEGIN
    SELECT raise(ABORT, 'history is only ever added to');
END;
CREATE TRIGGER history_is_kept_while_its_item_is BEFORE DELETE ON history
WHEN EXISTS (SELECT 1 FROM items WHERE id = old.item_id AND preservation <> 'flexible')
BEGIN
    SELECT raise(ABORT, 'the history of an item is kept as long as the item is');
END;

CREATE TABLE documents (
    id TEXT PRIMARY KEY,
    namespace TEXT NOT NULL,
    path TEXT NOT NULL,
    root TEXT NOT NULL,
    title TEXT NOT NULL,
    media_type TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    reading TEXT NOT NULL,
    ingested_at TEXT NOT NULL,
    UNIQUE (namespace, path)
);

CREATE TABLE passages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('memory', 'document')),
    owner_id TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    namespace TEXT NOT NULL,
    text TEXT NOT NULL,
    heading TEXT NOT NULL DEFAULT '',
    start_line INTEGER,
    end_line INTEGER,
    page INTEGER
);
CREATE INDEX passages_owner ON passages (kind, owner_id, ordinal);
CREATE INDEX passages_namespace ON passages (namespace, kind);

CREATE VIRTUAL TABLE passages_fts USING fts5 (
    text, heading, content = 'passages', content_rowid = 'id', tokenize = "porter unicode61 remove_diacritics 2"
);

CREATE TABLE unembedded (passage_id INTEGER PRIMARY KEY);
CREATE TABLE vectors (passage_id INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE vector_changes (id INTEGER PRIMARY KEY AUTOINCREMENT, passage_id INTEGER NOT NULL);
CREATE TABLE embedding_model (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    name TEXT NOT NULL,
    dimension INTEGER NOT NULL,
    generation INTEGER NOT NULL
);
CREATE TABLE embedding_cache (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    model TEXT NOT NULL,
    text_sha256 BLOB NOT NULL,
    vector BLOB NOT NULL,
    UNIQUE (model, text_sha256)
);

CREATE TRIGGER passages_inserted AFTER INSERT ON passages BEGIN
    INSERT INTO passages_fts (rowid, text, heading) VALUES (new.id, new.text, new.heading);
    INSERT INTO unembedded (passage_id) VALUES (new.id);
END;
CREATE TRIGGER passages_deleted AFTER DELETE ON passages BEGIN
    INSERT INTO passages_fts (passages_fts, rowid, text, heading) VALUES ('delete', old.id, old.text, old.heading);
    DELETE FROM unembedded WHERE passage_id = old.id;
    DELETE FROM vectors WHERE passage_id = old.id;
END;
CREATE TRIGGER passages_moved AFTER UPDATE OF namespace ON passages WHEN old.namespace <> new.namespace BEGIN
    INSERT INTO vector_changes (passage_id) SELECT passage_id FROM vectors WHERE passage_id = new.id;
END;
CREATE TRIGGER passages_text_is_fixed BEFORE UPDATE OF text, heading ON passages
    WHEN old.text <> new.text OR old.heading <> new.heading BEGIN
    SELECT raise(ABORT, 'a passage is replaced, never edited: its vector would be that of another text');
END;
CREATE TRIGGER vectors_inserted AFTER INSERT ON vectors BEGIN
    DELETE FROM unembedded WHERE passage_id = new.passage_id;
    INSERT INTO vector_changes (passage_id) VALUES (new.passage_id);
END;
CREATE TRIGGER vectors_deleted AFTER DELETE ON vectors BEGIN
    INSERT INTO vector_changes (passage_id) VALUES (old.passage_id);
END;

PRAGMA application_id = 1280595021;
PRAGMA user_version = 1;
INSERT INTO items VALUES ('01A', 'default', 'Never restart the billing server.', 'e88aec7fbfc2ff4e2e9ab360e34e7dcdb55be2245f8d5d6d27fa681848d7f702', 'strict', '{}', NULL, '2026-11-28T12:00:00.000000+00:00', '2026-11-28T12:00:00.000000+00:00', '2026-11-28T12:00:00.000000+00:00', 0, NULL, 1, 11);
INSERT INTO item_tags VALUES ('kept', '01A');
INSERT INTO passages (kind, owner_id, ordinal, namespace, text) VALUES ('memory', '01A', 0, 'default', 'Never restart the billing server.');
INSERT INTO items VALUES ('01B', 'default', 'The kitchen has milk.', '73354f8656f5e0e9871a99cc2a087a069b7ad64f0c7014dde471404190f40b21', 'flexible', '{}', NULL, '2026-11-28T12:00:00.000000+00:00', '2026-11-28T12:00:00.000000+00:00', '2026-11-28T12:00:00.000000+00:00', 0, NULL, 1, 11);
INSERT INTO item_tags VALUES ('kept', '01B');
INSERT INTO passages (kind, owner_id, ordinal, namespace, text) VALUES ('memory', '01B', 0, 'default', 'The kitchen has milk.');
