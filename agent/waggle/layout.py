"""Layouts and enumerators shared with the kernel. Generated from bpf/waggle.h
by `make generate`: do not edit.

Ring records (EXCHANGE, LARGE_EXCHANGE, PROCESS_EVENT, TABLE_EVENT, EVIDENCE, CODE_EVENT,
LOG) include the 8 byte header the kernel puts before each record, so a batch of them is one array.
"""

from enum import IntEnum

import numpy as np


class Block(IntEnum):
    REQUEST = 0
    RESPONSE = 1
    TRAILERS = 2
    REQUEST_TRAILERS = 3


class BlockFlag(IntEnum):
    PRESENT = 1
    CUT = 2
    CHANGES = 4
    END_STREAM = 8


class CodeEventKind(IntEnum):
    OBJECT = 1
    SITE = 2


class CodeKind(IntEnum):
    UNKNOWN = 0
    LIBRARY = 1
    APPLICATION = 2
    LOOP = 3


class Counter(IntEnum):
    EXCHANGES = 0
    LOST_RING_FULL = 1
    LOST_LARGE_RING_FULL = 2
    LOST_EVENT_RING_FULL = 3
    LOST_CONNECTION_MAP_FULL = 4
    LOST_EXCHANGE_MAP_FULL = 5
    LOST_PARTIAL_MAP_FULL = 6
    LOST_HEAD_TOO_LARGE = 7
    LOST_BYTES_UNREADABLE = 8
    LOST_BYTES_UNSEEN = 9
    LOST_BAD_FRAMING = 10
    LOST_FRAMING_BUDGET = 11
    LOST_PIPELINE_TOO_DEEP = 12
    LOST_PROCESS_MAP_FULL = 13
    LOST_RESPONSE_UNMATCHED = 14
    CONNECTIONS_GIVEN_UP = 15
    HANDOFF_LEFT = 16
    HANDOFF_FOUND = 17
    HANDOFF_MISSED = 18
    TRACEPARENT_READ = 19
    TRACEPARENT_INVALID = 20
    TARGET_CUT = 21
    KEPT_CUT = 22
    RULE_CONTRADICTED = 23
    RESYNCED = 24
    LOST_EVIDENCE_RING_FULL = 25
    CONTEXTS_COPIED = 26
    CONTEXTS_IGNORED = 27
    TASK_CALLS = 28
    LOST_HTTP2_MAP_FULL = 29
    LOST_STREAM_MAP_FULL = 30
    LOST_TABLE_RING_FULL = 31
    LOST_TABLE_COUNT = 32
    HTTP2_CONNECTIONS = 33
    HTTP2_STREAMS = 34
    HTTP2_RESYNCED = 35
    TRACES_SAMPLED = 36
    TRACES_UNSAMPLED = 37
    CALL_SITES = 38
    LOST_CODE_RING_FULL = 39
    LOGS_WRITTEN = 40
    LOST_LOG_RATE = 41
    LOST_LOG_RING_FULL = 42
    LOST_LOG_UNREADABLE = 43
    GOROUTINE_CALLS = 44
    GOROUTINE_UNKNOWN = 45
    GO_FUNCTIONS_FULL = 46
    INJECT_ENROLLED = 47
    INJECT_LEFT = 48
    INJECT_WRITTEN = 49
    INJECT_HAS_ONE = 50
    INJECT_NOT_A_HEAD = 51
    INJECT_CUT = 52
    INJECT_PIPELINED = 53
    INJECT_UNSURE = 54
    INJECT_FORM = 55
    INJECT_TOO_LARGE = 56
    INJECT_UNDECIDED = 57
    INJECT_NO_ROOM = 58
    INJECT_REFUSED = 59
    INJECT_ELSEWHERE = 60
    INJECT_UNKNOWN_PEER = 61
    INJECT_BUSY = 62
    OPTION_SENT = 63
    OPTION_RECEIVED = 64
    OPTION_NOT_SENT = 65
    OPTION_PENDING = 66
    OPTION_GIVEN_UP = 67
    OPTION_PEERS_STOPPED = 68
    OPTION_PROBED = 69
    OPTION_OLD_REFUSED = 70
    TURN_CALLS = 71
    TLS_CONNECTIONS = 72
    TLS_BOUND = 73
    LOST_TLS_UNBOUND = 74
    LOST_TLS_BUSY = 75
    LOST_EXCHANGE_GONE = 76
    OPAQUE = 77
    LOST_OPAQUE_RATE = 78
    OPAQUE_UNANSWERED = 79
    LOST_HANDSHAKE_RATE = 80
    LOST_HANDSHAKE_RING_FULL = 81
    INJECT_STAYED = 82
    LOST_HANDOFF_TOO_LATE = 83
    TLS_LEFT_ALONE = 84


