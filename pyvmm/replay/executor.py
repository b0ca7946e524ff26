# SPDX-License-Identifier: MIT
"""Follows operations on the model and on the real KVM side by side, and compares each step."""

from __future__ import annotations

from collections.abc import Sequence

from pyvmm.errors import UsageError
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.owner import Owner
from pyvmm.lifetime.designs import Design, Remedy
from pyvmm.lifetime.layout import FILE_HANDLES, SLOT_VM, VM_HANDLES, State
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.transitions import TransitionSystem
from pyvmm.lifetime.universe import Universe
from pyvmm.replay.differences import Attempt, Difference, Tally
from pyvmm.replay.hands import OK, SIGBUS, Answer, Hands
from pyvmm.replay.liveness import Liveness
from pyvmm.replay.means import Means
from pyvmm.replay.workers import Worker

NOT_ITS_VM = "EIO"
"""Error of KVM for a process that did not make the VM: its ``kvm->mm`` is another."""

REFUSED = "EINVAL"
"""Error of a binding to a file that is another VM's."""

_BY_THE_MAKER = frozenset(
    {
        *(Kind.CREATE_FILE, Kind.CREATE_VCPU, Kind.BIND, Kind.BIND_FAILS, Kind.UNBIND, Kind.MOVE),
        *(Kind.GUEST_READ, Kind.GUEST_WRITE),
    }
)
_BY_THE_GUEST = frozenset({Kind.GUEST_READ, Kind.GUEST_WRITE})
_READS = frozenset({Kind.GUEST_READ, Kind.HOST_READ})
_WRITTEN_BYTES = 255


class _OtherwiseError(Exception):
    """A comparison failed."""

    def __init__(self, what: str, expected: str, seen: str) -> None:
        super().__init__(what)
        self.what = what
        self.expected = expected
        self.seen = seen


