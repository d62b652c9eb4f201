"""CPython: which context a thread works on, so that calls find their request.

`attach` finds and verifies, in a running interpreter, where each thread keeps its
state, and hooks the copying of contexts; `table` has the offsets per version, which
`measure_offsets` measures in an interpreter itself. docs/python.md tells the rest.
"""
