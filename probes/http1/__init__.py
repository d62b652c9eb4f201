"""HTTP/1.0 and HTTP/1.1: from a record to names and attributes of the conventions.

The parsing of heads happens in the kernel (bpf/); here is what becomes of the
fields it kept. `decode` holds the decoder, `targets` the forms of a request
target and what must not be shown of it, `forwarded` what proxies say of a request.
"""
