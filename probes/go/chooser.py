"""Finds the instructions of one Go program at which probes are put.

What cannot be had cheaply is left alone, and said (Chooser.missing).
"""

from collections.abc import Callable
from functools import partial

from waggle.layout import Register
from waggle.probes.go.binary import Function, GoProgram, code_of
from waggle.probes.go.instructions import Code, Found, NoInstructionError, after_call, call_to

Hooks = list[tuple[str, int]]
"""BPF programs, and where in the file they are put: bytes from its beginning."""

_USUAL_FUNCTION = 4096  # bytes of code that are read at most
LONG_FUNCTION = 16384


class Chooser:
    """What a program's functions are like. missing: what could not be had, in words. places: of
    struct waggle_go, where a probe finds what it reads."""

    def __init__(self, path: str, program: GoProgram) -> None:
        self.missing: list[str] = []
        self.places: dict[str, int] = {}
        self.program = program
        self.functions = program.functions
        self._path = path

    def add(
        self,
        found: Hooks,
        program: str,
        name: str,
        choose: Callable[[Code], int],
    ) -> None:
        """A probe in the function of that name, if there is one, at the address that is chosen."""
        function = self.functions.get(name)
        if function is None:
            return
        try:
            address = choose(self.code(function))
        except NoInstructionError as error:
            self.missing.append(f"{function.name}: {error}: what it would tell is not known")
            return
        offset = self.program.image.file_offset(address)
        if offset is not None:
            found.append((program, offset))

    def add_call(self, found: Hooks, program: str, name: str, called: str) -> None:
        """A probe where one function calls another."""
        functions = self.functions
        if name in functions and called in functions:
            self.add(found, program, name, partial(call_to, target=functions[called].address))

    def add_after(self, found: Hooks, program: str, name: str, called: str, register: str) -> None:
        """A probe behind the call of a function that gets in a register what is read."""
        function = self.functions.get(called)
        if function is not None:
            after = partial(after_call, target=function.address, register=register)
            self.add_place(found, program, name, after)

    def add_place(
        self,
        found: Hooks,
        program: str,
        name: str,
        choose: Callable[[Code], Found],
    ) -> None:
        """As add(), where the instruction comes with a place of what is read there."""

        def chosen(code: Code) -> int:
            one = choose(code)
            place = place_of(one.place)
            if not place:
                raise NoInstructionError(f"{one.place} is none of the registers that are read")
            self.places[f"{program.removeprefix('go_route_')}_place"] = place
            return one.address

        self.add(found, program, name, chosen)

    def code(self, function: Function, most: int = _USUAL_FUNCTION) -> Code:
        """What a function consists of. most: bytes that are read."""
        return Code(code_of(self._path, self.program, function, most), function.address)


def place_of(where: str | int) -> int:
    """As enum waggle_register has it; 0 where it has not."""
    if isinstance(where, int):
        return Register.STACK + where
    names = {one.name.lower(): one for one in Register if one is not Register.STACK}
    return names.get(where, names.get(where.removeprefix("r"), Register.NONE))
