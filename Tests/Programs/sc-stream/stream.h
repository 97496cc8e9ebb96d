// The parts of sc-stream: its options, its connections and the loop that serves them.
#pragma once

#include <stdint.h>
#include <stdio.h>

/// What the command line or, for an adopter, the state file says.
struct options {
    uint64_t seed;
    uint64_t bytes;       // the client stops after so many each way; 0: no limit
    uint64_t rate;        // bytes per second to send; 0: as fast as it goes
    uint64_t period_us;   // send one chunk per period; 0: no ticking
    uint64_t chunk;       // bytes of a tick
    uint64_t connections; // how many to open or accept
    double seconds;       // the client stops after so long; 0: no limit
    int no_read;          // do not read before the end
    int64_t corrupt_at;   // send a wrong byte at this offset; -1: never
    const char *state;    // the server writes its state file here at the first accept
};

/// One connection and what is known of both directions.
struct connection {
    int fd;
    uint64_t sent, received;
    uint64_t base_sent;          // of an adopted connection: where this process began
    int64_t mismatch;            // offset of the first wrong byte, or -1
    uint64_t last_byte_ns;       // when the last byte arrived
    uint64_t largest_gap_ns, recent_gap_ns;     // between two arrivals
    uint64_t gap_at_ns;          // when the largest gap began, since the start
    int sending_over, receiving_over;
    const char *failed;          // the call that failed, or NULL
    int error;
};

enum role { CLIENT, SERVER };

/// Takes "name=value" or "--name value" into the options. 0 when the name is unknown, 2 when the option takes no value, else 1.
int set_option(struct options *options, const char *name, const char *value);
/// Writes the options that an adopter needs as `name=value` lines. 0 or -1.
int write_state(const struct options *options, const char *path);
/// Reads such a file. 0 or -1.
int read_state(struct options *options, const char *path);

/// Serves the connections (and, for a server, accepts up to `options->connections` on `listener`, else -1) until all have ended or SIGTERM
/// came. Returns 1 when it came to the end by itself.
int serve(enum role role, const struct options *options, struct connection *connections, int count, int listener);

/// A sender of ticks does as every program of its kind: no tick waits for the acknowledgement of the one before it. Without it two ends in step
/// hold their ticks back for each other's delayed ACKs until a segment is full.
void prompt(const struct options *options, int fd);

/// Takes sessions that are offered on the Unix socket `path` (docs/acceptors.md), each in a child of its own, until it is killed.
int accept_sessions(const char *path);

/// Prints the result as one JSON document. Returns the exit status: 0 when every byte was right and nothing failed.
int report(FILE *out, const char *role, const struct connection *connections, int count, int complete);
