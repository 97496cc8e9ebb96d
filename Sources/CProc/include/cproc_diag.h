// SOCK_DIAG netlink (sock_diag(7)): every socket of a network namespace in one dump.
#pragma once

#include "cproc_socket.h"

struct cproc_inet_diag {
    struct cproc_endpoint local, peer;
    uint32_t receive_queue, send_queue; // of a listener: pending and backlog
    uint32_t uid;
    uint64_t inode, cookie;
    uint8_t family, protocol, state;
    char congestion[16];  // empty when not asked for or not a TCP socket
    uint8_t has_md5, has_ulp; // INET_DIAG_MD5SIG with at least one key; INET_DIAG_ULP_INFO (kTLS, MPTCP)
    char ulp[16];
};

struct cproc_unix_diag {
    uint64_t inode, peer_inode; // peer 0: none
    uint8_t type, state;        // SOCK_STREAM...; TCP_ESTABLISHED, TCP_LISTEN, TCP_CLOSE
    uint8_t shutdown;
    uint32_t receive_queue, send_queue;
    char name[109]; // an abstract name starts with '@'; empty: unnamed
};

/// A NETLINK_SOCK_DIAG socket of the calling thread's network namespace (make it inside cproc_in_netns, use it anywhere).
int cproc_diag_open(void);

/// Dumps IPv4 or IPv6 sockets of `protocol` (IPPROTO_TCP, IPPROTO_UDP) whose state's bit is in `states` (1 << state) and calls `each`
/// for every one. `each` returns 0 to go on; anything else ends the dump and is returned. A dump that the kernel marks as interrupted
/// (NLM_F_DUMP_INTR) is done again up to three times, `restart` (may be NULL) being called before each; then it is EAGAIN.
/// `extensions` != 0 asks for congestion, ULP and MD5 as well (slower); without CAP_NET_ADMIN the kernel shows no MD5 keys.
int cproc_diag_inet(int netlink, uint8_t family, uint8_t protocol, uint32_t states, int extensions,
                    int (*each)(const struct cproc_inet_diag *socket, void *context), void (*restart)(void *context), void *context);
int cproc_diag_unix(int netlink, int (*each)(const struct cproc_unix_diag *socket, void *context), void (*restart)(void *context),
                    void *context);

/// One Unix socket, by inode. ENOENT: the namespace has none with it.
int cproc_diag_unix_one(int netlink, uint64_t inode, struct cproc_unix_diag *socket);
