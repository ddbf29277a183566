"""Files are read by structure, and a file that cannot be read is skipped with its reason."""

from __future__ import annotations

import io
import zipfile

import docx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from toolkit.mcp_server import office_reader
from toolkit.mcp_server.office_reader import Unreadable
from toolkit.mcp_server.readers import MAX_BYTES, media_type, read_document


def sections(content: str | bytes, name: str) -> list[tuple[str, str]]:
    data = content.encode() if isinstance(content, str) else content
    return [(section.heading, section.text.strip()) for section in read_document(data, name).sections]


def pdf(*pages: str) -> bytes:
    writer = PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    for text in pages:
        page = writer.add_blank_page(300, 300)
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})}
        )
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def word() -> bytes:
    document = docx.Document()
    document.core_properties.title = "House rules"
    document.add_paragraph("Before everything.")
    document.add_heading("Kitchen", 1)
    document.add_paragraph("Milk is ordered on Mondays.")
    table = document.add_table(rows=1, cols=2)
    table.cell(0, 0).text, table.cell(0, 1).text = "Tea", "four minutes"
    document.add_heading("Oven", 2)
    document.add_paragraph("Never open it at once.")
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def test_markdown_is_cut_at_its_headings_with_the_trail_of_titles_and_their_lines():
    text = "intro\n\n# Guide\n\n## Milk\n\nOn Mondays.\n\n```sh\n# no heading\n```\n\nSetext\n------\nlast\n"
    read = read_document(text.encode(), "guide.md")
    assert (read.title, read.media_type) == ("Guide", "text/markdown")
    assert [(section.heading, section.text.strip()) for section in read.sections] == [
        ("", "intro"),
        ("Guide › Milk", "On Mondays.\n\n```sh\n# no heading\n```"),
        ("Guide › Setext", "last"),
    ]
    milk = read.sections[1]
    assert milk.lines is not None and milk.lines[milk.text.split("\n").index("On Mondays.")] == 7


def test_python_is_cut_between_functions_and_long_classes_between_methods():
    method = "    def {}(self):\n" + "        pass\n" * 25
    methods = f"{method.format('a')}\n{method.format('b')}"
    text = f"import os\n\n\n@cached\ndef first():\n    return 1\n\n\nclass Big:\n{methods}\n\nrest = 1\n"
    read = read_document(text.encode(), "m.py")
    assert [section.heading for section in read.sections] == [
        "",
        "def first",
        "class Big",
        "class Big › def a",
        "class Big › def b",
        "",
    ]
    assert read.sections[1].text.startswith("@cached\ndef first")
    assert "\n".join(section.text for section in read_document(text.encode(), "m.py").sections).split() == text.split()
    for section in read.sections:
        assert section.lines is not None
        assert section.text.split("\n")[0] == text.split("\n")[section.lines[0] - 1]


def test_other_code_and_broken_python_are_cut_by_their_layout():
    text = "function a() {\n\n  return 1;\n}\n\nfunction b() {\n  return 2;\n}\n"
    assert [part for _, part in sections(text, "x.js")] == [
        "function a() {\n\n  return 1;\n}",
        "function b() {\n  return 2;\n}",
    ]
    assert len(sections("def broken(:\n    x\n\ndef b():\n    y\n", "x.py")) == 2


def test_html_gives_what_a_reader_of_the_page_sees():
    page = (
        "<html><head><title>Rules</title><style>p{}</style></head><body><nav>menu</nav>\n"
        "<h1>Kitchen</h1>\n<p>Milk on <b>Mondays</b>.</p><!-- secret -->\n"
        "<p hidden>hidden words</p><p style='display: none'>more</p><script>alert(1)</script>\n"
        "<h2>Oven</h2><ul><li>hot</li><li>black</li></ul><pre>a\n  b</pre></body></html>"
    )
    read = read_document(page.encode(), "rules.html")
    assert read.title == "Rules"
    assert [(section.heading, section.text) for section in read.sections] == [
        ("Kitchen", "Milk on Mondays."),
        ("Kitchen › Oven", "hot\nblack\na\n  b"),
    ]
    assert read.sections[0].lines == (3,)


