"""Passwords, tokens and keys, found by detect-secrets' own detectors.

Its detectors are two dozen regular expressions a line, too slow for every line of a large dataset. So a line is handed
to them only when it holds what any of them needs: a long unbroken run with letters and digits, credentials in an
address, the head of a private key, or a word such as `password` before a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from toolkit.datasets.validation.personal import masked

_LONG_RUN = 14
_HEADS = ("PRIVATE KEY", "PuTTY-User-Key-File")
_WORDS = ("pass", "pwd", "secret", "key", "token")
_WORD_BEFORE_VALUE = re.compile(
    r"(?:pass(?:word|wd|phrase)?|pwd|secret|key|token)\w*[\"'`\]]*\s*(?::=|=>|[:=])\s*[\"'`]?\S{6}", re.IGNORECASE
)
# What people write in place of a secret.
_PLACEHOLDER = re.compile(
    r"[<{\[$%*]|\.\.\.|…|x{4,}|^(?:your|my|the|an?)[-_ ]|example|placeholder|changeme|redacted|dummy"
    r"|(?:secret|password|token)$",
    re.IGNORECASE,
)
_MIXED = re.compile(r"(?=.*[A-Za-z])(?=.*\d)\S{8,}")
_LETTER, _DIGIT = re.compile("[A-Za-z]"), re.compile("[0-9]")
_ENTROPY_BITS_BASE64, _ENTROPY_BITS_HEX = 4.5, 3.0


def secrets_in(text: str) -> Iterator[tuple[str, str]]:
    """Yield (what it is, the secret masked) for each secret in a text, each once."""
    if not _worth_a_look(text):
        return
    seen: set[str] = set()
    for line in text.splitlines():
        if not _worth_a_look(line):
            continue
        for name, value in _detect(line):
            if value not in seen and not _PLACEHOLDER.search(value):
                seen.add(value)
                yield name, masked(value)


def _worth_a_look(text: str) -> bool:
    if any(len(run) >= _LONG_RUN and not (run.isalpha() or run.isdecimal()) and _is_mixed(run) for run in text.split()):
        return True
    if ("://" in text and "@" in text) or any(head in text for head in _HEADS):
        return True
    lower = text.lower()
    return any(word in lower for word in _WORDS) and _WORD_BEFORE_VALUE.search(text) is not None


def _is_mixed(run: str) -> bool:
    """Say whether an unbroken run holds digits and letters: not `well-established` nor `<<3+4=7>>`."""
    return _LETTER.search(run) is not None and _DIGIT.search(run) is not None


def _detect(line: str) -> Iterator[tuple[str, str]]:
    for detector in _detectors():
        for value in detector.analyze_string(line):
            if detector.secret_type != "Secret Keyword" or _MIXED.fullmatch(value):
                yield detector.secret_type, value
    for detector in _entropy_detectors():
        for value in detector.analyze_string(line):
            if len(value) >= 20 and detector.calculate_shannon_entropy(value) > detector.entropy_limit:
                yield detector.secret_type, value


@cache
def _detectors() -> tuple[Any, ...]:
    """Import detect-secrets (it costs a sixth of a second) and make its detectors of known forms, surest first."""
    from detect_secrets.plugins import (
        artifactory,
        aws,
        azure_storage_key,
        basic_auth,
        discord,
        github_token,
        gitlab_token,
        jwt,
        keyword,
        mailchimp,
        npm,
        openai,
        private_key,
        pypi_token,
        sendgrid,
        slack,
        square_oauth,
        stripe,
        telegram_token,
        twilio,
    )

    return (
        aws.AWSKeyDetector(), github_token.GitHubTokenDetector(), gitlab_token.GitLabTokenDetector(),
        openai.OpenAIDetector(), slack.SlackDetector(), stripe.StripeDetector(), jwt.JwtTokenDetector(),
        private_key.PrivateKeyDetector(), pypi_token.PypiTokenDetector(), npm.NpmDetector(),
        sendgrid.SendGridDetector(), azure_storage_key.AzureStorageKeyDetector(), discord.DiscordBotTokenDetector(),
        telegram_token.TelegramBotTokenDetector(), mailchimp.MailchimpDetector(), twilio.TwilioKeyDetector(),
        square_oauth.SquareOAuthDetector(), artifactory.ArtifactoryDetector(), basic_auth.BasicAuthDetector(),
        keyword.KeywordDetector(),
    )  # fmt: skip


@cache
def _entropy_detectors() -> tuple[Any, ...]:
    from detect_secrets.plugins.high_entropy_strings import Base64HighEntropyString, HexHighEntropyString

    return Base64HighEntropyString(limit=_ENTROPY_BITS_BASE64), HexHighEntropyString(limit=_ENTROPY_BITS_HEX)
