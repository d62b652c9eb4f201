"""Loads its TLS library only when it is told to by a line, then asks again and again over new
connections, GET /n/1, /n/2 and so on, until the next: `late.py PORT`."""

import select
import sys


def main() -> None:
    input()
    import http.client
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    n = 0
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        n += 1
        one = http.client.HTTPSConnection("127.0.0.1", int(sys.argv[1]), context=context)
        one.request("GET", f"/n/{n}")
        if one.getresponse().read() != b"fine":
            raise SystemExit(f"request {n} failed")
        one.close()
    print("done", flush=True)


main()
