"""HAProxy: which of its streams a thread works on, so that a call belongs to the request which that
stream answers (bpf/workers.h).

`attach` finds where its scheduler keeps the task that runs. docs/parents.md tells the rest.
"""
