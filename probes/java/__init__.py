"""Java: which virtual thread a thread runs, so that a call belongs to the request which that
virtual thread answers (bpf/workers.h).

`attach` finds where the virtual machine keeps it. docs/parents.md tells the rest.
"""