class End(IntEnum):
    OPEN = 0
    DONE = 1
    RESET = 2
    TIMED_OUT = 3
    PEER_CLOSED = 4
    LOCAL_CLOSED = 5
    PROCESS_EXIT = 6
    STREAM_CANCELLED = 7
    STREAM_RESET = 8
    GOAWAY = 9
    UNSEEN = 10


class EvidenceKind(IntEnum):
    CALL = 1
    ANSWER = 2
    GONE = 3
    PART = 4
    OVER = 5
    LOG = 6
    TURN_CALL = 7
    TURN_ANSWER = 8
    TURN_REFUTED = 9
    TURN_GONE = 10


class Flag(IntEnum):
    TARGET_CUT = 1
    KEPT_CUT = 2
    REQUEST_BODY = 4
    RESPONSE_BODY = 8
    RESYNCED = 16
    PROVISIONAL = 32
    REMOTE_PARENT = 64
    UPGRADED = 128
    HAD_TRACEPARENT = 256
    UNSAMPLED = 512
    NO_POSITION = 1024
    TRACE_PENDING = 2048
    UNPROVEN = 4096
    AFTER_RESPONSE = 8192
    SDK = 16384
    TLS = 32768


class GoLimit(IntEnum):
    SERVED = 1000
    IN_VAIN = 16
    ANSWERED = 20
    CERTAIN = 64


class GoVerdict(IntEnum):
    UNKNOWN = 0
    ENDS = 1
    PUMP = 2
    WORKS_ON = 3


class Http2Flag(IntEnum):
    RESYNCED = 1
    REQUEST_ENDED = 2
    UPGRADED = 4
    PUSHED = 8
    NOT_GRPC = 16
    HANDLER = 32
    NO_TRACESTATE = 64


class InjectMode(IntEnum):
    OFF = 0
    FIRST = 1
    ALWAYS = 2


class Kept(IntEnum):
    END = 0
    METHOD = 1
    HOST = 2
    USER_AGENT = 3
    X_FORWARDED_FOR = 4
    X_FORWARDED_PROTO = 5
    FORWARDED = 6
    TRACESTATE = 7
    UPGRADE = 8
    CALL_SITE = 9
    ROUTE = 10
    BAGGAGE = 11
    HANDLER = 13
    VOID = 12


class Link(IntEnum):
    NONE = 0
    TRACEPARENT = 1
    SOCKET = 2
    THREAD = 3
    TURN = 4
    GOROUTINE = 5
    TASK = 6
    OPTION = 7
    B3 = 8
    JAEGER = 9
    XRAY = 10
    ALONE = 11
    TRACE_BIN = 12
    FORWARDED = 13


class LogSource(IntEnum):
    NONE = 0
    STDOUT = 1
    STDERR = 2
    FILE = 3
    JOURNAL = 4
    SYSLOG = 5


class Method(IntEnum):
    OTHER = 0
    GET = 1
    HEAD = 2
    POST = 3
    PUT = 4
    DELETE = 5
    CONNECT = 6
    OPTIONS = 7
    TRACE = 8
    PATCH = 9


class ProcessEventKind(IntEnum):
    EXEC = 1
    FORK = 2
    EXIT = 3
    LISTEN = 4
    SEEN = 5


