// A file server: a request of 64 bytes is answered with a file's content, read and written in pieces of 64 KiB or by sendfile.

#include "overhead.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <unistd.h>

enum way {
    WRITTEN, CONTROL, WRITTEN_LINKED, WRITTEN_LOGGED, WRITTEN_OFTEN, IN_PLACE, SENT, SENT_LINKED, SENT_LOGGED, SENT_OFTEN, WAYS,
};
static const char *const names[WAYS] = {
    [WRITTEN] = "read and written", [CONTROL] = "the same again (control)", [WRITTEN_LINKED] = "associated, export after each answer",
    [WRITTEN_LOGGED] = "log, export after each answer", [WRITTEN_OFTEN] = "log, export after each 64 KiB",
    [IN_PLACE] = "the same, by sc_sendfile", [SENT] = "sendfile",
    [SENT_LINKED] = "associated, export after each answer", [SENT_LOGGED] = "log, export after each answer",
    [SENT_OFTEN] = "log, export after each 64 KiB"};
static const int against[WAYS] = {[SENT] = SENT, [SENT_LINKED] = SENT, [SENT_LOGGED] = SENT, [SENT_OFTEN] = SENT};

#define REQUEST 64
#define PIECE 65536

static size_t size;
static int file;

static int has_log(const struct session *s) {
    return s->way == WRITTEN_LOGGED || s->way == WRITTEN_OFTEN || s->way == IN_PLACE || s->way == SENT_LOGGED || s->way == SENT_OFTEN;
}

static void begin(struct session *s) {
    if (s->way == WRITTEN || s->way == CONTROL || s->way == SENT) return;
    expect(sc_create(has_log(s) ? lasting : passing, s, &s->continuation) == 0 && sc_associate(s->continuation, s->fd, "client") == 0);
    if (has_log(s)) expect(sc_log(s->continuation, s->fd, 0) == 0 && sc_export(s->continuation, s, 4) == 0);
}

/// How far the file has been sent, among the rest of a state.
static void keep(struct session *s, size_t done) {
    unsigned char state[STATE] = {0};
    memcpy(state, &done, sizeof done);
    expect(sc_export(s->continuation, state, sizeof state) == 0);
}

static ssize_t write_piece(struct session *s, size_t done, size_t length) {
    static unsigned char bytes[PIECE];
    expect(pread(file, bytes, length, (off_t)done) == (ssize_t)length);
    // What is associated without a log is written as ever.
    return has_log(s) ? sc_send(s->continuation, s->fd, bytes, length, MSG_NOSIGNAL) : send(s->fd, bytes, length, MSG_NOSIGNAL);
}

static ssize_t send_piece(struct session *s, size_t done, size_t length) {
    off_t offset = (off_t)done;
    return has_log(s) ? sc_sendfile(s->continuation, s->fd, file, &offset, length) : sendfile(s->fd, file, &offset, length);
}

static void answer(struct session *s) {
    int is_sent = s->way >= IN_PLACE, is_often = s->way == WRITTEN_OFTEN || s->way == IN_PLACE || s->way == SENT_OFTEN;
    for (size_t done = 0; done < size;) {
        // One call for all, unless it is read or exported in pieces.
        size_t left = size - done, length = left > PIECE && (!is_sent || is_often) ? PIECE : left;
        ssize_t count = is_sent ? send_piece(s, done, length) : write_piece(s, done, length);
        expect(count > 0);
        done += (size_t)count;
        if (is_often && done < size) keep(s, done);
    }
    if (s->continuation) keep(s, 0);
}

static int serve(struct session *s) {
    unsigned char request[REQUEST];
    size_t room = REQUEST - s->held;
    ssize_t count = has_log(s) ? sc_recv(s->continuation, s->fd, request, room, MSG_DONTWAIT) : recv(s->fd, request, room, MSG_DONTWAIT);
    if (count > 0 && (s->held += (size_t)count) == REQUEST) {
        s->held = 0;
        answer(s);
    }
    return count != 0;
}

void compare_files(size_t bytes, int rounds) {
    char title[64], name[] = "/tmp/overhead.XXXXXX";
    snprintf(title, sizeof title, "a file of %zu bytes", size = bytes);
    file = mkstemp(name);
    unlink(name);
    char block[4096];
    memset(block, 'a', sizeof block);
    for (size_t done = 0; done < size; done += sizeof block) expect(write(file, block, sizeof block) == sizeof block);
    measure(&(struct comparison){title, WAYS, names, against, REQUEST, size, begin, serve}, rounds);
    close(file);
}
