// Usage: fileserver serve ADDRESS PORT | member ADDRESS PORT | adopt | accept SOCKET
// In the environment: ROOT (the files), LOG, STATE_DIR; for tests SLOW_LOG (milliseconds for a line), SNDBUF (bytes), NO_LOG (a member's sessions end with
// their processes) and BUSY (SIGUSR2 sends a process into an endless loop).

#include "fileserver.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

const char *log_path, *state_directory;

int slow_log(void) { return getenv("SLOW_LOG") ? atoi(getenv("SLOW_LOG")) : 0; }

void make_state(struct session *session, int from) {
    if (is_member) {
        // Each process exports its own part by itself.
        session->state = mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (session->state == MAP_FAILED)
            exit(1);
        return;
    }
    snprintf(session->state_path, sizeof session->state_path, "%s/%d.state", state_directory, getpid());
    int file = open(session->state_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0 || ftruncate(file, sizeof(struct state)) < 0) {
        perror("fileserver: cannot make the state file");
        exit(1);
    }
    session->state = mmap(NULL, sizeof(struct state), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (session->state == MAP_FAILED)
        exit(1);
    if (from >= 0 && pread(from, session->state, sizeof(struct state), 0) != sizeof(struct state))
        memset(session->state, 0, sizeof(struct state));
    close(file);
    if (from >= 0)
        close(from);
}

static void close_all(int a, int b, int c, int d) {
    for (int *fd = (int[]){a, b, c, d}, i = 0; i < 4; i++)
        if (fd[i] >= 0)
            close(fd[i]);
}

void serve(struct session *session) {
    for (int *fd = (int[]){session->log, session->lines}, i = 0; i < 2; i++)
        fcntl(fd[i], F_SETFL, fcntl(fd[i], F_GETFL) | O_NONBLOCK);
    if (fork() == 0) {
        close_all(session->tcp, session->to_worker, session->lines, -1);
        run_worker(session);
    }
    if (fork() == 0) {
        close_all(session->tcp, session->to_worker, session->to_front, session->log);
        if (session->file >= 0)
            close(session->file);
        session->log_file = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        run_logger(session);
    }
    close_all(session->to_front, session->log, session->lines, session->file);
    run_front(session);
}

void tell_taken(int taken, char kind) {
    struct taken own = {getpid(), kind};
    if (write(taken, &own, sizeof own) != sizeof own)
        exit(1);
    close(taken);
}

/// One front, made before its client comes. It says so when it has one, and another is made.
static void wait_for_client(int listener, const int taken[2]) {
    close(taken[0]);
    struct session session = {.tcp = accept4(listener, NULL, NULL, SOCK_CLOEXEC), .file = -1, .log_file = -1};
    close(listener);
    if (session.tcp < 0)
        exit(1);
    tell_taken(taken[1], 'c');
    int bytes = getenv("SNDBUF") ? atoi(getenv("SNDBUF")) : 0;
    if (bytes)
        setsockopt(session.tcp, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    int pair[2], ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 || pipe2(ends, O_CLOEXEC) < 0)
        exit(1);
    session.to_worker = pair[0];
    session.to_front = pair[1];
    session.lines = ends[0];
    session.log = ends[1];
    session.slow = slow_log();
    if (getrandom(session.group, sizeof session.group, 0) != sizeof session.group)
        exit(1);
    make_state(&session, -1);
    serve(&session);
}

static void wake(int signal) { (void)signal; }

static void be_busy(int signal) {
    (void)signal;
    for (volatile int i = 0;; i++) {
    }
}

/// It serves a session now, or has ended.
static void forget(struct taken *spares, size_t count, pid_t pid) {
    for (size_t i = 0; i < count; i++)
        if (spares[i].pid == pid)
            spares[i].pid = 0;
}

static void become(char kind, int listener, const int taken[2]) {
    signal(SIGCHLD, SIG_DFL);
    if (kind == 'c')
        wait_for_client(listener, taken);
    close(listener);
    close(taken[0]);
    run_spare(kind == 'f' ? "front" : kind == 'w' ? "worker" : "logger", taken[1]);
}

static void listen_for_clients(const char *text, int port) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, taken[2];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    // A service's address is at home on one host at a time.
    if (is_member)
        setsockopt(listener, IPPROTO_IP, IP_FREEBIND, &one, sizeof one);
    if (inet_pton(AF_INET, text, &address.sin_addr) != 1 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(listener, 128) < 0 || pipe2(taken, O_CLOEXEC) < 0) {
        perror("fileserver: cannot listen");
        exit(1);
    }
    printf("listening\n");
    fflush(stdout);
    sigaction(SIGCHLD, &(struct sigaction){.sa_handler = wake}, NULL);
    // What has gone is made again: fronts for the next clients, and in a service one process for each part that may come.
    struct taken spares[] = {{0, 'c'}, {0, 'c'}, {0, 'f'}, {0, 'w'}, {0, 'l'}};
    size_t count = is_member ? 5 : 2;
    for (;;) {
        for (size_t i = 0; i < count; i++) {
            if (spares[i].pid == 0 && (spares[i].pid = fork()) == 0)
                become(spares[i].kind, listener, taken);
        }
        struct taken one;
        // A child's end interrupts it.
        if (read(taken[0], &one, sizeof one) == sizeof one)
            forget(spares, count, one.pid);
        for (pid_t pid; (pid = waitpid(-1, NULL, WNOHANG)) > 0;)
            forget(spares, count, pid);
    }
}

int main(int argc, char **argv) {
    log_path = getenv("LOG") ? getenv("LOG") : "/dev/null";
    state_directory = getenv("STATE_DIR") ? getenv("STATE_DIR") : "/tmp";
    if (getenv("ROOT") && chdir(getenv("ROOT")) < 0) {
        perror("fileserver: ROOT");
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    block_signals();
    if (getenv("BUSY"))
        signal(SIGUSR2, be_busy);
    is_member = argc == 4 && strcmp(argv[1], "member") == 0;
    if (is_member || (argc == 4 && strcmp(argv[1], "serve") == 0))
        listen_for_clients(argv[2], atoi(argv[3]));
    else if (argc == 2 && strcmp(argv[1], "adopt") == 0)
        adopt();
    else if (argc == 3 && strcmp(argv[1], "accept") == 0)
        accept_sessions(argv[2]);
    fprintf(stderr, "usage: fileserver serve ADDRESS PORT | member ADDRESS PORT | adopt | accept SOCKET\n");
    return 2;
}
