// Sessions that come from another host: by --exec into a new process, or over a Unix socket into one that waits for them.

#include "fileserver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/// Descriptors come by name, ROLE.NAME. `worker.file-…` is there only if a file was being sent.
static void put(struct session *session, const char *name, int fd) {
    if (strcmp(name, "front.tcp") == 0)
        session->tcp = fd;
    else if (strcmp(name, "front.unix-worker") == 0)
        session->to_worker = fd;
    else if (strcmp(name, "worker.unix-front") == 0)
        session->to_front = fd;
    else if (strcmp(name, "worker.pipe-to-logger") == 0)
        session->log = fd;
    else if (strcmp(name, "logger.pipe-from-worker") == 0)
        session->lines = fd;
    else if (strncmp(name, "worker.file-", 12) == 0)
        session->file = fd;
    else
        close(fd);
}

struct session no_session(void) {
    return (struct session){.tcp = -1, .to_worker = -1, .to_front = -1, .log = -1, .file = -1, .lines = -1, .log_file = -1};
}

static int has_all(const struct session *session) {
    return session->tcp >= 0 && session->to_worker >= 0 && session->to_front >= 0 && session->log >= 0 && session->lines >= 0;
}

void adopt(void) {
    struct session session = no_session();
    char *names = getenv("LISTEN_FDNAMES"), *state = getenv("SC_STATE_FILE");
    int fd = 3;
    for (char *name = names ? strtok(names, ":") : NULL; name; name = strtok(NULL, ":"))
        put(&session, name, fd++);
    if (!has_all(&session) || !state) {
        fprintf(stderr, "fileserver: this is not a session of mine\n");
        exit(1);
    }
    session.slow = slow_log();
    make_state(&session, fd);
    serve(&session);
}

/// The names in a session message, in the order of its descriptors. Names have no quotes and no backslashes, so looking for the key is enough.
static void take(struct session *session, char *message, const int *fds, int nfds) {
    int count = 0;
    for (char *key = strstr(message, "\"name\":\""); key && count < nfds; count++) {
        char *name = key + 8, *end = strchr(name, '"');
        if (!end)
            break;
        key = strstr(end, "\"name\":\"");
        *end = '\0';
        put(session, name, fds[count]);
    }
    session->slow = slow_log();
    // The state comes last.
    make_state(session, count < nfds ? fds[count] : -1);
}

static ssize_t receive(int connection, char *message, size_t capacity, int *fds, int *nfds) {
    char control[CMSG_SPACE(253 * sizeof(int))];
    struct iovec iovec = {message, capacity - 1};
    struct msghdr header = {.msg_iov = &iovec, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t length = recvmsg(connection, &header, MSG_CMSG_CLOEXEC);
    *nfds = 0;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(&header); length > 0 && part; part = CMSG_NXTHDR(&header, part)) {
        if (part->cmsg_type != SCM_RIGHTS)
            continue;
        *nfds = (int)((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(part), (size_t)*nfds * sizeof(int));
    }
    message[length > 0 ? length : 0] = '\0';
    return length;
}

static void say(int connection, const char *text) { send(connection, text, strlen(text), MSG_NOSIGNAL); }

/// One move: offer, session, go. The front of the session is there before it is ready, and waits for the word in a pipe.
static void take_over(int connection) {
    static char message[1 << 16];
    int fds[253], nfds, go[2] = {-1, -1};
    while (receive(connection, message, sizeof message, fds, &nfds) > 0) {
        if (strstr(message, "\"type\":\"offer\"")) {
            say(connection, "{\"type\":\"accept\"}\n");
        } else if (strstr(message, "\"type\":\"session\"") && go[0] < 0 && pipe(go) == 0) {
            pid_t front = fork();
            if (front == 0) {
                struct session session = no_session();
                char word;
                close(go[1]);
                close(connection);
                take(&session, message, fds, nfds);
                if (!has_all(&session) || read(go[0], &word, 1) != 1) {
                    unlink(session.state_path);
                    _exit(1);
                }
                close(go[0]);
                serve(&session);
            }
            close(go[0]);
            for (int i = 0; i < nfds; i++)
                close(fds[i]);
            char text[64];
            snprintf(text, sizeof text, "{\"type\":\"ready\",\"pid\":%d}\n", front);
            say(connection, text);
        } else if (strstr(message, "\"type\":\"go\"")) {
            if (write(go[1], "", 1) != 1)
                perror("go");
            break;
        } else {
            break;
        }
    }
    if (go[1] >= 0)
        close(go[1]);
}

void accept_sessions(const char *path) {
    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    unlink(path);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 8) < 0) {
        perror("fileserver: cannot listen");
        exit(1);
    }
    printf("listening\n");
    fflush(stdout);
    for (;;) {
        int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (connection < 0)
            continue;
        take_over(connection);
        close(connection);
        while (waitpid(-1, NULL, WNOHANG) > 0) {
        }
    }
}
