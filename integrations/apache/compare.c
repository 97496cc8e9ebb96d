// Whether a response's head here says that it is the one that began elsewhere.

#include "mod_sc.h"
#include <string.h>

static bool is_same(const char *a, apr_size_t a_length, const char *b, apr_size_t b_length, const char *name) {
    apr_size_t x_length = 0, y_length = 0;
    const char *x = head_field(a, a_length, name, &x_length), *y = head_field(b, b_length, name, &y_length);
    if (x == NULL || y == NULL) return x == y;
    // httpd calls an ETag weak while the file is younger than a second.
    if (x_length > 2 && memcmp(x, "W/", 2) == 0) x += 2, x_length -= 2;
    if (y_length > 2 && memcmp(y, "W/", 2) == 0) y += 2, y_length -= 2;
    return x_length == y_length && memcmp(x, y, x_length) == 0;
}

const char *compare_heads(const char *theirs, apr_size_t their_length, const char *ours, apr_size_t our_length) {
    static const char *const fields[] = {"ETag", "Last-Modified", "Content-Length", "Content-Range", "Content-Type", "Content-Encoding", "Transfer-Encoding", NULL};
    if (their_length < 12 || our_length < 12 || memcmp(theirs + 8, ours + 8, 4) != 0) return "the status of the response differs here";
    for (int i = 0; fields[i]; i++)
        if (!is_same(theirs, their_length, ours, our_length, fields[i])) {
            static const char *const texts[] = {
                "the file is another one here (ETag)", "the file is another one here (Last-Modified)", "the response has another length here",
                "the response has another range here", "the response has another type here", "the response is encoded differently here",
                "the response is transferred differently here"};
            return texts[i];
        }
    return NULL;
}
