// Zstandard streams, by libzstd. It is loaded at the first use, as libcurl is (chttp.h): most starts of the tool compress nothing.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct czstd;

/// A compressor at `level` (1 to 19) that ends its frame with a checksum. 0, or -ENOMEM, or -ELIBACC when libzstd.so.1 is not installed.
int czstd_compressor(struct czstd **handle, int level);
/// A decompressor; it refuses a window beyond 128 MiB. Results as above.
int czstd_decompressor(struct czstd **handle);
void czstd_free(struct czstd *handle);

/// Compresses some of `*length` bytes into `*capacity` bytes of `output`, and puts into both how many it used. With `end`, and nothing left to take,
/// it returns 0 when the frame is complete; a positive number: call again. -EIO: libzstd failed (czstd_problem).
int czstd_compress(struct czstd *handle, const void *input, size_t *length, void *output, size_t *capacity, int end);
/// Decompresses likewise; skippable frames are skipped. 0: a frame has just ended, -EBADMSG: the bytes are damaged or are no Zstandard (czstd_problem).
int czstd_decompress(struct czstd *handle, const void *input, size_t *length, void *output, size_t *capacity);
/// libzstd's words for the last failure, static.
const char *czstd_problem(const struct czstd *handle);
