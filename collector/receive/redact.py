"""Takes out of kept text what nobody may keep: e-mail addresses, keys, tokens and card numbers.

Every pattern looks at a character a bounded number of times, so that no text of a sender takes longer than its length.
"""

import re
from typing import Final

#: A card number begins with 2 to 6: nanoseconds since 1970, of as many digits, begin with 1.
_CARD: Final = re.compile(r"(?<![\d.])[2-6](?:[ -]?\d){12,18}(?![\d])")
_WORD: Final = r"(?<![A-Za-z0-9])"

#: What is put in place of what, in this order: a token inside of a key block is the block's.
PATTERNS: Final[tuple[tuple[str, re.Pattern[str]], ...]] = (
    (
        "[private key]",
        re.compile(
            r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL
        ),
    ),
    ("[jwt]", re.compile(_WORD + r"eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?")),
    ("Bearer [token]", re.compile(_WORD + r"bearer\s{1,4}(?!\[)[\w.~+/=-]{8,}", re.IGNORECASE)),
    (
        "[key]",  # OpenAI, Anthropic and Stripe; AWS; GitHub; Slack; Google; Hugging Face; GitLab
        re.compile(
            _WORD + r"(?:[srp]k[-_][\w-]{16,}|(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}"
            r"|xox[abeoprs]-[\w-]{10,}|AIza[\w-]{35}|hf_[A-Za-z0-9]{30,}|glpat-[\w-]{16,})"
        ),
    ),
    (
        "[e-mail]",
        re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,8}\.[A-Za-z]{2,24}"),
    ),
)


def redact(text: str) -> str:
    """Return the text with placeholders for what the patterns find; redacting it again changes nothing."""
    for placeholder, pattern in PATTERNS:
        text = pattern.sub(placeholder, text)
    return _CARD.sub(_card, text)


def _card(found: re.Match[str]) -> str:
    digits = [int(character) for character in found[0] if character.isdigit()]
    return "[card]" if luhn(digits) else found[0]


def luhn(digits: list[int]) -> bool:
    """Return whether the last digit checks the others, as ISO/IEC 7812 has it."""
    doubled = (digit * 2 - 9 * (digit > 4) if at % 2 else digit for at, digit in enumerate(reversed(digits)))
    return sum(doubled) % 10 == 0
