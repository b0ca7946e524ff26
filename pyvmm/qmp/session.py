# SPDX-License-Identifier: MIT
"""One client's QMP session, without input or output: what it sends in, what it is answered out.

Whoever owns a session sends `greeting`, feeds what arrives, takes `next` until that gives None, and
carries out each `Call`. The answers' wording is QEMU's (qapi/qmp-dispatch.c).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pyvmm.qmp.command import Arguments, Command, CommandError, ErrorClass, check
from pyvmm.qmp.wire import Broken, Decoder, encode

_NEGOTIATE: Final = "qmp_capabilities"
_NOTHING: Final = object()
"""No ``id`` at all; null is one."""


@dataclass(frozen=True, slots=True)
class Call:
    """A command to be carried out; its arguments are checked. `id` is what the client calls it."""

    command: Command
    arguments: Arguments
    id: Any = _NOTHING


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes for the client."""

    data: bytes


class Session:
    """The state of one client: whether it has negotiated, and what of its input is left.

    `version` is what ``query-version`` returns.
    """

    def __init__(self, version: Mapping[str, object], commands: Mapping[str, Command]) -> None:
        self._version = version
        self._commands = commands
        self._decoder = Decoder()
        self._negotiated = False

    @property
    def is_negotiated(self) -> bool:
        """True once the client may give commands and hears events."""
        return self._negotiated

    def greeting(self) -> bytes:
        """Return the greeting, which a client is sent first."""
        return encode({"QMP": {"version": self._version, "capabilities": []}})

    def feed(self, data: bytes) -> None:
        """Take what has arrived."""
        self._decoder.feed(data)

    def next(self) -> Call | Answer | None:
        """Return the next call or answer, in the order of what arrived; None: wait for more."""
        found = self._decoder.next()
        if found is None:
            return None
        if isinstance(found, Broken):
            return self._failure(CommandError(found.description), _NOTHING)
        request = found.value
        if not isinstance(request, dict):
            return self._failure(CommandError("QMP input must be a JSON object"), _NOTHING)
        try:
            return self._dispatch(request)
        except CommandError as error:
            return self._failure(error, request.get("id", _NOTHING))

    def result(self, call: Call, value: object) -> Answer:
        """The answer to `call` where it went well. Raises `TypeError`, `ValueError` for no JSON."""
        answer = {"return": value}
        if call.id is not _NOTHING:
            answer["id"] = call.id
        return Answer(encode(answer))

    def failure(self, call: Call, error: CommandError) -> Answer:
        """The answer to `call` where it did not."""
        return self._failure(error, call.id)

    def event(self, name: str, data: Mapping[str, object] | None, when: float) -> Answer | None:
        """An event, `when` in seconds since the epoch. None before negotiation, as in QEMU."""
        if not self._negotiated:
            return None
        microseconds = round(when * 1_000_000)
        seconds, microseconds = divmod(microseconds, 1_000_000)
        event: dict[str, object] = {
            "timestamp": {"seconds": seconds, "microseconds": microseconds},
            "event": name,
        }
        if data is not None:
            event["data"] = data
        return Answer(encode(event))

    def _failure(self, error: CommandError, id_: Any) -> Answer:
        answer: dict[str, object] = {} if id_ is _NOTHING else {"id": id_}
        answer["error"] = {"class": error.error_class.value, "desc": error.description}
        return Answer(encode(answer))

    def _dispatch(self, request: dict[str, Any]) -> Call | Answer:
        name, given = _read(request)
        if not self._negotiated and name != _NEGOTIATE:
            raise CommandError(
                f"Expecting capabilities negotiation with '{_NEGOTIATE}'",
                ErrorClass.COMMAND_NOT_FOUND,
            )
        command = self._commands.get(name)
        if command is None:
            raise CommandError(
                f"The command {name} has not been found", ErrorClass.COMMAND_NOT_FOUND
            )
        call = Call(command, check(command.arguments, given), request.get("id", _NOTHING))
        return self._negotiate(call) if name == _NEGOTIATE else call

    def _negotiate(self, call: Call) -> Answer:
        if self._negotiated:
            raise CommandError(
                "Capabilities negotiation is already complete, command ignored",
                ErrorClass.COMMAND_NOT_FOUND,
            )
        # We offer none, QEMU knows one.
        for number, capability in enumerate(call.arguments.get("enable", ())):
            if not isinstance(capability, str):
                raise CommandError(
                    f"Invalid parameter type for 'enable[{number}]', expected: string"
                )
            if capability != "oob":
                raise CommandError(f"Parameter 'null' does not accept value '{capability}'")
            raise CommandError(f"Capability {capability} not available")
        self._negotiated = True
        return self.result(call, {})


def _read(request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A request's command and arguments. Raises `CommandError`."""
    for name, value in request.items():
        if name == "execute":
            if not isinstance(value, str):
                raise CommandError("QMP input member 'execute' must be a string")
        elif name == "arguments":
            if not isinstance(value, dict):
                raise CommandError("QMP input member 'arguments' must be an object")
        elif name != "id":
            raise CommandError(f"QMP input member '{name}' is unexpected")
    if "execute" not in request:
        raise CommandError("QMP input lacks member 'execute'")
    return request["execute"], request.get("arguments", {})
