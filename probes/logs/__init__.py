"""What traced processes write to their logs: from pieces of writes to log records.

The kernel's side is bpf/logs.h; docs/logs.md says what becomes a record and what does not.
"""
