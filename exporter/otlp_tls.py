"""TLS towards a receiver, from the PEM files that the settings name."""

import ssl

from waggle.errors import UsageError
from waggle.exporter.otlp_settings import TlsFiles


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """A context that verifies the receiver, and shows our certificate where there is one.

    Raises UsageError naming the file that is no good.
    """
    try:
        context = ssl.create_default_context(cafile=files.trusted)
    except (ssl.SSLError, OSError) as error:
        raise UsageError(
            f"OTEL_EXPORTER_OTLP_CERTIFICATE={files.trusted}: no certificates in it ({error}); "
            "name a PEM file with the receiver's certificate authority"
        ) from None
    if files.certificate is not None:
        try:
            context.load_cert_chain(files.certificate, files.key, password=_no_password)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise UsageError(
                f"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE={files.certificate} and "
                f"OTEL_EXPORTER_OTLP_CLIENT_KEY={files.key} do not work together ({error}); "
                "name a PEM certificate and its unencrypted private key"
            ) from None
    return context


def _no_password() -> str:
    """Called for an encrypted key; OpenSSL would otherwise ask on the terminal."""
    raise ValueError("the key is encrypted")
