"""A target program: requests, one Session a thread."""

import client
import requests


def main() -> None:
    job = client.parse(__doc__)
    if job.unix:
        raise SystemExit("requests cannot connect to a UNIX socket")

    def make_fetch() -> client.Fetch:
        session = requests.Session()
        session.trust_env = False
        session.verify = client.CERTIFICATE or True

        def fetch(n: int) -> None:
            answer = session.get(job.url(n), headers=job.headers(n), timeout=30)
            client.check(n, answer.status_code, answer.text)
            if job.close:
                # Java's server closes without announcing it: do not try this connection again.
                session.close()

        return fetch

    client.run_threads(job, make_fetch)


if __name__ == "__main__":
    main()
