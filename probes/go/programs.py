"""Names that more than one part of this probe speaks of: of BPF programs, and a function."""

BORN = "go_birth"
INTRODUCES = "go_serve_http"
NAME_CALLS = ("go_http2_call", "go_http2_own_call")
ROUTES, ROUTES_WANTED = "go_route_servemux", "go_timeout"
TLS_WRITE, TLS_READ, TLS_DID_READ = "go_tls_write", "go_tls_read", "go_tls_did_read"
TLS = (TLS_WRITE, TLS_READ, TLS_DID_READ)

ECHO_CLOSURE = "github.com/labstack/echo/v4.(*Echo).add.func1"
"""What echo makes of a handler: an address of it is compared in the kernel."""
