// Processes that watch over their creator: grandchildren in a session of their own.
#pragma once

/// Runs `body`, which does not return, in a grandchild of its own session: no terminal signal reaches it, and init reaps it. `name` is its name in ps(1)
/// from its first instant, so that whoever looks for the creator's processes by name never finds it among them. All signals are blocked in it.
/// Only async-signal-safe calls are allowed in `body`: the creator may have threads. Returns 0, or -errno when there is no such process.
int start_detached(const char *name, void (*body)(void *context), void *context);
