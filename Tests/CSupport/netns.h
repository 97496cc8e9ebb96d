// A function run on a thread of its own inside a network namespace.
#pragma once

/// Runs `body(context)` on a fresh thread that has entered the namespace and ends afterwards; its result, or -errno.
int csupport_in_netns(int netns_fd, int (*body)(void *context), void *context);
