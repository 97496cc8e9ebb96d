// sc-stream as an acceptor: takes sessions that are offered on a Unix socket, and serves each in a child that needs no exec.
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "stream.h"

/// A session between its message and the word to go.
struct offered {
    int session, state; // -1: none
    uint64_t written, read;
};

/// The number after `"name":` in the only shape the peer writes.
static uint64_t number(const char *text, const char *name) {
    const char *found = strstr(text, name);
    return found ? strtoull(found + strlen(name), NULL, 10) : 0;
}

static void drop(struct offered *offered) {
    if (offered->session >= 0)
        close(offered->session);
    if (offered->state >= 0)
        close(offered->state);
    *offered = (struct offered){.session = -1, .state = -1};
}

static _Noreturn void serve_offered(struct offered *offered) {
    // Another name than the acceptor's, so that a test can kill that one alone.
    prctl(PR_SET_NAME, "sc-streaming");
    struct options options = {.chunk = 64, .connections = 1, .corrupt_at = -1};
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", offered->state);
    if (read_state(&options, path) < 0)
        _exit(2);
    struct connection connection = {
        .fd = offered->session, .sent = offered->written, .base_sent = offered->written, .received = offered->read, .mismatch = -1};
    _exit(report(stdout, "accepted", &connection, 1, serve(SERVER, &options, &connection, 1, -1)));
}

/// One message and its descriptors; 0 at the end of the conversation.
static ssize_t receive(int conversation, char *text, size_t size, struct offered *offered) {
    char control[CMSG_SPACE(8 * sizeof(int))];
    struct iovec iovec = {.iov_base = text, .iov_len = size - 1};
    struct msghdr message = {.msg_iov = &iovec, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t length = recvmsg(conversation, &message, MSG_CMSG_CLOEXEC);
    if (length <= 0)
        return 0;
    text[length] = 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header))
        if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
            size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(&offered->session, CMSG_DATA(header), sizeof(int));
            if (count > 1)
                memcpy(&offered->state, CMSG_DATA(header) + sizeof(int), sizeof(int));
        }
    return length;
}

static void converse(int conversation) {
    static char text[65536];
    struct offered offered = {.session = -1, .state = -1};
    while (receive(conversation, text, sizeof text, &offered)) {
        const char *answer = NULL;
        if (strstr(text, "\"type\":\"offer\""))
            answer = "{\"type\":\"accept\"}\n";
        else if (strstr(text, "\"type\":\"session\"")) {
            offered.written = number(text, "\"written\":");
            offered.read = number(text, "\"read\":");
            answer = "{\"type\":\"ready\"}\n";
        } else if (strstr(text, "\"type\":\"go\"") && offered.session >= 0)
            serve_offered(&offered);
        if (answer && send(conversation, answer, strlen(answer), MSG_NOSIGNAL) < 0)
            break;
    }
    drop(&offered);
}

int accept_sessions(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    unlink(path);
    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 8) < 0) {
        fprintf(stderr, "sc-stream: %s: %s\n", path, strerror(errno));
        return 1;
    }
    signal(SIGCHLD, SIG_IGN);
    fprintf(stderr, "listening\n");
    for (;;) {
        int conversation = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (conversation < 0)
            continue;
        // Like every server that forks for a client, at once: when the session comes, its process is there.
        if (fork() == 0) {
            close(listener);
            converse(conversation);
            _exit(0);
        }
        close(conversation);
    }
}