class ProcessMode(IntEnum):
    TRACED = 1
    EXCLUDED = 2
    FOLLOW = 4
    UNCONFIRMED = 8
    RULE_THREAD = 16
    RULE_TURN = 32
    RULE_TASK = 64
    RULE_GOROUTINE = 128
    SDK = 256
    SDK_SERVER = 512
    PROVE_TURN = 1024
    THREAD_READS = 2048
    NAMED_THREADS = 4096
    RULE_WORKER = 8192
    WORKER_TOLD = 16384
    RULE_ALONE = 32768
    CARRIED = 65536


class Protocol(IntEnum):
    NONE = 0
    HTTP1 = 1
    HTTP2 = 2
    TLS = 3
    OPAQUE = 4


class Register(IntEnum):
    NONE = 0
    AX = 1
    BX = 2
    CX = 3
    DX = 4
    SI = 5
    DI = 6
    R8 = 7
    R9 = 8
    R10 = 9
    STACK = 64


class Role(IntEnum):
    NONE = 0
    SERVER = 1
    CLIENT = 2


class Sampling(IntEnum):
    KNOWN = 1
    HERE = 2
    SAID = 4
    EDIT = 8


class Side(IntEnum):
    CLIENT = 0
    SERVER = 1


class TableEventKind(IntEnum):
    BLOCK = 1
    CLOSED = 2
    EPOCH = 3


class ToldAs(IntEnum):
    REQUEST = 1
    URL = 2
    CALL = 3
    PEERS = 128


class Version(IntEnum):
    HTTP_MASK = 31
    TLS_SHIFT = 5


def _dtype(size: int, fields: list[tuple[str, str, int]]) -> "np.dtype[np.void]":
    return np.dtype(
        {
            "names": [f[0] for f in fields],
            "formats": [f[1] for f in fields],
            "offsets": [f[2] for f in fields],
            "itemsize": size,
        }
    )


EXCHANGE = _dtype(
    512,
    [
        ("ring_length", "<u4", 0),
        ("ring_page", "<u4", 4),
        ("start_ns", "<u8", 8),
        ("response_ns", "<u8", 16),
        ("end_ns", "<u8", 24),
        ("shape", "<u8", 32),
        ("trace_id", "(16,)u1", 40),
        ("span_id", "(8,)u1", 56),
        ("parent_id", "(8,)u1", 64),
        ("request_body", "<u8", 72),
        ("response_body", "<u8", 80),
        ("process_start_ns", "<u8", 88),
        ("tgid", "<u4", 96),
        ("tid", "<u4", 100),
        ("local_addr", "(16,)u1", 104),
        ("peer_addr", "(16,)u1", 120),
        ("local_port", "<u2", 136),
        ("peer_port", "<u2", 138),
        ("status", "<u2", 140),
        ("flags", "<u2", 142),
        ("family", "u1", 144),
        ("role", "u1", 145),
        ("link", "u1", 146),
        ("end", "u1", 147),
        ("method", "u1", 148),
        ("version", "u1", 149),
        ("protocol", "u1", 150),
        ("trace_flags", "u1", 151),
        ("target_len", "<u2", 152),
        ("kept_len", "<u2", 154),
        ("target_full_len", "<u2", 156),
        ("http2_len", "<u2", 158),
        ("sampling", "<u8", 160),
        ("head", "(344,)u1", 168),
    ],
)

