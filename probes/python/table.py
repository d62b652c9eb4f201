"""Offsets per version of CPython. Written by `make python-offsets`: do not edit."""

# (version, free threaded): bytes. interpreters: of the newest interpreter's address in
# _PyRuntime; threads: of the newest thread's state in that; thread_id, context: in the
# thread's state; type: in any object.
OFFSETS: dict[tuple[str, bool], dict[str, int]] = {
    ("3.7", False): {"interpreters": 24, "threads": 8, "thread_id": 176, "context": 256, "type": 8},
    ("3.8", False): {"interpreters": 32, "threads": 8, "thread_id": 176, "context": 240, "type": 8},
    ("3.9", False): {"interpreters": 32, "threads": 8, "thread_id": 176, "context": 240, "type": 8},
    ("3.10", False): {
        "interpreters": 32,
        "threads": 8,
        "thread_id": 176,
        "context": 240,
        "type": 8,
    },
    ("3.11", False): {
        "interpreters": 40,
        "threads": 16,
        "thread_id": 152,
        "context": 224,
        "type": 8,
    },
    ("3.12", False): {
        "interpreters": 40,
        "threads": 72,
        "thread_id": 136,
        "context": 208,
        "type": 8,
    },
    ("3.13", False): {
        "interpreters": 632,
        "threads": 7344,
        "thread_id": 152,
        "context": 208,
        "type": 8,
    },
    ("3.14", False): {
        "interpreters": 808,
        "threads": 7344,
        "thread_id": 152,
        "context": 208,
        "type": 8,
    },
    ("3.15", False): {
        "interpreters": 936,
        "threads": 7336,
        "thread_id": 176,
        "context": 232,
        "type": 8,
    },
}
