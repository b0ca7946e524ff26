# SPDX-License-Identifier: MIT
"""Requests that are answered, and those that are not."""

from __future__ import annotations

import pytest

from pyvmm.demo.web.admission import HEAD_LIMIT, TOKEN_LIMIT, Admission, Head, Refusal, Role
from tests.demo.web.client import Server, run

PORT = 4711
HOST = f"127.0.0.1:{PORT}"
OWN = ("origin", f"http://{HOST}")
WEBSOCKET = ("upgrade", "websocket")


def head(method: str, *headers: tuple[str, str], host: str = HOST) -> Head:
    return Head(method, "/", (("host", host), *headers))


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (head("GET"), None),
        (head("HEAD"), None),
        (head("GET", OWN), None),
        (head("POST", OWN), None),
        (head("GET", OWN, WEBSOCKET), None),
        (head("GET", ("sec-fetch-site", "none")), None),
        (head("GET", ("sec-fetch-site", "same-origin")), None),
        (head("PUT", OWN), 405),
        (head("OPTIONS", OWN), 405),
        (head("CONNECT"), 405),
        (head("GET", host=f"localhost:{PORT}"), 421),
        (head("GET", host="127.0.0.1"), 421),
        (head("GET", host=f"127.0.0.1:{PORT + 1}"), 421),
        (head("GET", host=f"attacker.example:{PORT}"), 421),
        (head("GET", host=f"[::1]:{PORT}"), 421),
        (Head("GET", "/"), 421),
        (head("GET", ("host", HOST)), 421),
        (head("POST"), 403),
        (head("GET", WEBSOCKET), 403),
        (head("GET", ("upgrade", " WebSocket ")), 403),
        (head("GET", ("origin", "null")), 403),
        (head("GET", ("origin", f"https://{HOST}")), 403),
        (head("GET", ("origin", f"http://{HOST}.attacker.example")), 403),
        (head("GET", ("origin", "http://127.0.0.1")), 403),
        (head("POST", OWN, OWN), 403),
        (head("GET", ("sec-fetch-site", "cross-site")), 403),
        (head("GET", ("sec-fetch-site", "same-site")), 403),
    ],
)
def test_which_requests_are_looked_at(asked: Head, status: int | None) -> None:
    refusal = Admission(PORT, "token").refusal(asked)
    assert (None if refusal is None else refusal.status) == status


def entered(
    admission: Admission, token: str, fresh: str, *headers: tuple[str, str]
) -> tuple[str, Role] | int:
    found = admission.enter(head("POST", OWN, *headers), token.encode(), fresh)
    return found.status if isinstance(found, Refusal) else found


def test_a_token_gives_a_cookie_and_the_teachers_one_only() -> None:
    admission = Admission(PORT, "readers", "teachers")
    assert entered(admission, "", "a") == 403
    assert entered(admission, "reader", "a") == 403
    assert entered(admission, "readers", "a") == ("a", Role.READER)
    assert entered(admission, "readers", "b") == ("b", Role.READER)
    assert entered(admission, "teachers", "t") == ("t", Role.TEACHER)
    assert entered(admission, "teachers", "u") == 403
    mine = ("cookie", f"other=1; pyvmm-{PORT}=t")
    assert entered(admission, "teachers", "v", mine) == ("t", Role.TEACHER)
    assert entered(admission, "readers", "v", ("cookie", f"pyvmm-{PORT}=a")) == ("a", Role.READER)
    assert admission.role(head("GET", mine)) == ("t", Role.TEACHER)
    for cookie in (f"pyvmm-{PORT}=x", f"pyvmm-{PORT}", f"pyvmm-{PORT + 1}=t", "t", "", ";=;"):
        assert admission.role(head("GET", ("cookie", cookie))) is None
    assert entered(Admission(PORT, "readers"), "teachers", "t") == 403


def test_cookies_do_not_pile_up_and_the_teachers_stays() -> None:
    admission = Admission(PORT, "readers", "teachers")
    entered(admission, "teachers", "t")
    for number in range(5000):
        entered(admission, "readers", str(number))
        admission.keep(str(number))
    known = [str(n) for n in range(5000)]
    found = [one for one in known if admission.role(head("GET", ("cookie", f"pyvmm-{PORT}={one}")))]
    assert found == known[-1023:]
    assert admission.role(head("GET", ("cookie", f"pyvmm-{PORT}=t"))) == ("t", Role.TEACHER)


def test_routes_and_what_every_answer_says() -> None:
    async def main(server: Server) -> None:
        own = f"Origin: {server.origin}"
        cookie = await server.enter()
        _, entry, _ = await server.try_to_enter()
        assert f"Set-Cookie: pyvmm-{server.port}=" in entry
        assert "; Path=/; HttpOnly; SameSite=Strict" in entry
        token = server.token()
        for data, status in (
            (server.head("GET", "/"), 200),
            (server.head("HEAD", "/"), 200),
            (server.head("GET", "/", cookie), 200),
            (server.head("GET", "/static/app.css"), 200),
            (server.head("GET", "/static/live.js"), 200),
            (server.head("GET", "/static/stepper.js"), 200),
            (server.head("GET", "/static/../web/site.py"), 404),
            (server.head("GET", "/static/"), 404),
            (server.head("GET", "/nothing"), 404),
            (server.head("GET", "//"), 404),
            (server.head("GET", "/live", cookie), 204),
            (server.head("GET", "/live"), 403),
            (server.head("GET", "/enter"), 405),
            (server.head("POST", "/", own), 405),
            (server.head("DELETE", "/", own), 405),
            (server.upgrade(), 403),
            (server.upgrade(cookie).replace(b"127.0.0.1", b"localhost", 1), 421),
            (server.upgrade(cookie).replace(own.encode(), b"Origin: http://evil"), 403),
            (b"GET / HTTP/1.1\r\n\r\n", 400),
            (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
            (server.head("GET", "/", "X: " + "y" * HEAD_LIMIT), 431),
            (server.head("POST", "/enter", own, "Content-Length: 300") + b"x" * 300, 413),
            (server.head("POST", "/enter", own, "Content-Length: 5") + b"wrong", 403),
        ):
            found, said, body = await server.ask(data)
            assert found == status, data
            assert "content-security-policy: default-src 'none'" in said.lower(), data
            assert "cache-control: no-store" in said.lower()
            assert token.encode() not in body
            assert cookie.partition("=")[2].encode() not in body
            assert "set-cookie" not in said.lower()
        assert TOKEN_LIMIT < 300
        odd = server.upgrade(cookie).replace(b"Version: 13", b"Version: 12")
        assert (await server.ask(odd))[0] == 400

    run(main)


def test_a_first_page_has_the_chapters_and_the_first_step_and_is_small() -> None:
    async def main(server: Server) -> None:
        _, _, page = await server.ask(server.head("GET", "/"))
        size = len(page)
        for name in ("app.css", "stepper.js", "live.js"):
            size += len((await server.ask(server.head("GET", f"/static/{name}")))[2])
        assert size <= 300 << 10
        first = server.site.telling.book.chapters[0]
        for chapter in server.site.telling.book.chapters:
            assert f'value="{chapter.id}"' in page.decode()
        assert first.steps[0].says[:40] in page.decode()

    run(main)
