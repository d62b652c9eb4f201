/* SPDX-License-Identifier: Apache-2.0
 *
 * The whole kernel side: one object with all flavours of capture, of which user
 * space loads one. docs/architecture.md shows how the files hang together.
 */
#include "kernel_types.h"
#include "maps.h"
#include "http2_maps.h"
#include "ending.h"
#include "process.h"
#include "python_probes.h"
#include "go_birth_probe.h"
#include "go_client_probes.h"
#include "go_server_probes.h"
#include "go_routers.h"
#include "node_probes.h"
#include "tls_plaintext.h"
#include "tls_probes.h"
#include "go_tls.h"
#include "go_handover.h"
#include "sweep.h"
#include "capture_socket.h"
#include "capture_probe.h"
#include "capture_syscall.h"
#include "logs.h"
#include "inject.h"
#include "enrol.h"
#include "tcp_option.h"

char LICENSE[] SEC("license") = "GPL";

/* Types that only user space uses, so that they are in the object's BTF. */
#define SHARED_ENUM(name) const enum name shared_##name SEC(".rodata.shared") = 0
SHARED_ENUM(waggle_protocol);
SHARED_ENUM(waggle_role);
SHARED_ENUM(waggle_link);
SHARED_ENUM(waggle_end);
SHARED_ENUM(waggle_method);
SHARED_ENUM(waggle_flag);
SHARED_ENUM(waggle_version);
SHARED_ENUM(waggle_kept);
SHARED_ENUM(waggle_sampling);
SHARED_ENUM(waggle_side);
SHARED_ENUM(waggle_block);
SHARED_ENUM(waggle_told_as);
SHARED_ENUM(waggle_block_flag);
SHARED_ENUM(waggle_http2_flag);
SHARED_ENUM(waggle_table_event_kind);
SHARED_ENUM(waggle_process_event_kind);
SHARED_ENUM(waggle_process_mode);
SHARED_ENUM(waggle_go_verdict);
SHARED_ENUM(waggle_go_limit);
SHARED_ENUM(waggle_register);
SHARED_ENUM(waggle_counter);
SHARED_ENUM(waggle_evidence_kind);
const struct waggle_sample_rule shared_sample_rule SEC(".rodata.shared") = {};
SHARED_ENUM(waggle_code_kind);
SHARED_ENUM(waggle_code_event_kind);
SHARED_ENUM(waggle_log_source);
SHARED_ENUM(waggle_inject_mode);
const struct waggle_inject_settings shared_inject_settings SEC(".rodata.shared") = {};
const struct waggle_inject_rule shared_inject_rule SEC(".rodata.shared") = {};
const struct waggle_process_event shared_event SEC(".rodata.shared") = {};
const struct waggle_evidence shared_evidence SEC(".rodata.shared") = {};
const struct waggle_http2 shared_http2 SEC(".rodata.shared") = {};
const struct waggle_told shared_told SEC(".rodata.shared") = {};
const struct waggle_code_layout shared_code_layout SEC(".rodata.shared") = {};
const struct waggle_code_event shared_code_event SEC(".rodata.shared") = {};
const struct waggle_table_event shared_table_event SEC(".rodata.shared") = {};
const struct waggle_tls_layout shared_tls_layout SEC(".rodata.shared") = {};
const struct waggle_handshake shared_handshake SEC(".rodata.shared") = {};
const struct waggle_log shared_log SEC(".rodata.shared") = {};
