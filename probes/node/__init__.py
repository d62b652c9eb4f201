"""Node.js: where a turn of its event loop ends, so that rule `turn` claims no more than it may.

`attach` hooks what runs after each poll and what takes work back from other threads.
docs/parents.md tells the rest.
"""
