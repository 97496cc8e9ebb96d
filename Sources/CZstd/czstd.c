// Zstandard streams, by libzstd.

#include "czstd.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <zstd.h>

struct czstd {
    ZSTD_CCtx *compressor;
    ZSTD_DCtx *decompressor;
    size_t result;
};

// The functions of libzstd.so.1 that are used.
static struct {
    ZSTD_CCtx *(*create_c)(void);
    ZSTD_DCtx *(*create_d)(void);
    size_t (*free_c)(ZSTD_CCtx *context);
    size_t (*free_d)(ZSTD_DCtx *context);
    size_t (*set)(ZSTD_CCtx *context, ZSTD_cParameter parameter, int value);
    size_t (*compress)(ZSTD_CCtx *context, ZSTD_outBuffer *output, ZSTD_inBuffer *input, ZSTD_EndDirective end);
    size_t (*decompress)(ZSTD_DCtx *context, ZSTD_outBuffer *output, ZSTD_inBuffer *input);
    unsigned (*is_error)(size_t result);
    const char *(*error_name)(size_t result);
} lib;
static int is_loaded;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void load(void) {
    void *object = dlopen("libzstd.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!object)
        return;
    *(void **)&lib.create_c = dlsym(object, "ZSTD_createCCtx");
    *(void **)&lib.create_d = dlsym(object, "ZSTD_createDCtx");
    *(void **)&lib.free_c = dlsym(object, "ZSTD_freeCCtx");
    *(void **)&lib.free_d = dlsym(object, "ZSTD_freeDCtx");
    *(void **)&lib.set = dlsym(object, "ZSTD_CCtx_setParameter");
    *(void **)&lib.compress = dlsym(object, "ZSTD_compressStream2");
    *(void **)&lib.decompress = dlsym(object, "ZSTD_decompressStream");
    *(void **)&lib.is_error = dlsym(object, "ZSTD_isError");
    *(void **)&lib.error_name = dlsym(object, "ZSTD_getErrorName");
    is_loaded = lib.create_c && lib.create_d && lib.free_c && lib.free_d && lib.set && lib.compress && lib.decompress && lib.is_error &&
                lib.error_name;
}

static int make(struct czstd **out) {
    pthread_once(&once, load);
    if (!is_loaded)
        return -ELIBACC;
    *out = calloc(1, sizeof **out);
    return *out ? 0 : -ENOMEM;
}

int czstd_compressor(struct czstd **out, int level) {
    int made = make(out);
    if (made < 0)
        return made;
    (*out)->compressor = lib.create_c();
    if ((*out)->compressor && !lib.is_error(lib.set((*out)->compressor, ZSTD_c_compressionLevel, level)) &&
        !lib.is_error(lib.set((*out)->compressor, ZSTD_c_checksumFlag, 1)))
        return 0;
    czstd_free(*out);
    return -ENOMEM;
}

int czstd_decompressor(struct czstd **out) {
    int made = make(out);
    if (made < 0)
        return made;
    (*out)->decompressor = lib.create_d();
    if ((*out)->decompressor)
        return 0;
    czstd_free(*out);
    return -ENOMEM;
}

void czstd_free(struct czstd *handle) {
    if (!handle)
        return;
    lib.free_c(handle->compressor);
    lib.free_d(handle->decompressor);
    free(handle);
}

int czstd_compress(struct czstd *handle, const void *input, size_t *length, void *output, size_t *capacity, int end) {
    ZSTD_inBuffer in = {input, *length, 0};
    ZSTD_outBuffer out = {output, *capacity, 0};
    handle->result = lib.compress(handle->compressor, &out, &in, end ? ZSTD_e_end : ZSTD_e_continue);
    *length = in.pos;
    *capacity = out.pos;
    if (lib.is_error(handle->result))
        return -EIO;
    return handle->result != 0;
}

int czstd_decompress(struct czstd *handle, const void *input, size_t *length, void *output, size_t *capacity) {
    ZSTD_inBuffer in = {input, *length, 0};
    ZSTD_outBuffer out = {output, *capacity, 0};
    handle->result = lib.decompress(handle->decompressor, &out, &in);
    *length = in.pos;
    *capacity = out.pos;
    if (lib.is_error(handle->result))
        return -EBADMSG;
    return handle->result != 0;
}

const char *czstd_problem(const struct czstd *handle) { return lib.error_name(handle->result); }
