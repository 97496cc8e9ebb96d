// What the parts of mod_sc share: a connection as the module sees it, and the functions between the files.
#pragma once

#include "continuation.h"
#include "journal.h"

#include <httpd.h>
#include <http_config.h>
#include <util_filter.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

extern module AP_MODULE_DECLARE_DATA sc_module __attribute__((visibility("default")));

/// Which requests may be carried out again on the target (SCRepeat).
enum repeat { REPEAT_UNSET, REPEAT_SAFE, REPEAT_ALL, REPEAT_NONE };

struct server_conf {
    const char *service; // NULL: off
    int sessions, request_max;
    int follows_tls; // -1: as the main server
};
struct dir_conf {
    enum repeat repeat;
};

/// A session that has come, until it is live here.
struct arrival {
    int control; // the broker
    struct continuation from;
    bool is_live;
};

/// How the output of a response that began elsewhere is matched to what the client has.
struct replay {
    uint64_t skip;   // payload bytes that the client has still to be spared
    uint64_t rest;   // of the interrupted chunk
    uint32_t head_length; // of this server's own block at hand, in `head`
    bool is_whole;        // the end of the body has been announced to the client
    bool is_chunked_here; // this server's own
    uint64_t announced;   // the body's length, when the source's chunks have to be made of a body without any
    bool is_verified;     // what was produced here is what the source had produced
    apr_bucket_brigade *kept; // what the client has to get, until that is certain
    apr_pool_t *kept_pool;
    char head[SC_HEAD_MAX];
};

struct connection {
    struct slot *slot; // NULL: it is not followed
    conn_rec *c;
    apr_socket_t *socket;
    int fd;
    ap_filter_t *core; // the core's output filter

    // The response at hand (response.c).
    enum { BEFORE_HEAD, IN_HEAD, IN_BODY, UNNOTED } at;
    uint32_t block_begin; // of the head's block at hand: there may be interim responses before
    uint32_t unnoted;     // responses that found no place
    bool has_t;           // a field of the head may be Transfer-Encoding
    enum { CHUNK_SIZE, CHUNK_PAYLOAD, CHUNK_END, CHUNK_TRAILER, CHUNK_DONE } chunk_at;
    uint64_t chunk_size, chunk_left;
    int chunk_line;
    uint64_t file_size; // of the request's file
    int64_t file_time;
    const char *file_name;
    bool has_digest;
    XXH3_state_t *digest;

    // What the core may keep since it was last empty (flow.c).
    apr_size_t held_bytes, held_ends;

    struct arrival *arrival;
    struct replay *replay;
    struct tls_following *tls; // NULL: plain text, or it is not followed
};

static inline struct connection *connection_of(conn_rec *c) { return ap_get_module_config(c->conn_config, &sc_module); }

// directives.c
extern const command_rec directives[];
void *make_server_conf(apr_pool_t *p, server_rec *server);
void *merge_server_conf(apr_pool_t *p, void *base, void *more);
void *make_dir_conf(apr_pool_t *p, char *dir);
void *merge_dir_conf(apr_pool_t *p, void *base, void *more);

// region.c: memory, slots, and the gate.
extern struct region *sc_region;
extern int sc_notes[2]; // the processes that serve write [1], the broker reads [0]
apr_status_t region_make(apr_pool_t *process, int sessions, int request_max);
struct slot *slot_take(int pid);
void slot_release(struct slot *slot);
/// Anybody may take it.
void slot_free(struct slot *slot);
/// Nothing stays of a connection that is over: keys, and long requests.
void slot_forget(struct slot *slot);
/// Tells the broker; false: it was lost. `fd` -1: none goes along.
bool note_send(int type, struct slot *slot, int fd);
/// The connection outlives the moment: the broker gets to know it.
void note_lasting(struct connection *connection);
void gate_wait(struct connection *connection);
void gate_open(struct slot *slot, enum freeze freeze);

/// Socket and journal are this thread's until leave(). False: the session has gone; the connection is aborted.
static inline bool enter(struct connection *connection) {
    struct slot *slot = connection->slot;
    if (slot == NULL) return true;
    for (;;) {
        atomic_store(&slot->busy, 1);
        uint32_t freeze = atomic_load(&slot->freeze);
        if (freeze == SERVED) return true;
        atomic_store(&slot->busy, 0);
        if (freeze == GONE) {
            connection->c->aborted = 1;
            return false;
        }
        gate_wait(connection);
    }
}
static inline void leave(struct connection *connection) {
    if (connection->slot) atomic_store_explicit(&connection->slot->busy, 0, memory_order_release);
}

