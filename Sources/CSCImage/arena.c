/* arena.c - a bump allocator with a ceiling, so that a hostile record cannot make protobuf-c allocate without bounds. */
#include "CSCImage.h"

#include <sys/mman.h>

/* A record that used more than this gives its pages back at the next reset. */
#define KEEP_RESIDENT ((size_t)256 << 10)
#define HEADER ((sizeof(struct csci_arena) + 15) & ~(size_t)15)

static void *alloc_cb(void *data, size_t size)
{
    return csci_arena_alloc(data, size);
}

static void free_cb(void *data, void *pointer)
{
    (void)data;
    (void)pointer;
}

struct csci_arena *csci_arena_new(size_t budget)
{
    if (budget > SIZE_MAX / 2)
        return NULL;
    struct csci_arena *arena = mmap(NULL, HEADER + budget, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena == MAP_FAILED)
        return NULL;
    arena->allocator = (ProtobufCAllocator){ .alloc = alloc_cb, .free = free_cb, .allocator_data = arena };
    arena->budget = budget;
    return arena;
}

void *csci_arena_alloc(struct csci_arena *arena, size_t size)
{
    size_t start = (arena->used + 15) & ~(size_t)15;
    if (start > arena->budget || size > arena->budget - start) {
        arena->exceeded = true;
        return NULL;
    }
    arena->used = start + size;
    return (char *)arena + HEADER + start;
}

void csci_arena_reset(struct csci_arena *arena)
{
    if (arena->used > KEEP_RESIDENT) {
        char *end = (char *)arena + HEADER + arena->used;
        char *keep = (char *)(((uintptr_t)arena + HEADER + KEEP_RESIDENT + 4095) & ~(uintptr_t)4095);
        if (end > keep)
            madvise(keep, (size_t)(end - keep), MADV_DONTNEED);
    }
    arena->used = 0;
    arena->exceeded = false;
}

void csci_arena_free(struct csci_arena *arena)
{
    if (arena)
        munmap(arena, HEADER + arena->budget);
}