LARGE_EXCHANGE = _dtype(
    4096,
    [
        ("ring_length", "<u4", 0),
        ("ring_page", "<u4", 4),
        ("start_ns", "<u8", 8),
        ("response_ns", "<u8", 16),
        ("end_ns", "<u8", 24),
        ("shape", "<u8", 32),
        ("trace_id", "(16,)u1", 40),
        ("span_id", "(8,)u1", 56),
        ("parent_id", "(8,)u1", 64),
        ("request_body", "<u8", 72),
        ("response_body", "<u8", 80),
        ("process_start_ns", "<u8", 88),
        ("tgid", "<u4", 96),
        ("tid", "<u4", 100),
        ("local_addr", "(16,)u1", 104),
        ("peer_addr", "(16,)u1", 120),
        ("local_port", "<u2", 136),
        ("peer_port", "<u2", 138),
        ("status", "<u2", 140),
        ("flags", "<u2", 142),
        ("family", "u1", 144),
        ("role", "u1", 145),
        ("link", "u1", 146),
        ("end", "u1", 147),
        ("method", "u1", 148),
        ("version", "u1", 149),
        ("protocol", "u1", 150),
        ("trace_flags", "u1", 151),
        ("target_len", "<u2", 152),
        ("kept_len", "<u2", 154),
        ("target_full_len", "<u2", 156),
        ("http2_len", "<u2", 158),
        ("sampling", "<u8", 160),
        ("head", "(3928,)u1", 168),
    ],
)

PROCESS_EVENT = _dtype(
    64,
    [
        ("ring_length", "<u4", 0),
        ("ring_page", "<u4", 4),
        ("time_ns", "<u8", 8),
        ("process_start_ns", "<u8", 16),
        ("tgid", "<u4", 24),
        ("parent_tgid", "<u4", 28),
        ("port", "<u4", 32),
        ("kind", "<u4", 36),
        ("comm", "(16,)u1", 40),
        ("reserved", "(8,)u1", 56),
    ],
)

TABLE_EVENT = _dtype(
    512,
    [
        ("ring_length", "<u4", 0),
        ("ring_page", "<u4", 4),
        ("connection", "<u8", 8),
        ("time_ns", "<u8", 16),
        ("tgid", "<u4", 24),
        ("sequence", "<u4", 28),
        ("inserted", "<u4", 32),
        ("insertions", "<u4", 36),
        ("offset", "<u2", 40),
        ("length", "<u2", 42),
        ("block_full", "<u2", 44),
        ("kind", "u1", 46),
        ("side", "u1", 47),
        ("epoch", "u1", 48),
        ("flags", "u1", 49),
        ("block_flags", "u1", 50),
        ("reserved", "(5,)u1", 51),
        ("bytes", "(456,)u1", 56),
    ],
)

HTTP2 = _dtype(
    120,
    [
        ("connection", "<u8", 0),
        ("request_end_ns", "<u8", 8),
        ("first_message_ns", "(2,)<u8", 16),
        ("last_message_ns", "(2,)<u8", 32),
        ("messages", "(2,)<u4", 48),
        ("stream", "<u4", 56),
        ("error", "<u4", 60),
        ("block_inserted", "(4,)<u4", 64),
        ("block_offset", "(4,)<u2", 80),
        ("block_length", "(4,)<u2", 88),
        ("block_full", "(4,)<u2", 96),
        ("block_epoch", "(4,)u1", 104),
        ("block_flags", "(4,)u1", 108),
        ("flags", "u1", 112),
        ("interims", "u1", 113),
        ("route_offset", "<u2", 114),
        ("route_length", "<u2", 116),
        ("told_length", "<u2", 118),
    ],
)

TOLD = _dtype(
    12,
    [
        ("as", "u1", 0),
        ("method_length", "u1", 1),
        ("path_length", "u1", 2),
        ("length", "u1", 3),
        ("method", "(8,)u1", 4),
    ],
)

PROCESS = _dtype(
    72,
    [
        ("start_ns", "<u8", 0),
        ("mode", "<u4", 8),
        ("open", "<u4", 12),
        ("thread_agrees", "<u4", 16),
        ("thread_contradicts", "<u4", 20),
        ("turn_agrees", "<u4", 24),
        ("turn_contradicts", "<u4", 28),
        ("sample_rules", "<u4", 32),
        ("unanswered", "<u4", 36),
        ("turn_calls", "<u4", 40),
        ("alone_contradicts", "<u4", 44),
        ("alone_sock", "<u8", 48),
        ("alone_index", "<u4", 56),
        ("alone_calls", "<u4", 60),
        ("is_carried", "<u4", 64),
        ("reserved", "<u4", 68),
    ],
)

