// The content that both ends of a test stream can compute: byte `offset` depends on nothing but the seed and the offset.
#include "csupport.h"

#include <string.h>

/// The finaliser of splitmix64: neighbouring inputs give unrelated outputs.
static uint64_t mix(uint64_t value) {
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
    value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
    return value ^ (value >> 31);
}

void csupport_content(uint64_t seed, uint64_t offset, void *out, size_t length) {
    unsigned char *bytes = out;
    uint64_t key = mix(seed + 0x9e3779b97f4a7c15);
    while (length > 0) {
        uint64_t word = mix(key + (offset / 8) * 0x9e3779b97f4a7c15);
        size_t skip = offset % 8, take = 8 - skip < length ? 8 - skip : length;
        memcpy(bytes, (unsigned char *)&word + skip, take);
        bytes += take;
        offset += take;
        length -= take;
    }
}

int64_t csupport_content_mismatch(uint64_t seed, uint64_t offset, const void *bytes, size_t length) {
    unsigned char expected[4096];
    for (size_t done = 0; done < length;) {
        size_t take = length - done < sizeof expected ? length - done : sizeof expected;
        csupport_content(seed, offset + done, expected, take);
        const unsigned char *found = (const unsigned char *)bytes + done;
        if (memcmp(expected, found, take) != 0)
            for (size_t i = 0; i < take; i++)
                if (expected[i] != found[i])
                    return (int64_t)(offset + done + i);
        done += take;
    }
    return -1;
}