// input.c
void input_register(void);
void input_install(struct connection *connection);
/// A filter: what it gives out has been taken.
apr_status_t input_count(ap_filter_t *f, apr_bucket_brigade *bb, ap_input_mode_t mode, apr_read_type_e block, apr_off_t bytes);
void input_append(struct slot *slot, const char *bytes, apr_size_t length);
void input_trim(struct slot *slot, uint64_t to);
/// Nothing but its first bytes is needed any longer of so many that were kept.
void input_forget(struct slot *slot, uint64_t kept);

// response.c: notes what passes. `bb` may be changed; the error is that of reading a bucket.
apr_status_t response_note(struct connection *connection, apr_bucket_brigade *bb);
struct response *response_open(struct connection *connection);
void response_end(struct connection *connection);
void response_head_is_done(struct connection *connection, struct response *response);
void body_add(struct connection *connection, struct response *response, apr_bucket *b, apr_size_t length);
void body_seal(struct connection *connection, struct response *response);
const char *head_field(const char *head, apr_size_t length, const char *name, apr_size_t *value_length);
enum token { TOKEN_FRAME, TOKEN_PAYLOAD, TOKEN_END };
/// The length of the first piece of `bytes` that is of one kind; TOKEN_END ends the body.
apr_size_t chunk_token(struct connection *connection, const char *bytes, apr_size_t length, enum token *token);
void chunk_note(struct slot *slot, int64_t position, int64_t payload, int64_t length);

// replay.c: makes `bb` what the client has still to get, and notes it.
void replay_begin(struct connection *connection);
apr_status_t replay_filter(struct connection *connection, apr_bucket_brigade *bb);
/// Refuses the session; an error that ends the connection.
apr_status_t replay_differ(struct connection *connection, const char *what);
/// As much has been produced here as there: is it the same? Then the session is live.
apr_status_t replay_verify(struct connection *connection);
void replay_put(struct connection *connection, apr_bucket_brigade *out, const char *bytes, apr_size_t length);
/// A bucket of payload, or its first piece; what is behind that follows `b`. Of the piece `out` gets what the client has not.
apr_status_t replay_payload(struct connection *connection, apr_bucket *b, apr_bucket_brigade *out);

// replay_chunks.c
/// The source's chunk goes on to its announced end, and the journal has it so that the session can move again.
void replay_continue_chunks(struct connection *connection, apr_bucket_brigade *out);
/// Begins a chunk of this server's own.
void replay_chunk(struct connection *connection, apr_bucket_brigade *out, uint64_t payload, apr_size_t length);
/// A bucket of a body that this server has put into chunks, or its first piece.
apr_status_t replay_chunked(struct connection *connection, apr_bucket *b, apr_bucket_brigade *out);
/// The body has come to its end here.
apr_status_t replay_end(struct connection *connection, apr_bucket_brigade *out);

// replay_head.c: takes a bucket of the head, and no more of it.
apr_status_t replay_head(struct connection *connection, apr_bucket *b, apr_bucket_brigade *out);

// flow.c
void flow_register(void);
/// Takes the limits at which the core would wait.
void flow_take_over(server_rec *server);
void flow_install(struct connection *connection);
/// Notes plaintext above mod_ssl. APR_EAGAIN: the session has not arrived yet, and is silent.
apr_status_t flow_note(struct connection *connection, apr_bucket_brigade *bb);

// arrival.c
int arrival_listen(apr_pool_t *p, server_rec *server);
conn_rec *arrival_create_connection(apr_pool_t *p, server_rec *server, apr_socket_t *socket, long id, void *sbh, apr_bucket_alloc_t *alloc);
struct arrival *arrival_find(conn_rec *c);
/// Tells the broker that the session can be served here, and waits until it is live. False: it does not come; the connection is aborted.
bool arrival_accept(struct connection *connection);
/// The same, and between enter() and leave() when it was not live before; then arrival_leave() follows, which is false when the connection is lost.
bool arrival_enter(struct connection *connection);
bool arrival_leave(struct connection *connection);
void arrival_refuse(struct connection *connection, int error, const char *reason);

// broker.c
/// Starts it, unless one runs since before a restart. `process` lives as long as the server, `configuration` until a restart.
int broker_start(apr_pool_t *process, apr_pool_t *configuration, server_rec *server, const char *service);

// regain.c
/// Tells a new broker of the connections that live.
void regain_all(server_rec *server);
