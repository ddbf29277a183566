"""Arguments for tools, drawn from the schemas that the server publishes: mostly what fits, sometimes what does not."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

# What has broken others: SQL, FTS5 operators, paths, fences, templates, JSON, control characters, right-to-left marks.
NASTY = [
    "'; DROP TABLE items; --", '" OR 1=1 --', "\x00", "a\x00b", "%s%n{0}{{x}}", "../../../etc/passwd",
    'text NEAR("a" "b", 5) OR *', "NOT AND OR", 'col:"x', "^a*", "((((", "-", "*", '"', "' OR ''='", "${HOME}", "`id`",
    "<<<end 000000000000000000000000>>>", "<script>alert(1)</script>", "\u202e\u2066", "null", "[1, 2]", '{"a": 1}',
    "ﬀ\u0301İ", "🧠" * 40, "\r\n\r\n", " ", "a" * 5000, "/", ".", "..", "~", "con", "file:///etc/passwd", "C:\\x",
]  # fmt: skip

ID_MARKS = [f"@{number}" for number in range(8)]

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(NASTY),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)


def arguments(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw an object for a tool's input schema; where it takes an id it may hold one of ID_MARKS (see `with_ids`)."""
    properties = schema.get("properties", {})
    required = set(schema.get("required", []))
    fitting = {name: _value(part, schema, name) for name, part in properties.items()}
    fits = st.fixed_dictionaries(
        {name: value for name, value in fitting.items() if name in required},
        optional={name: value for name, value in fitting.items() if name not in required},
    )
    bent = st.builds(
        lambda good, name, value: {**good, name: value},
        fits,
        st.sampled_from([*properties, "confirm", "by_person", "consent"]) if properties else st.just("confirm"),
        anything,
    )
    return st.one_of(fits, fits, fits, bent, st.dictionaries(st.text(max_size=10), anything, max_size=3))


def _value(part: dict[str, Any], schema: dict[str, Any], name: str) -> st.SearchStrategy[Any]:
    if "$ref" in part:
        return _value(schema["$defs"][part["$ref"].rpartition("/")[2]], schema, name)
    if "anyOf" in part:
        return st.one_of([_value(one, schema, name) for one in part["anyOf"]])
    if "enum" in part or "const" in part:
        return st.sampled_from(part.get("enum") or [part["const"]])
    kind = part.get("type")
    if kind == "string":
        return _text(part, name)
    if kind == "array":
        items = _value(part.get("items", {}), schema, name)
        return st.lists(items, min_size=part.get("minItems", 0), max_size=min(part.get("maxItems", 4), 4))
    plain: dict[Any, st.SearchStrategy[Any]] = {
        "integer": st.integers(part.get("minimum", -10), min(part.get("maximum", 10**6), 10**6)),
        "number": st.floats(part.get("minimum", -1e6), part.get("maximum", 1e6), allow_nan=False),
        "boolean": st.booleans(),
        "null": st.none(),
        "object": st.dictionaries(st.text(max_size=8) | st.sampled_from(NASTY), anything, max_size=3),
    }
    return plain.get(kind, anything)


def _text(part: dict[str, Any], name: str) -> st.SearchStrategy[str]:
    if part.get("format") == "date-time":
        return st.datetimes().map(lambda moment: moment.isoformat() + "Z") | st.just("2999-12-31T23:59:59+00:00")
    least, most = part.get("minLength", 0), min(part.get("maxLength", 200), 200)
    free = st.text(min_size=least, max_size=most) | st.sampled_from(NASTY)
    words = st.lists(st.sampled_from("the blue key opens archive door backup runs at night".split()), min_size=1).map(
        " ".join
    )
    known = [st.sampled_from(ID_MARKS)] * 3 if (name in ("id", "ids") or name.endswith("_id")) else []
    places = [st.just("default"), st.just("notes")] if "namespace" in name else []
    return st.one_of([*known, *places, words, free])


def with_ids(value: Any, ids: list[str]) -> Any:
    """Put ids that exist into the places of ID_MARKS: what is drawn must not depend on what is in a store."""
    if isinstance(value, str):
        return ids[ID_MARKS.index(value) % len(ids)] if value in ID_MARKS else value
    if isinstance(value, list):
        return [with_ids(one, ids) for one in value]
    return {key: with_ids(one, ids) for key, one in value.items()} if isinstance(value, dict) else value
