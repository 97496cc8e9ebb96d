// HTTP POST over one kept connection, by libcurl.

#include "chttp.h"

#include <curl/curl.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_ANSWER = 4 << 20 };

struct chttp {
    CURL *curl;
    struct curl_slist *fields;
    char *answer;
    size_t length, capacity;
    int too_long;
};

// The functions of libcurl.so.4 that are used. curl.h wraps curl_easy_setopt in a macro that checks types, hence the other names.
static struct {
    CURLcode (*global_init)(long flags);
    CURL *(*init)(void);
    CURLcode (*set)(CURL *curl, CURLoption option, ...);
    CURLcode (*perform)(CURL *curl);
    CURLcode (*info)(CURL *curl, CURLINFO info, ...);
    void (*cleanup)(CURL *curl);
    struct curl_slist *(*append)(struct curl_slist *list, const char *text);
    void (*free_all)(struct curl_slist *list);
} lib;
static int is_loaded;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void load(void) {
    void *object = dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL);
    if (!object)
        return;
    *(void **)&lib.global_init = dlsym(object, "curl_global_init");
    *(void **)&lib.init = dlsym(object, "curl_easy_init");
    *(void **)&lib.set = dlsym(object, "curl_easy_setopt");
    *(void **)&lib.perform = dlsym(object, "curl_easy_perform");
    *(void **)&lib.info = dlsym(object, "curl_easy_getinfo");
    *(void **)&lib.cleanup = dlsym(object, "curl_easy_cleanup");
    *(void **)&lib.append = dlsym(object, "curl_slist_append");
    *(void **)&lib.free_all = dlsym(object, "curl_slist_free_all");
    if (lib.global_init && lib.init && lib.set && lib.perform && lib.info && lib.cleanup && lib.append && lib.free_all)
        is_loaded = lib.global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
}

static size_t collect(char *data, size_t size, size_t count, void *context) {
    struct chttp *handle = context;
    size_t more = size * count;
    if (handle->length + more > LONGEST_ANSWER) {
        handle->too_long = 1;
        return 0;
    }
    if (handle->length + more > handle->capacity) {
        size_t capacity = (handle->length + more) * 2;
        char *answer = realloc(handle->answer, capacity);
        if (!answer)
            return 0;
        handle->answer = answer;
        handle->capacity = capacity;
    }
    memcpy(handle->answer + handle->length, data, more);
    handle->length += more;
    return more;
}

int chttp_open(struct chttp **out) {
    pthread_once(&once, load);
    if (!is_loaded)
        return -ELIBACC;
    struct chttp *handle = calloc(1, sizeof *handle);
    if (!handle)
        return -ENOMEM;
    handle->curl = lib.init();
    // "Expect:" empty: libcurl would wait for "100 Continue" before a longer body, a round trip within the blackout.
    handle->fields = lib.append(NULL, "Content-Type: application/json");
    if (!handle->curl || !handle->fields || !lib.append(handle->fields, "Expect:")) {
        chttp_close(handle);
        return -ENOMEM;
    }
    lib.set(handle->curl, CURLOPT_NOSIGNAL, 1L);
    lib.set(handle->curl, CURLOPT_PROXY, "");
    lib.set(handle->curl, CURLOPT_PROTOCOLS_STR, "http");
    lib.set(handle->curl, CURLOPT_TCP_NODELAY, 1L);
    lib.set(handle->curl, CURLOPT_TCP_KEEPALIVE, 1L);
    lib.set(handle->curl, CURLOPT_HTTPHEADER, handle->fields);
    lib.set(handle->curl, CURLOPT_WRITEFUNCTION, collect);
    lib.set(handle->curl, CURLOPT_WRITEDATA, handle);
    *out = handle;
    return 0;
}

void chttp_close(struct chttp *handle) {
    if (!handle)
        return;
    if (handle->curl)
        lib.cleanup(handle->curl);
    lib.free_all(handle->fields);
    free(handle->answer);
    free(handle);
}

static int negative_errno(const struct chttp *handle, CURLcode code) {
    if (handle->too_long)
        return -EMSGSIZE;
    switch (code) {
    case CURLE_OPERATION_TIMEDOUT:
        return -ETIMEDOUT;
    case CURLE_COULDNT_CONNECT:
        return -ECONNREFUSED;
    case CURLE_COULDNT_RESOLVE_HOST:
        return -EHOSTUNREACH;
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_PARTIAL_FILE:
        return -ECONNRESET;
    default:
        return -EIO;
    }
}

int chttp_post(struct chttp *handle, const char *url, const void *body, size_t length, int timeout_ms) {
    handle->length = 0;
    handle->too_long = 0;
    lib.set(handle->curl, CURLOPT_URL, url);
    lib.set(handle->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)length);
    lib.set(handle->curl, CURLOPT_POSTFIELDS, body);
    lib.set(handle->curl, CURLOPT_TIMEOUT_MS, (long)(timeout_ms > 0 ? timeout_ms : 1));
    CURLcode code = lib.perform(handle->curl);
    if (code != CURLE_OK)
        return negative_errno(handle, code);
    long status = 0;
    lib.info(handle->curl, CURLINFO_RESPONSE_CODE, &status);
    return (int)status;
}

const void *chttp_answer(const struct chttp *handle, size_t *length) {
    *length = handle->length;
    return handle->answer;
}
