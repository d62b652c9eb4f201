"""uWSGI: whether a process of it runs the loop in which a thread serves one request at a time, so
that what it calls belongs to the request that it has read by uWSGI's own protocol (bpf/carry.h).

`attach` finds the word of its memory that says so. docs/parents.md tells the rest.
"""
