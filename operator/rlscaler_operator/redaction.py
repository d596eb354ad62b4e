"""Secrets are struck out of every text that leaves the operator: log lines, conditions, events.

It is the second net: whoever handles a secret does not put it into a message in the first place. It knows the forms in
which secrets travel (headers, bearer tokens, passwords in URLs, keys with telling names), not the secrets themselves.
"""

import re

STRUCK = "[redacted]"

_NAMES = r"password|passwd|pwd|secret|token|api[-_]?key|access[-_]?key|client[-_]?secret|private[-_]?key|credentials?"
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    # Private keys and certificates' keys in PEM.
    (re.compile(r"-----BEGIN ([A-Z ]{0,40}PRIVATE KEY)-----.*?(-----END \1-----|\Z)", re.DOTALL), STRUCK),
    # user:password@ in a URL; the user stays, since it says which account was refused.
    (
        re.compile(r"(?P<kept>[a-z][a-z0-9+.-]{0,20}://[^\s/?#:@'\"]{0,256}:)[^\s/?#]{0,4096}@", re.IGNORECASE),
        rf"\g<kept>{STRUCK}@",
    ),
    # Headers, however they are quoted: Authorization: Bearer x, 'Authorization': 'Basic x', \"authorization\": \"x\".
    (
        re.compile(
            r"(?P<kept>\b(?:proxy-)?authorization\\?['\"]?\s*[:=]\s*(?:b(?=['\"]))?)"
            r"(?:'[^']*'|\"[^\"]*\"|\\?['\"]?(?:(?:bearer|basic|digest|negotiate)\s+)?[^\s,;'\"\\}\])]+)",
            re.IGNORECASE,
        ),
        rf"\g<kept>{STRUCK}",
    ),
    # 16 characters at least, so that "basic authentication" stays a word.
    (re.compile(r"(?P<kept>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{16,}", re.IGNORECASE), rf"\g<kept>{STRUCK}"),
    # A JSON web token is one wherever it stands.
    (re.compile(r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?"), STRUCK),
    # password=x, "token": "x", ?access_token=x; a sentence such as "token: not found" loses a word, no more.
    (
        re.compile(
            rf"(?P<kept>(?:{_NAMES})\\?['\"]?\s*[:=]\s*)"
            r"(?:'[^']*'|\"[^\"]*\"|\\?['\"]?[^\s,;&'\"\\}\])]+)",
            re.IGNORECASE,
        ),
        rf"\g<kept>{STRUCK}",
    ),
)
_SECRET_NAME = re.compile(rf"authorization|(?:{_NAMES})$", re.IGNORECASE)
_TELLING = re.compile(rf"authorization|bearer|basic|://|PRIVATE KEY|eyJ|{_NAMES}", re.IGNORECASE)


def is_telling(name: str) -> bool:
    """Tell whether what goes by this name is a secret whatever it looks like."""
    return _SECRET_NAME.search(name) is not None


def redacted(text: str) -> str:
    """Return the text with everything struck out that has the form of a secret."""
    if not _TELLING.search(text):
        return text
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text
