// A file server in which three processes serve each client, and whose sessions can move with all that is between them.
//
//     client ──TCP──> front ──Unix sockets──> worker ──pipe──> logger
//
// The client sends lines, "GET NAME"; the answer is "OK SIZE" and the file, or "ERR REASON". A request needs no answer before the next one.
// What makes the sessions movable is in park.c and takeover.c, or with libsc in member.c, and in one rule that the three loops keep: nothing blocks, and what is half done is in
// the session's state, so that each may stop at the top of its loop.
#pragma once

#include <poll.h>
#include <stdint.h>
#include <sys/types.h>

enum { LINE = 256, CHUNK = 16384 };

/// What is half done. It lies in a file that the three processes share: whoever moves the session reads it when they have stopped.
struct state {
    struct {
        uint32_t length, used; // of `in`: read from the client; of those, given to the worker
        uint32_t out_length, out_sent;
        char in[4096], out[CHUNK];
        uint8_t ended; // the client sends nothing more
    } front;
    struct {
        uint64_t requests;
        uint32_t out_length, line_length; // what could not be sent yet
        uint64_t size;
        char out[CHUNK], line[LINE], name[LINE];
    } worker;
    struct {
        uint32_t length;
        char line[4096];
    } logger;
};

/// The descriptors of a session: in each process only its own are open, the others are -1.
struct session {
    struct state *state;
    int tcp, to_worker; // front
    int to_front, log, file; // worker; `file`: what is being sent, read from where its position is
    int lines, log_file; // logger
    char state_path[4096];
    unsigned char group[16]; // names the session among the members of a service
    int slow; // milliseconds that the logger takes for a line: a pipe with something in it, for tests
};

/// One of which nothing is open.
struct session no_session(void);

extern const char *log_path, *state_directory;

/// Waits for events; returns when there are some. Parks when it was asked to.
void wait_for(int first, short first_events, int second, short second_events, int timeout_ms);
/// SIGUSR1 waits until the process expects it; in force in all processes from the start.
void block_signals(void);
/// From here on SIGUSR1, or the service's agent, parks this process; called once in each.
void expect_parking(const char *name, struct session *session);

/// The processes are members of the service "files" (libsc).
extern int is_member;
void join_session(const char *name, struct session *session);
/// As poll(2), with `fds[0]` for the library; returns only while the session is served here.
void wait_as_member(struct pollfd *fds, nfds_t count, int timeout_ms);
/// As recv(2) and send(2) with these flags, or read(2) and write(2) without any. A member keeps a log of both, so that another process can go on in its
/// place should it be killed.
ssize_t read_channel(int fd, void *bytes, size_t length, int flags);
ssize_t write_channel(int fd, const void *bytes, size_t length, int flags);
/// All that it has taken is done: a member's successor begins here.
void is_whole(void);
/// Becomes a part of a session that comes. Does not return.
void run_spare(const char *name, int taken);

/// A process that waits for a client, or for a part of a session; `kind`: 'c', or the part's first letter. It says so when it has one.
struct taken {
    pid_t pid;
    char kind;
};
void tell_taken(int taken, char kind);
int slow_log(void);

void run_front(struct session *session);
void run_worker(struct session *session);
void run_logger(struct session *session);

/// Maps a state file of its own for the session, filled from `from` (-1: empty).
void make_state(struct session *session, int from);
/// Makes this process the front, and forks the other two. Does not return.
void serve(struct session *session);

/// Takes the descriptors that `restore --exec` or `migrate --exec` has passed to this process (sd_listen_fds(3)).
void adopt(void);
/// Takes sessions over a Unix socket, for ever (docs/acceptors.md).
void accept_sessions(const char *path);
