from __future__ import annotations

import pytest

from tests.datasets.validation.judging import clean_records
from toolkit.datasets.validation.personal import is_iban, passes_luhn, personal_data
from toolkit.datasets.validation.secrets import secrets_in

SECRETS = {
    "AWS Access Key": "use AKIAIOSFODNN7QWERTYU now",
    "GitHub Token": "ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    "GitLab Token": "glpat-abcdefghij1234567890",
    "OpenAI Token": "sk-abcdefghij1234567890T3BlbkFJabcdefghij1234567890",
    "Slack Token": "xoxb-1234567890-1234567890-abcdef123456",
    "Stripe Access Key": "sk_live_abcdefghij1234567890abcd",
    "JSON Web Token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc",
    "Private Key": "-----BEGIN RSA PRIVATE KEY-----",
    "PyPI Token": "pypi-AgEIcHlwaS5vcmc" + "aB3" * 25,
    "NPM tokens": "//registry.npmjs.org/:_authToken=npm_abcdefghijklmnop1234",
    "SendGrid API Key": "SG." + "a" * 22 + "." + "b1" * 21 + "c",
    "Azure Storage Account access key": "AccountKey=" + "aB3/" * 22,
    "Telegram Bot Token": "123456789:" + "Aa1_" * 8 + "abc",
    "Mailchimp Access Key": "0123456789abcdef0123456789abcdef-us12",
    "Twilio API Key": "AC0123456789abcdef0123456789abcdef",
    "Artifactory Credentials": "header AKCp8jQ8tAahqpT5JjZ4FRP2mW7GMoFZ674kGqHmupTesKeAY2G8NcmPKLuTxTGkKjDLRzDUQ",
    "Basic Auth Credentials": "postgres://bob:hunter22@db.internal/x",
    "Secret Keyword": "password = 'hunter22'",
    "Base64 High Entropy String": 'the key is "Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MDEyMzQ1Njc4OWFiY2RlZg"',
    "Hex High Entropy String": "'7f3a9b2c4d5e6f708192a3b4c5d6e7f8'",
}


@pytest.mark.parametrize("name", SECRETS)
def test_every_detector_gets_to_see_the_line_that_holds_its_secret(name: str) -> None:
    text = f"First a line of prose.\nThen this: {SECRETS[name]}\nAnd the end."
    assert name in [kind for kind, _ in secrets_in(text)]


@pytest.mark.parametrize(
    "text",
    [
        "The secret: practice every day.",
        "Reset your password: ask the admin.",
        "AKIAIOSFODNN7EXAMPLE",
        "password = '<your-password>'",
        "api_key: ${API_KEY}",
        "a well-established state-of-the-art method",
        "48+24 = <<48+24=72>>72 clips",
        "token: your_token_here",
    ],
)  # fmt: skip
def test_prose_sums_and_placeholders_are_no_secrets(text: str) -> None:
    assert list(secrets_in(text)) == []


def test_a_secret_is_never_printed_whole() -> None:
    for text in SECRETS.values():
        assert all(len(shown.partition("…")[0]) <= 4 for _, shown in secrets_in(text))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to bob@acme.io", "an e-mail address"),
        ("call +41 44 668 18 00 now", "a phone number"),
        ("(212) 736-5000", "a phone number"),
        ("card 4111 1111 1111 1111", "a card number"),
        ("5500005555555559", "a card number"),
        ("378282246310005", "a card number"),
        ("to DE89 3704 0044 0532 0130 00", "a bank account (IBAN)"),
        ("GB82WEST12345698765432", "a bank account (IBAN)"),
        ("123-45-6789", "a social security number"),
    ],
)
def test_personal_data_are_found(text: str, kind: str) -> None:
    assert [name for name, _ in personal_data(f"Please note: {text}, thanks.")] == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "bob@example.com",
        "me@host.invalid",
        "(212) 555-0142",
        "4111111111111112",
        "4111111111111111 + 5",
        "12 × 4111111111111111",
        "1,234,567,890,123",
        "2023-10-12",
        "version 1.2.3.4",
        "DE88 3704 0044 0532 0130 00",
        "order 1234567890123456",
        "000-45-6789",
        "It costs $1.50 + $2.25",
    ],
)  # fmt: skip
def test_reserved_names_wrong_check_digits_and_sums_are_no_personal_data(text: str) -> None:
    assert list(personal_data(f"Please note: {text}, thanks.")) == []


def test_check_digits_are_those_of_the_standards_own_examples() -> None:
    assert passes_luhn("79927398713") and not passes_luhn("79927398710")
    assert is_iban("GB29 NWBK 6016 1331 9268 19") and not is_iban("GB29 NWBK 6016 1331 9268 18")


def test_school_sums_hold_neither() -> None:
    for record in clean_records(270):
        said = f"{record['instruction']}\n{record['output']}"
        assert not list(secrets_in(said)) and not list(personal_data(said))