def test_a_page_that_is_nested_without_end_is_read_in_seconds():
    assert len(sections("<div>x" * 10_000, "deep.html")[0][1].split()) == 10_000


def test_a_pdf_gives_its_pages():
    read = read_document(pdf("Milk on Mondays", "Coal in the cellar"), "a.pdf")
    assert [(section.page, section.text.strip()) for section in read.sections] == [
        (1, "Milk on Mondays"),
        (2, "Coal in the cellar"),
    ]


def test_a_word_file_gives_headings_paragraphs_and_tables():
    read = read_document(word(), "rules.docx")
    assert read.title == "House rules"
    assert [(section.heading, section.text.strip()) for section in read.sections] == [
        ("", "Before everything."),
        ("Kitchen", "Milk is ordered on Mondays.\n\nTea | four minutes"),
        ("Kitchen › Oven", "Never open it at once."),
    ]


@pytest.mark.parametrize(
    "content",
    [
        "naïve – 日本".encode(),
        "naïve – 日本".encode("utf-8-sig"),
        "naïve – 日本".encode("utf-16"),
        b"\xfe\xff" + "naïve – 日本".encode("utf-16-be"),
    ],
)
def test_text_is_read_in_the_encoding_that_it_is_in(content):
    assert sections(content, "a.txt") == [("", "naïve – 日本")]


def test_old_windows_text_and_line_ends_are_read():
    assert sections("café – “so”\r\nzwei\rdrei".encode("cp1252"), "a.txt") == [("", "café – “so”\nzwei\ndrei")]


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (b"\x7fELF\0\0\0", "a.txt", "binary"),
        (bytes(range(1, 9)) * 100 + b"\xff\xfe\xfd" * 50, "a.txt", "binary"),
        (b"text", "photo.jpeg", r"files like \.jpeg are not read"),
        (b" \n ", "a.md", "no text in it"),
        (b"x" * (MAX_BYTES + 1), "a.txt", "larger than 20 MiB"),
        (b"%PDF-1.7 garbage", "a.pdf", "damaged"),
        (pdf(""), "a.pdf", "hold no text"),
        (b"PK\x03\x04 garbage", "a.docx", "damaged"),
    ],
)
def test_what_cannot_be_read_is_skipped_with_its_reason(content, name, reason):
    with pytest.raises(Unreadable, match=reason):
        read_document(content, name)


def test_a_zip_bomb_is_refused_before_it_is_unpacked():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", b"0" * (office_reader.MAX_UNPACKED_BYTES + 1))
    assert len(file.getvalue()) < 1_000_000
    with pytest.raises(Unreadable, match="unpacked it is larger than 200 MiB"):
        read_document(file.getvalue(), "bomb.docx")


def test_a_reader_that_takes_too_long_or_dies_costs_one_skipped_file(monkeypatch):
    monkeypatch.setattr(office_reader, "SECONDS", 0.05)
    with pytest.raises(Unreadable, match="took more than"):
        read_document(pdf("text"), "a.pdf")
    monkeypatch.setattr(office_reader, "SECONDS", 60)
    monkeypatch.setattr(office_reader.sys, "executable", "/bin/false")
    with pytest.raises(Unreadable, match="damaged, or made to exhaust"):
        read_document(pdf("text"), "a.pdf")


def test_a_locked_pdf_says_so():
    writer = PdfWriter(clone_from=io.BytesIO(pdf("secret")))
    writer.encrypt("password", algorithm="RC4-128")
    file = io.BytesIO()
    writer.write(file)
    with pytest.raises(Unreadable, match="encrypted with a password"):
        read_document(file.getvalue(), "a.pdf")


def test_names_decide_what_is_read():
    assert media_type("Makefile") == media_type("a.RS") == "text/x-code"
    assert media_type("README") == "text/plain"
    assert media_type("a.exe") is None and media_type("noname") is None


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["a.md", "a.html", "a.py", "a.js", "a.txt"]))
def test_no_bytes_do_more_than_be_skipped(content, name):
    try:
        read = read_document(content, name)
    except Unreadable:
        return
    assert any(section.text.strip() for section in read.sections)
    for section in read.sections:
        assert section.lines is None or len(section.lines) == section.text.count("\n") + 1
