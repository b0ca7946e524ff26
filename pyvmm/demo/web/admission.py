# SPDX-License-Identifier: MIT
"""Admission to the page: which requests are answered, and whose they are. Nothing here does I/O.

Everybody on this machine can connect to a port of loopback, and every page that a browser has open
can send requests there. So each request has to name this server as its `Host`, none may come from
another origin, and a machine is given only to those who know a token. It is in the fragment of the
printed URL, which browsers send to nobody; the page's script brings it once, and gets a cookie.
"""

from __future__ import annotations

import enum
import hmac
from collections import OrderedDict
from dataclasses import dataclass

ADDRESS = "127.0.0.1"
HEAD_LIMIT = 8 << 10
"""Bytes of a request's line and headers."""
TOKEN_LIMIT = 256
"""Bytes of the body of a request to enter."""
_COOKIES_KEPT = 1024
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = (
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)
"""Headers of every response."""


class Role(enum.Enum):
    """Role of a visitor."""

    READER = "reader"
    TEACHER = "teacher"


@dataclass(frozen=True, slots=True)
class Head:
    """Line and headers of a request; names of headers are in lower case."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def size(self) -> int:
        """Bytes of line and headers, about."""
        line = len(self.method) + len(self.target)
        return line + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for one, value in self.headers if one == name]

    @property
    def wants_websocket(self) -> bool:
        """True for a request to upgrade to a WebSocket."""
        return any(value.strip().lower() == "websocket" for value in self.all("upgrade"))


@dataclass(frozen=True, slots=True)
class Refusal:
    """Status and a sentence for a request that is not answered otherwise."""

    status: int
    says: str


class Admission:
    """Rules of one server on `port`, with its tokens and the cookies that it has given out.

    `teachers_token` is that of a lecture's teacher; None: there is none.
    """

    def __init__(self, port: int, readers_token: str, teachers_token: str | None = None) -> None:
        self._host = f"{ADDRESS}:{port}"
        self.origin = f"http://{self._host}"
        self.cookie_name = f"pyvmm-{port}"
        self._tokens = {Role.READER: readers_token}
        if teachers_token is not None:
            self._tokens[Role.TEACHER] = teachers_token
        self._cookies: OrderedDict[str, Role] = OrderedDict()

    def url(self, role: Role) -> str:
        """The URL that is printed: whoever has it may enter in this role."""
        return f"{self.origin}/#{self._tokens[role]}"

    def refusal(self, head: Head) -> Refusal | None:
        """A reason not to look at this request any further, or None."""
        if head.method not in {"GET", "HEAD", "POST"}:
            return Refusal(405, "This server knows GET, HEAD and POST.")
        if head.all("host") != [self._host]:
            return Refusal(421, f"This server is {self._host}, and answers to no other name.")
        origins = head.all("origin")
        must_say = head.method == "POST" or head.wants_websocket
        if (origins or must_say) and origins != [self.origin]:
            return Refusal(403, "This request comes from another origin.")
        sites = head.all("sec-fetch-site")
        if sites not in ([], ["same-origin"], ["none"]):
            return Refusal(403, "This request was made for another site's page.")
        return None

    def role(self, head: Head) -> tuple[str, Role] | None:
        """The cookie that a request brings, and whose it is; None for a stranger."""
        for line in head.all("cookie"):
            for pair in line.split(";"):
                name, _, value = pair.strip().partition("=")
                if name == self.cookie_name and value in self._cookies:
                    return value, self._cookies[value]
        return None

    def enter(self, head: Head, token: bytes, fresh: str) -> tuple[str, Role] | Refusal:
        """Take a token; gives a cookie, `fresh` where the visitor has none of this role.

        The teacher's token is taken once: whoever comes later with it is no teacher. For a cookie
        that is `fresh` either `keep` or `forget` is called next.
        """
        for role, wanted in self._tokens.items():
            if not hmac.compare_digest(token, wanted.encode()):
                continue
            known = self.role(head)
            if known is not None and known[1] in {role, Role.TEACHER}:
                return known
            if role is Role.TEACHER and role in self._cookies.values():
                return Refusal(403, "The teacher's URL has been used already.")
            self._cookies[fresh] = role
            return fresh, role
        return Refusal(403, "Open the page by the URL that pyvmm demo printed.")

    def forget(self, cookie: str) -> None:
        """Take a cookie back, for which there was no place."""
        self._cookies.pop(cookie, None)

    def keep(self, cookie: str) -> tuple[str, str]:
        """The header that gives a cookie, in the place of the oldest where there are too many."""
        if len(self._cookies) > _COOKIES_KEPT:
            del self._cookies[next(one for one, r in self._cookies.items() if r is Role.READER)]
        return ("Set-Cookie", f"{self.cookie_name}={cookie}; Path=/; HttpOnly; SameSite=Strict")
