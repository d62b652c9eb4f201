"""HTTP/2 and gRPC: from header blocks as they were on the wire to names and attributes.

The kernel counts frames and keeps header blocks; HPACK (RFC 7541) is undone here.

    blocks.py   one header block -> its fields, given the table's entries
    tables.py   what each side of each connection has put into its table, by number
    heads.py    the fields of a stream's blocks -> target and kept fields, as of HTTP/1
    resolve.py  a batch of raw records -> the same records, with readable heads
    grpc.py     the RPC conventions
    decode.py   names, kinds and attributes of a resolved record
"""
