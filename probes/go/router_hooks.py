"""`http.route` from the routers themselves: Gin, chi, gorilla/mux, echo, and net/http's own."""

from contextlib import suppress
from functools import partial

from waggle.layout import Register
from waggle.probes.go import instructions
from waggle.probes.go.chooser import Chooser, Hooks
from waggle.probes.go.offsets import router_offsets_of
from waggle.probes.go.programs import ECHO_CLOSURE, ROUTES, ROUTES_WANTED

_GIN, _CHI = "github.com/gin-gonic/gin", "github.com/go-chi/chi/v5"
_MUX, _ECHO = "github.com/gorilla/mux", "github.com/labstack/echo/v4"
_GIN_HANDLE = f"{_GIN}.(*Engine).handleHTTPRequest"
_CHI_ROUTE, _CHI_FIND = f"{_CHI}.(*Mux).routeHTTP", f"{_CHI}.(*node).FindRoute"
_MUX_MATCHED = f"{_MUX}.requestWithRoute"
_ECHO_SERVE, _ECHO_FIND = f"{_ECHO}.(*Echo).ServeHTTP", f"{_ECHO}.(*Router).Find"
_ECHO_BEFORE = f"{_ECHO_SERVE}.func1"
_ECHO_APPLY = f"{_ECHO}.applyMiddleware"
# net/http's own: it tells where the Request that is kept does not.
_SERVEMUX, _SERVEMUX_FIND = "net/http.(*ServeMux).ServeHTTP", "net/http.(*ServeMux).findHandler"
_TIMEOUT = "net/http.(*timeoutHandler).ServeHTTP"
# Module -> the function without which it routes nothing.
_ROUTERS = {_GIN: _GIN_HANDLE, _CHI: _CHI_ROUTE, _MUX: _MUX_MATCHED, _ECHO: _ECHO_SERVE}
FUNCTIONS = (
    *(_GIN_HANDLE, _CHI_ROUTE, _CHI_FIND, _MUX_MATCHED),
    *(_ECHO_SERVE, _ECHO_BEFORE, _ECHO_FIND, ECHO_CLOSURE, _ECHO_APPLY),
    *(_SERVEMUX, _SERVEMUX_FIND, _TIMEOUT),
)


def router_hooks(chooser: Chooser) -> Hooks:
    """Where routers other than net/http's have found a handler; their fields go into
    `places`, as does where each probe finds what it reads."""
    found: Hooks = []
    for module, function in _ROUTERS.items():
        if function not in chooser.functions:
            continue
        fields = router_offsets_of(module, chooser.program.modules.get(module, ""))
        if fields is None:
            chooser.missing.append(f"its version of {module} is not known: no routes")
            continue
        chooser.places |= fields
        _HOOKS[module](chooser, found)
    if found:
        chooser.places["routers"] = 1
    return found


def servemux_hooks(chooser: Chooser) -> Hooks:
    """The same for net/http's own, since Go 1.22, and who tells that it is wanted."""
    found: Hooks = []
    functions = chooser.functions
    if not {_SERVEMUX, _SERVEMUX_FIND} <= functions.keys():
        return []
    chooser.add_after(found, ROUTES, _SERVEMUX, _SERVEMUX_FIND, "rbx")
    for _, offset in found:
        code = chooser.code(functions[_SERVEMUX])
        at, find = chooser.program.image.address_at(offset), functions[_SERVEMUX_FIND].address
        kept = ("rbx", "rcx", "rdi", "rsi")
        if not at or not all(instructions.is_left_alone(code, find, at, one) for one in kept):
            chooser.missing.append(
                f"{_SERVEMUX}: what it has found is gone at once: not all routes"
            )
            chooser.places.pop("servemux_place")
            return []
    if found:
        chooser.add(found, ROUTES_WANTED, _TIMEOUT, instructions.at_entry)
    return found


def _hook_gin(chooser: Chooser, found: Hooks) -> None:
    after = partial(instructions.after_store, offset=chooser.places["gin_path"])
    chooser.add_place(found, "go_route_gin", _GIN_HANDLE, after)


def _hook_mux(chooser: Chooser, found: Hooks) -> None:
    chooser.add(found, "go_route_mux", _MUX_MATCHED, instructions.at_entry)


def _hook_chi(chooser: Chooser, found: Hooks) -> None:
    """With where the handler is that FindRoute returns: the second word of its third result."""
    own: Hooks = []
    chooser.add_after(own, "go_route_chi", _CHI_ROUTE, _CHI_FIND, "rbx")
    for _, offset in own:
        code = chooser.code(chooser.functions[_CHI_ROUTE])
        at = chooser.program.image.address_at(offset)
        find = chooser.functions[_CHI_FIND].address
        if at and instructions.is_left_alone(code, find, at, "rdi"):
            chooser.places["chi_handler"] = Register.DI
    found += own


def _hook_echo(chooser: Chooser, found: Hooks) -> None:
    """With where the closure that echo chooses has what the program gave it."""
    chooser.add_after(found, "go_route_echo", _ECHO_SERVE, _ECHO_FIND, "r9")
    chooser.add_after(found, "go_route_echo_before", _ECHO_BEFORE, _ECHO_FIND, "r9")
    functions = chooser.functions
    if {ECHO_CLOSURE, _ECHO_APPLY} <= functions.keys():
        code = chooser.code(functions[ECHO_CLOSURE])
        with suppress(instructions.NoInstructionError):
            chooser.places["echo_captured"] = instructions.captured(
                code, functions[_ECHO_APPLY].address, "rax"
            )


_HOOKS = {_GIN: _hook_gin, _CHI: _hook_chi, _MUX: _hook_mux, _ECHO: _hook_echo}
