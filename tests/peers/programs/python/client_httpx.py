"""A target program: httpx, one synchronous Client a thread."""

import client
import httpx


def main() -> None:
    job = client.parse(__doc__)

    def make_fetch() -> client.Fetch:
        limits = httpx.Limits(keepalive_expiry=client.IDLE_S)
        transport = httpx.HTTPTransport(verify=client.trusted(), uds=job.unix, limits=limits)
        session = httpx.Client(transport=transport, timeout=30, trust_env=False)

        def fetch(n: int) -> None:
            answer = session.get(job.url(n), headers=job.headers(n))
            client.check(n, answer.status_code, answer.text)

        return fetch

    client.run_threads(job, make_fetch)


if __name__ == "__main__":
    main()