SAMPLE_RULE = _dtype(
    280,
    [
        ("threshold", "<u8", 0),
        ("path_len", "<u4", 8),
        ("exact", "<u4", 12),
        ("path", "(64,)u1", 16),
        ("mask", "(64,)u1", 80),
        ("coded", "(64,)u1", 144),
        ("coded_mask", "(64,)u1", 208),
        ("coded_bits", "<u4", 272),
        ("static_paths", "<u4", 276),
    ],
)

PYTHON = _dtype(
    72,
    [
        ("context_type", "<u8", 0),
        ("slot", "<i4", 8),
        ("indirect", "<i4", 12),
        ("context", "<u4", 16),
        ("type", "<u4", 20),
        ("unanswered", "<u4", 24),
        ("calls", "<u4", 28),
        ("copy_agrees", "<u4", 32),
        ("copy_contradicts", "<u4", 36),
        ("writer_agrees", "<u4", 40),
        ("writer_contradicts", "<u4", 44),
        ("second_ns", "<u8", 48),
        ("copied", "<u4", 56),
        ("too_many", "<u4", 60),
        ("epoch", "<u4", 64),
        ("served", "<u4", 68),
    ],
)

SCHEDULER = _dtype(
    32,
    [
        ("function", "<u8", 0),
        ("held_at", "<u8", 8),
        ("slot", "<i4", 16),
        ("task_at", "<u4", 20),
        ("function_at", "<u4", 24),
        ("object_at", "<u4", 28),
    ],
)

JAVA = _dtype(
    16,
    [
        ("slot", "<i4", 0),
        ("carrier_at", "<u4", 4),
        ("mounted_at", "<u4", 8),
        ("number_at", "<u4", 12),
    ],
)

GO = _dtype(
    384,
    [
        ("low", "<u8", 0),
        ("high", "<u8", 8),
        ("slot", "<i4", 16),
        ("epoch", "<u4", 20),
        ("goid", "<u4", 24),
        ("parent_goid", "<u4", 28),
        ("start", "<u4", 32),
        ("status", "<u4", 36),
        ("m", "<u4", 40),
        ("curg", "<u4", 44),
        ("persist_conn", "<u4", 48),
        ("descriptor", "<u4", 52),
        ("family", "<u4", 56),
        ("not_on_goroutine", "<u4", 60),
        ("agrees", "<u4", 64),
        ("disagrees", "<u4", 68),
        ("must_agree", "<u4", 72),
        ("request_ctx", "<u4", 76),
        ("http2_conn", "<u4", 80),
        ("http2_stream", "<u4", 84),
        ("grpc_conn", "<u4", 88),
        ("grpc_stream", "<u4", 92),
        ("grpc_indirect", "<u4", 96),
        ("grpc_ctx", "<u4", 100),
        ("grpc_client_conn", "<u4", 104),
        ("grpc_call_client", "<u4", 108),
        ("grpc_call_stream", "<u4", 112),
        ("http2_ctx", "<u4", 116),
        ("conn_cancel", "<u4", 120),
        ("conn_response", "<u4", 124),
        ("response_conn", "<u4", 128),
        ("response_request", "<u4", 132),
        ("request_pattern", "<u4", 136),
        ("http2_own_conn", "<u4", 140),
        ("served", "<u4", 144),
        ("strangers", "<u4", 148),
        ("used", "<u4", 152),
        ("wanted", "<u4", 156),
        ("unknown", "<u4", 160),
        ("routers", "<u4", 164),
        ("gin_place", "<u4", 168),
        ("gin_path", "<u4", 172),
        ("gin_request", "<u4", 176),
        ("gin_handlers", "<u4", 180),
        ("chi_place", "<u4", 184),
        ("chi_patterns", "<u4", 188),
        ("chi_parent", "<u4", 192),
        ("chi_handler", "<u4", 196),
        ("echo_place", "<u4", 200),
        ("echo_before_place", "<u4", 204),
        ("echo_path", "<u4", 208),
        ("echo_request", "<u4", 212),
        ("mux_path", "<u4", 216),
        ("mux_template", "<u4", 220),
        ("mux_handler", "<u4", 224),
        ("servemux_place", "<u4", 228),
        ("servemux_told", "<u4", 232),
        ("echo_handler", "<u4", 236),
        ("echo_captured", "<u4", 240),
        ("channel_type", "<u4", 244),
        ("channel_next", "<u4", 248),
        ("conn_hijacked", "<u4", 252),
        ("request_method", "<u4", 256),
        ("request_uri", "<u4", 260),
        ("request_url", "<u4", 264),
        ("url_opaque", "<u4", 268),
        ("url_path", "<u4", 272),
        ("url_raw_path", "<u4", 276),
        ("url_query", "<u4", 280),
        ("url_force_query", "<u4", 284),
        ("own_method", "<u4", 288),
        ("own_uri", "<u4", 292),
        ("own_call_method", "<u4", 296),
        ("own_call_url", "<u4", 300),
        ("grpc_method", "<u4", 304),
        ("old", "<u4", 308),
        ("old_calls", "<u4", 312),
        ("stream_workers", "<u4", 316),
        ("arrives", "<u4", 320),
        ("certain", "<u4", 324),
        ("near", "<u4", 328),
        ("reserved", "<u4", 332),
        ("bias", "<u8", 336),
        ("code_start", "<u8", 344),
        ("code_end", "<u8", 352),
        ("echo_closure", "<u8", 360),
        ("birth_ns", "<u8", 368),
        ("unrouted_ns", "<u8", 376),
    ],
)

