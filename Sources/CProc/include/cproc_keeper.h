// The keeper: a process that holds a move's descriptors and, when the mover dies, starts the program that finishes or undoes the move.
#pragma once

#include <stdint.h>
#include <sys/types.h>

/// Starts a keeper, a grandchild in a session of its own, so that no terminal signal reaches it and init reaps it. It holds nothing of the caller's but its
/// standard error, the network and other namespaces, and what it is given. Returns the caller's end of its socket (SOCK_SEQPACKET, close-on-exec).
///
/// When that end closes without a dismissal, the keeper becomes `argv` (execveat(2) of the running program's own file, also when its name has gone) with
/// `envp` (NULL: the caller's), /dev/null as standard input and output, and the descriptors it was given as 3, 4, … in the order in which it got them.
/// If even that fails, it continues the processes behind the pidfds among them (SIGCONT), so that nobody stays stopped for ever.
/// `capacity` is the most descriptors it can be given.
int cproc_keeper_start(const char *const argv[], const char *const envp[], uint32_t capacity);

/// Gives the keeper duplicates of `fds`, any number. Each message of up to 253 is acknowledged by nothing: the keeper reads them also after the caller's
/// death. E2BIG is not noticed here: what exceeds `capacity` is closed by the keeper.
int cproc_keeper_give(int keeper, const int fds[], uint32_t count);

/// Sends the keeper home: it ends, and all it holds is closed there.
int cproc_keeper_dismiss(int keeper);
