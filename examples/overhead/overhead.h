// What the measurements of libsc's cost have in common: a server with one connection for each way to do the same, and a client that uses them in turn.
#pragma once

#include <sc.h>
#include <stddef.h>
#include <stdint.h>

struct session {
    int fd, way;
    sc_continuation_t *continuation;
    size_t held; // of the request, what is there
};

/// One comparison. `against`: for each way the one that its ratio is taken to.
struct comparison {
    const char *title;
    int ways;
    const char *const *names;
    const int *against;
    size_t request, answer; // bytes
    /// Makes the session one that libsc knows, if its way is one with it. Ends the process when that fails.
    void (*begin)(struct session *session);
    /// The socket is readable: 0 at its end.
    int (*serve)(struct session *session);
};

#define MOST_WAYS 16
/// The most bytes of a request.
#define LARGEST 65536
/// What a server with a few fields of state exports.
#define STATE 100

/// The process's parts: with SC_SURVIVE, and without.
extern sc_t *lasting, *passing;

void measure(const struct comparison *comparison, int rounds);

void compare_echo(size_t size, int rounds);
void compare_files(size_t size, int rounds);

/// Ends the process unless it is true: nobody measures what has failed.
void expect(int is_right);