GO_FUNCTION_KEY = _dtype(
    16,
    [
        ("address", "<u8", 0),
        ("epoch", "<u4", 8),
        ("reserved", "<u4", 12),
    ],
)

GO_FUNCTION = _dtype(
    56,
    [
        ("watched", "<u8", 0),
        ("goid", "<u8", 8),
        ("ended", "<u4", 16),
        ("verdict", "<u4", 20),
        ("caller", "<u8", 24),
        ("caller_ns", "<u8", 32),
        ("vain_ns", "<u8", 40),
        ("in_vain", "<u4", 48),
        ("told", "<u4", 52),
    ],
)

TLS_LAYOUT = _dtype(
    20,
    [
        ("reader", "<u4", 0),
        ("method", "<u4", 4),
        ("number", "<u4", 8),
        ("data", "<u4", 12),
        ("known", "<u4", 16),
    ],
)

EVIDENCE = _dtype(
    152,
    [
        ("ring_length", "<u4", 0),
        ("ring_page", "<u4", 4),
        ("time_ns", "<u8", 8),
        ("start_ns", "<u8", 16),
        ("before_ns", "<u8", 24),
        ("trace_id", "(16,)u1", 32),
        ("span_id", "(8,)u1", 48),
        ("contexts", "(8,)<u8", 56),
        ("sampling", "<u8", 120),
        ("tgid", "<u4", 128),
        ("unanswered", "<u2", 132),
        ("flags", "<u2", 134),
        ("kind", "u1", 136),
        ("trace_flags", "u1", 137),
        ("shared", "u1", 138),
        ("own", "u1", 139),
        ("kept", "u1", 140),
        ("answering", "u1", 141),
        ("over", "u1", 142),
        ("many", "u1", 143),
        ("queued", "u1", 144),
        ("made", "u1", 145),
        ("link", "u1", 146),
        ("reserved", "(5,)u1", 147),
    ],
)