class Replayer(Owner):
    """Replays sequences of one design over one universe; `liveness` None: that is not compared.

    `taken` has the transitions done by several processes: state and operation.
    """

    def __init__(
        self,
        system: System,
        design: Design,
        universe: Universe,
        liveness: Liveness | None,
        means: Means | None = None,
    ) -> None:
        """Raises `UsageError` for a universe that cannot be replayed with these means.

        None: those of any host, for memory that can be mapped.
        """
        means = means or Means()
        means.require(universe)
        self.transitions = TransitionSystem(design, universe)
        self.tally = Tally()
        self.taken: set[tuple[State, Operation]] = set()
        self._liveness = liveness
        self._layout = self.transitions.layout
        self._hands = Hands(
            system,
            universe.pages,
            means.kind,
            vcpus=universe.vcpus > 0,
            allocations=means.allocations,
            page_errors=means.page_errors,
        )
        self._alone = universe.processes == 1
        self._keeps_pointers = Remedy.NEVER_REBIND in design.remedies
        self._workers: dict[int, Worker] = {}
        self._answer: Answer = OK
        self._begin()

    @property
    def state(self) -> State:
        """The model's state, behind what has been carried out since the beginning."""
        return self._state

    @property
    def hands(self) -> Hands:
        """Descriptors and mappings of this process."""
        return self._hands

    def names(self) -> dict[int, str]:
        """The kernel's name in debugfs of the newest VM of each number."""
        return dict(self._name)

    def attempt(self, operation: Operation) -> Attempt:
        """Carry one operation out behind those before, and compare.

        Behind a difference there is no telling what a further one would be compared with. Raises
        `UsageError` for one that cannot even be attempted: nothing has been done then.
        """
        expected = self.transitions.step(self._state, operation)
        self._done.append(operation)
        self._answer = OK
        difference = None
        try:
            self._step(operation)
        except _OtherwiseError as other:
            done = tuple(self._done)
            difference = Difference(done, len(done), other.what, other.expected, other.seen)
        return Attempt(expected, self._answer, difference)

    def _begin(self) -> None:
        self._state = self.transitions.initial
        self._done: list[Operation] = []
        self._name: dict[int, str] = {}
        self._maker: dict[int, Worker | None] = {}
        self._life = [0] * self.transitions.universe.vms
        self._written: dict[int, tuple[int, int]] = {}
        self._errors_mapped: set[tuple[int, int]] = set()
        self._first_vm: dict[int, tuple[int, int]] = {}

    def close(self) -> None:
        """End every process of the story and close every descriptor."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()
        self._hands.close()

    def replay(self, operations: Sequence[Operation]) -> Difference | None:
        """Carry `operations` out from nothing; the first difference, None where there is none.

        Raises `UsageError` for an operation that cannot even be attempted where it stands.
        """
        self._begin()
        self.tally.sequences += 1
        try:
            for number, operation in enumerate(operations, 1):
                self.tally.steps += 1
                self.tally.kinds[operation.kind.name.lower()] += 1
                try:
                    if not self._step(operation):
                        break
                except _OtherwiseError as other:
                    return Difference(
                        tuple(operations), number, other.what, other.expected, other.seen
                    )
        finally:
            self._end()
        return None

    def _end(self) -> None:
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()
        self._hands.reset()

    def _step(self, operation: Operation) -> bool:
        """One operation; whether the model and the kernel are in the same state after it."""
        step = self.transitions.step(self._state, operation)
        process = self._actor(operation)
        v = self._vm_of(operation)
        if self._is_foreign(operation, process, v):
            foreign = self._do(operation, process, v)
            if foreign != NOT_ITS_VM:
                raise _OtherwiseError("answer", NOT_ITS_VM, str(foreign))
            self.tally.foreign += 1
            return step.state == self._state
        answer = self._answer = self._do(operation, process, v)
        if not self._alone or self._keeps_pointers:
            self.taken.add((self._state, operation))
        if self._is_by_address(operation, v) and answer in (OK, REFUSED) and answer != step.outcome:
            self.tally.by_address += 1
            return False
        before, self._state = self._state, step.state
        self._note_first_vm(operation, v, answer)
        self._note_mapped_errors(operation)
        seen = self._sees(answer) if operation.kind in _READS else str(answer)
        expected = step.outcome
        if operation.kind is Kind.HOST_READ:
            expected = self._through_mapping(operation.file, operation.page, expected)
        if seen != expected:
            raise _OtherwiseError("answer", expected, seen)
        self._compare_lives(before)
        if before != self._state:
            self._compare_contents()
        return True

    def _is_foreign(self, operation: Operation, process: int, v: int) -> bool:
        """Tell whether a process is to use a VM that another one made."""
        return (
            not self._alone
            and operation.kind in _BY_THE_MAKER
            and v in self._maker
            and self._maker[v] is not self._worker(process)
        )

    def _note_first_vm(self, operation: Operation, v: int, answer: Answer) -> None:
        """Keep track of the VM whose pointer a file keeps, by its number and how often it lived."""
        if operation.kind is Kind.CREATE_UNOWNED:
            self._first_vm.pop(operation.file, None)
        elif operation.kind is Kind.BIND and answer == OK and self._keeps_pointers:
            self._first_vm.setdefault(operation.file, (v, self._life[v]))

    def _is_by_address(self, operation: Operation, v: int) -> bool:
        """Tell whether a binding is judged by the address of a VM that is freed.

        The model gives a new VM the address of the freed one that had its number. The kernel may
        or may not, so that either answer may come.
        """
        if operation.kind not in (Kind.BIND, Kind.BIND_FAILS):
            return False
        first, life = self._first_vm.get(operation.file, (v, self._life[v]))
        return life != self._life[first] or not self._state[self._layout.vm[first]]

    def _worker(self, process: int) -> Worker | None:
        """The process of this number, begun if need be; None where all is done in this one."""
        if self._alone:
            return None
        worker = self._workers.get(process)
        if worker is None:
            worker = self._workers[process] = Worker.start(self._hands, self._workers.values())
        return worker

    def _call(self, process: int, name: str, *arguments: int) -> Answer:
        worker = self._worker(process)
        if worker is not None:
            return worker.call(name, *arguments)
        answer: Answer = getattr(self._hands, name)(*arguments)
        return answer

    # Who does it

    def _vm_of(self, operation: Operation) -> int:
        """The VM that an operation is about, where it is about one."""
        if operation.kind in (Kind.UNBIND, Kind.MOVE, Kind.GUEST_READ, Kind.GUEST_WRITE):
            return self._state[self._layout.slot[operation.slot] + SLOT_VM] - 1
        return operation.vm

    def _actor(self, operation: Operation) -> int:
        """The process that acts: the one named, or one that can; the VM's maker if it can."""
        if self._alone:
            return 0
        kind, layout, state = operation.kind, self._layout, self._state
        file_at = layout.file[operation.file]
        processes = range(self.transitions.universe.processes)
        if kind is Kind.PUNCH:
            able = [p for p in processes if state[file_at + FILE_HANDLES + p]]
        elif kind is Kind.HOST_READ:
            able = [p for p in processes if state[file_at + layout.mappings + p]]
        elif kind in _BY_THE_MAKER and kind not in (Kind.CREATE_FILE, Kind.CREATE_VCPU):
            v = self._vm_of(operation)
            by_vcpu = kind in _BY_THE_GUEST and layout.vcpus >= 0
            held = layout.vm[v] + (layout.vcpus if by_vcpu else VM_HANDLES)
            able = [p for p in processes if state[held + p]]
            if kind in (Kind.BIND, Kind.BIND_FAILS):
                able = [p for p in able if state[file_at + FILE_HANDLES + p]]
            made = [p for p in able if self._workers.get(p) is self._maker.get(v)]
            able = made or able
        else:
            return operation.process
        return able[0]

    # What is done

    def _do(self, operation: Operation, process: int, v: int) -> Answer:
        f, s, page = operation.file, operation.slot, operation.page
        match operation.kind:
            case Kind.CREATE_VM:
                self._name[v] = str(self._call(process, "create_vm", v, operation.private))
                self._maker[v] = self._worker(process)
                self._life[v] += 1
                return OK
            case Kind.FORK:
                worker = self._worker(process)
                assert worker is not None
                other = self._workers.pop(1 - process, None)
                if other is not None:  # it holds nothing: the child takes its place
                    other.close()
                self._workers[1 - process] = worker.fork()
                return OK
            case Kind.EXIT:
                return self._exit(process)
            case Kind.DUP_VM | Kind.CLOSE_VM | Kind.CREATE_VCPU | Kind.CLOSE_VCPU:
                return self._call(process, operation.kind.name.lower(), v)
            case Kind.DUP_FILE | Kind.CLOSE_FILE | Kind.MAP | Kind.UNMAP:
                return self._call(process, operation.kind.name.lower(), f)
            case Kind.CREATE_FILE | Kind.CREATE_UNOWNED:
                return self._call(process, operation.kind.name.lower(), v, f, operation.private)
            case Kind.BIND | Kind.BIND_FAILS:
                return self._call(process, operation.kind.name.lower(), v, s, f, page)
            case Kind.UNBIND | Kind.MOVE | Kind.GUEST_READ:
                return self._call(process, operation.kind.name.lower(), v, s)
            case Kind.GUEST_WRITE:
                value = len(self._written) % _WRITTEN_BYTES + 1
                self._written[value] = (v, self._life[v])
                return self._call(process, "guest_write", v, s, value)
            case Kind.HOST_READ | Kind.PUNCH | Kind.PAGE_ERROR:
                return self._call(process, operation.kind.name.lower(), f, page)
            case _:
                raise UsageError(f"replay '{operation}'", "no kernel offers it")

    def _exit(self, process: int) -> Answer:
        if self._alone:
            return self._hands.exit()
        worker = self._workers.pop(process, None)
        if worker is not None:
            worker.close()
        return OK

    # What is compared

    def _note_mapped_errors(self, operation: Operation) -> None:
        """Keep track of mappings that have an error in their page table."""
        is_mapped = [
            any(self._state[at + self._layout.mappings :][: self.transitions.universe.processes])
            for at in self._layout.file
        ]
        if operation.kind is Kind.PAGE_ERROR and is_mapped[operation.file]:
            self._errors_mapped.add((operation.file, operation.page))
        self._errors_mapped = {(f, page) for f, page in self._errors_mapped if is_mapped[f]}

    def _through_mapping(self, f: int, page: int, outcome: str) -> str:
        """Expect SIGBUS of a mapping that was there when its page had an error.

        Punching the page out of its file makes it a new page for guests and for new mappings. An
        old one's page table keeps the entry for the error (zap_nonpresent_ptes, mm/memory.c: for
        truncation only what is private to the process is cleared); the model has no page tables of
        processes.
        """
        if (f, page) not in self._errors_mapped or outcome == SIGBUS:
            return outcome
        self.tally.errors_mapped += 1
        return SIGBUS

    def _sees(self, answer: Answer) -> str:
        """Put what was read into the model's words."""
        if not answer or isinstance(answer, str):
            return answer or "zeroes"
        if answer not in self._written:
            return f"{answer:#x}, which nobody wrote"
        v, life = self._written[answer]
        if life == self._life[v] and self._state[self._layout.vm[v]]:
            return f"vm{v}'s page"
        return "a freed VM's page"

    def _compare_lives(self, before: State) -> None:
        if self._liveness is None:
            return
        for v, at in enumerate(self._layout.vm):
            alive, was = bool(self._state[at]), bool(before[at])
            if not alive and not was:
                continue
            self.tally.lives += 1
            if not self._liveness.agrees(self._name[v], alive):
                words = ("freed", "alive")
                raise _OtherwiseError(f"vm{v}", words[alive], words[not alive])

    def _compare_contents(self) -> None:
        layout, universe = self._layout, self.transitions.universe
        for f, at in enumerate(layout.file):
            mapped = self._state[at + layout.mappings : at + layout.mappings + universe.processes]
            if not any(mapped):
                continue
            process = next(p for p in range(universe.processes) if mapped[p])
            for page in range(universe.pages):
                look = Operation(Kind.HOST_READ, file=f, page=page)
                outcome = self.transitions.step(self._state, look).outcome
                expected = self._through_mapping(f, page, outcome)
                seen = self._sees(self._call(process, "host_read", f, page))
                self.tally.contents += 1
                if seen != expected:
                    raise _OtherwiseError(f"page{page} of file{f}, mapped", expected, seen)
