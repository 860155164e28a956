"""Tokens that raters and their browsers hold: 128 random bits, of which only the sha256 is kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets

BYTES = 16
"""128 bits."""
LINK = "/j/"
"""Where an invitation's link leads, before its token."""


def new_token() -> str:
    """A token that can stand in a link: 22 characters."""
    return secrets.token_urlsafe(BYTES)


def hashed(token: str) -> bytes:
    """What is kept of a token; whoever reads the database cannot make a link of it."""
    return hashlib.sha256(token.encode()).digest()


def form_token(secret: str, session_token: str) -> str:
    """The token that a session's forms carry: another site cannot know it (CSRF)."""
    return hmac.new(secret.encode(), session_token.encode(), hashlib.sha256).hexdigest()[:32]


def same(given: str, expected: str) -> bool:
    """Whether two tokens are equal, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode(), expected.encode())