LOG = _dtype(
    1024,
    [
        ("ring_length", "<u4", 0),
        ("ring_page", "<u4", 4),
        ("time_ns", "<u8", 8),
        ("process_start_ns", "<u8", 16),
        ("inode", "<u8", 24),
        ("trace_id", "(16,)u1", 32),
        ("span_id", "(8,)u1", 48),
        ("parent_id", "(8,)u1", 56),
        ("tgid", "<u4", 64),
        ("tid", "<u4", 68),
        ("device", "<u4", 72),
        ("descriptor", "<u4", 76),
        ("written", "<u4", 80),
        ("kept", "<u4", 84),
        ("offset", "<u4", 88),
        ("lost", "<u4", 92),
        ("length", "<u2", 96),
        ("flags", "<u2", 98),
        ("source", "u1", 100),
        ("link", "u1", 101),
        ("trace_flags", "u1", 102),
        ("role", "u1", 103),
        ("reserved", "(8,)u1", 104),
        ("context", "<u8", 112),
        ("bytes", "(904,)u1", 120),
    ],
)

HANDSHAKE = _dtype(
    152,
    [
        ("ring_length", "<u4", 0),
        ("ring_page", "<u4", 4),
        ("span_id", "(8,)u1", 8),
        ("connect_ns", "<u8", 16),
        ("connected_ns", "<u8", 24),
        ("hello_ns", "<u8", 32),
        ("done_ns", "<u8", 40),
        ("version", "u1", 48),
        ("name_length", "u1", 49),
        ("protocol_length", "u1", 50),
        ("not_after_length", "u1", 51),
        ("reserved", "(4,)u1", 52),
        ("name", "(64,)u1", 56),
        ("protocol", "(16,)u1", 120),
        ("not_after", "(16,)u1", 136),
    ],
)

CODE_LAYOUT = _dtype(
    88,
    [
        ("code_type", "<u8", 0),
        ("salt", "<u8", 8),
        ("slot", "<i4", 16),
        ("indirect", "<i4", 20),
        ("c_frame", "<i4", 24),
        ("frame", "<u4", 28),
        ("frame_code", "<u4", 32),
        ("frame_globals", "<u4", 36),
        ("frame_locals", "<u4", 40),
        ("frame_previous", "<u4", 44),
        ("frame_instruction", "<u4", 48),
        ("file_name", "<u4", 52),
        ("function", "<u4", 56),
        ("line_table", "<u4", 60),
        ("first_line", "<u4", 64),
        ("instructions", "<u4", 68),
        ("names", "<u4", 72),
        ("items", "<u4", 76),
        ("text", "<u4", 80),
        ("reserved", "<u4", 84),
    ],
)

CODE_EVENT = _dtype(
    2048,
    [
        ("ring_length", "<u4", 0),
        ("ring_page", "<u4", 4),
        ("id", "<u8", 8),
        ("kind_key", "<u8", 16),
        ("tgid", "<u4", 24),
        ("first_line", "<u4", 28),
        ("table_size", "<u4", 32),
        ("offset", "<u4", 36),
        ("length", "<u2", 40),
        ("file_name_size", "<u2", 42),
        ("function_size", "<u2", 44),
        ("kind", "u1", 46),
        ("frames", "u1", 47),
        ("runs_loop", "u1", 48),
        ("text", "u1", 49),
        ("reserved", "(6,)u1", 50),
        ("codes", "(32,)<u8", 56),
        ("offsets", "(32,)<u4", 312),
        ("file_name", "(352,)u1", 440),
        ("function", "(248,)u1", 792),
        ("line_table", "(1008,)u1", 1040),
    ],
)

INJECT_SETTINGS = _dtype(
    16,
    [
        ("mode", "<u4", 0),
        ("trial", "<u4", 4),
        ("rules", "<u4", 8),
        ("frames", "<u4", 12),
    ],
)

INJECT_RULE = _dtype(
    40,
    [
        ("address", "(16,)u1", 0),
        ("mask", "(16,)u1", 16),
        ("port", "<u2", 32),
        ("never", "<u2", 34),
        ("reserved", "<u4", 36),
    ],
)

CONNECTION = _dtype(
    832,
    [
        ("requests", "<u4", 144),
        ("responses", "<u4", 148),
        ("tgid", "<u4", 156),
        ("role", "u1", 160),
        ("current_used", "u1", 188),
        ("method", "u1", 428),
    ],
)
