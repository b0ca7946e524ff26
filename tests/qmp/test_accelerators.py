# SPDX-License-Identifier: MIT
"""Which accelerator works is found out by asking: true ones, and QEMUs that fail in every way."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
import trio

from pyvmm.errors import HostLacksError
from pyvmm.qmp.accelerators import CPU_MODELS, Accelerator, Accelerators, Probe, probe
from pyvmm.qmp.peer import QemuError

PATIENCE = 2.0
"""For fakes that never answer; those that do get 30 s, on a machine that may be busy."""

# Python's path may have anything in it, which a first line may not.
FAKE = """\
#!/bin/sh
''':'
exec {python} -IS "$0" "$@"
'''
import json, os, socket, sys

arguments = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(json.dumps(arguments) + "\\n")

def given(option):
    return arguments[arguments.index(option) + 1] if option in arguments else ""

machine, accelerator, cpu = (given("-" + one) for one in ("machine", "accel", "cpu"))
(fd,) = [int(one.rpartition("=")[2]) for one in arguments if one.startswith("socket,id=pyvmm-qmp")]
qmp = socket.socket(fileno=fd)

def say(what):
    qmp.sendall(json.dumps(what).encode() + b"\\r\\n")

answers = {{
    "qmp_capabilities": {{}},
    "query-version": {{"qemu": {{"major": 9, "minor": 1, "micro": 2}}, "package": ""}},
    "query-kvm": {{"enabled": True, "present": True}},
    "query-status": {{"status": "running", "running": True, "singlestep": False}},
    "cont": {{}},
    "quit": {{}},
}}
{body}
version = {{"qemu": {{"major": 9, "minor": 1, "micro": 2}}, "package": ""}}
say({{"QMP": {{"version": version, "capabilities": []}}}})
while heard := qmp.recv(65536):
    # A client waits for the answer before it asks again: this is one whole request.
    request = json.loads(heard)
    name = request["execute"]
    answer = answers[name]
    if answer == "silence":
        continue
    if answer == "abort":
        os.abort()
    refused = isinstance(answer, dict) and "class" in answer
    told = {{"error" if refused else "return": answer}}
    if "id" in request:
        told["id"] = request["id"]
    say(told)
    if name == "quit":
        break
