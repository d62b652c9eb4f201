"""Probe: the plaintext of TLS libraries, at the functions that are given it or give it.

library.py finds these functions in a library's file, attach.py attaches to processes.
"""