"""


class FakeQemu:
    """A program that speaks QMP, or does what `body`, some Python, makes of that."""

    def __init__(self, folder: Path, body: str = "") -> None:
        self.program = str(folder / "fake-qemu")
        self._log = folder / "log"
        text = FAKE.format(python=shlex.quote(sys.executable), log=str(self._log), body=body)
        Path(self.program).write_text(text)
        Path(self.program).chmod(0o755)

    @property
    def started(self) -> list[list[str]]:
        """With which arguments it was started, each time."""
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    @property
    def models(self) -> list[str]:
        """The processor models that were tried."""
        return [one[one.index("-cpu") + 1] for one in self.started if "-cpu" in one]

    def probe(self, accelerator: Accelerator, patience: float = 30.0) -> Probe:
        return trio.run(probe, self.program, accelerator, "microvm", patience)


@pytest.mark.qemu
def test_tcg_always_works() -> None:
    found = trio.run(probe, "qemu-system-x86_64", Accelerator.TCG, "microvm")
    assert found.cpu == "max"
    assert found.works
    assert int(found.version.split(".")[0]) >= 7


@pytest.mark.qemu
def test_a_machine_that_there_is_not() -> None:
    found = trio.run(probe, "qemu-system-x86_64", Accelerator.TCG, "no-such-machine")
    assert not found.works
    assert "unsupported machine type" in found.why


@pytest.mark.qemu
@pytest.mark.kvm
def test_kvm_works_or_it_is_said_why_not() -> None:
    found = trio.run(probe, "qemu-system-x86_64", Accelerator.KVM, "microvm")
    assert found.works or found.why
    # Everything before the model that works was tried, and has its own refusal.
    if found.cpu is not None:
        tried = CPU_MODELS[Accelerator.KVM]
        for model in tried[: tried.index(found.cpu)]:
            assert f"{model}: " in found.why


@pytest.mark.parametrize("accelerator", Accelerator)
def test_the_best_model_is_taken(tmp_path: Path, accelerator: Accelerator) -> None:
    fake = FakeQemu(tmp_path)
    found = fake.probe(accelerator)
    assert found == Probe(
        fake.program, accelerator, "microvm", CPU_MODELS[accelerator][0], "9.1.2", ""
    )
    assert fake.models == [CPU_MODELS[accelerator][0]]
    for arguments in fake.started:
        assert {"-nodefaults", "-no-user-config"} <= set(arguments)


@pytest.mark.slow
def test_what_was_found_out_is_remembered(tmp_path: Path) -> None:
    fake = FakeQemu(tmp_path)
    known = Accelerators()

    def found(accelerator: Accelerator) -> Probe:
        return trio.run(known.probe, fake.program, accelerator, "microvm", 30.0)

    first = found(Accelerator.TCG)
    times = len(fake.started)
    assert found(Accelerator.TCG) is first
    assert len(fake.started) == times
    found(Accelerator.KVM)
    assert len(fake.started) > times
    times = len(fake.started)
    known = Accelerators()
    assert found(Accelerator.TCG) == first
    assert len(fake.started) > times


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "why"),
    [
        # As some QEMUs do: at the start, or when the guest is to run.
        ('if cpu == "host": print("error: failed to set MSR 0xc0", file=sys.stderr); os.abort()',
         "host: error: failed to set MSR 0xc0"),
        ('if cpu == "host": answers["cont"] = "abort"', "host: it was killed by SIGABRT"),
        ('if cpu == "host": answers["query-status"] = {"status": "internal-error"}',
         "host: the machine's state is 'internal-error'"),
        ('if cpu == "host": answers["cont"] = {"class": "GenericError", "desc": "not today"}',
         "host: not today"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_work_is_passed_over(tmp_path: Path, body: str, why: str) -> None:
    fake = FakeQemu(tmp_path, body)
    found = fake.probe(Accelerator.KVM)
    assert (found.cpu, found.why) == ("max", why)
    assert fake.models == ["host", "max"]


@pytest.mark.slow
def test_a_model_that_hangs_is_passed_over(tmp_path: Path) -> None:
    fake = FakeQemu(tmp_path, 'if cpu == "max": answers["query-status"] = "silence"')
    found = fake.probe(Accelerator.TCG, patience=PATIENCE)
    assert found.cpu == "qemu64"
    assert found.why == f"max: no answer in {PATIENCE:g} s"


@pytest.mark.slow
def test_an_accelerator_that_never_works_says_why(tmp_path: Path) -> None:
    body = (
        'if accelerator == "kvm":\n'
        '    print("Could not access KVM kernel module", file=sys.stderr)\n'
        "    sys.exit(1)"
    )
    fake = FakeQemu(tmp_path, body)
    found = fake.probe(Accelerator.KVM)
    assert found.cpu is None
    assert not found.works
    assert found.version == "9.1.2"
    for model in CPU_MODELS[Accelerator.KVM]:
        assert f"{model}: Could not access KVM kernel module" in found.why
    assert fake.probe(Accelerator.TCG).works


@pytest.mark.slow
def test_kvm_that_is_not_enabled_is_none(tmp_path: Path) -> None:
    # As with `-accel kvm -accel tcg` in a wrapper: it runs, but not with KVM.
    fake = FakeQemu(tmp_path, 'answers["query-kvm"] = {"enabled": False, "present": True}')
    found = fake.probe(Accelerator.KVM)
    assert found.cpu is None
    assert "KVM is not enabled" in found.why


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("print('usage: fake', file=sys.stderr); sys.exit(2)", "exit code 2, saying: usage: fake"),
        (
            "qmp.sendall(b'hello\\r\\n'); sys.stdin.read(); __import__('signal').pause()",
            "does not speak QMP",
        ),
        ("import time; time.sleep(60)", "did not greet us over QMP"),
        ("answers['query-version'] = 'silence'", "no answer in"),
    ],
    ids=["dies", "babbles", "hangs", "never answers"],
)
@pytest.mark.slow
def test_what_is_no_qemu_at_all_is_an_error(tmp_path: Path, body: str, message: str) -> None:
    fake = FakeQemu(tmp_path, body)
    with pytest.raises(QemuError, match=message):
        fake.probe(Accelerator.TCG, patience=PATIENCE)
    assert len(fake.started) == 1


@pytest.mark.parametrize("answer", ["{}", '{"qemu": 7}', '"seven"', "[]"])
def test_an_answer_that_makes_no_sense_is_an_error(tmp_path: Path, answer: str) -> None:
    fake = FakeQemu(tmp_path, f"answers['query-version'] = {answer}")
    with pytest.raises(QemuError):
        fake.probe(Accelerator.TCG)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["query-kvm", "query-status"])
@pytest.mark.parametrize("answer", ["7", "[]", '"running"'])
def test_a_model_that_answers_nonsense_does_not_work(
    tmp_path: Path, command: str, answer: str
) -> None:
    fake = FakeQemu(tmp_path, f"if cpu == 'host': answers[{command!r}] = {answer}")
    found = fake.probe(Accelerator.KVM)
    assert found.cpu == "max"
    assert found.why.startswith("host: its answer makes no sense: ")


def test_one_that_is_not_installed() -> None:
    with pytest.raises(HostLacksError, match="not installed"):
        trio.run(probe, "no-such-qemu", Accelerator.TCG, "microvm")
