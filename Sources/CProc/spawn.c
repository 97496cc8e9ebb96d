// Starting programs with exactly the descriptors they are meant to have, in the network namespace they belong to.
#include <fcntl.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "cproc_process.h"
#include "result.h"

static const char listen_pid_key[] = "LISTEN_PID=";

/// Everything a child needs, prepared before it exists: the child of a multi-threaded process must not allocate.
struct launch {
    const char *const *argv;
    char **environment;
    int netns_fd;
    int first, count;    // the descriptors first, first + 1, … that the program gets
    int *sources;        // what they are made from; -1: /dev/null
    char listen_pid[32]; // "LISTEN_PID=" and room for the number
    int set_listen_pid;
    volatile int error;  // what the child failed with: it shares this memory, which the compiler cannot know, so no pipe is needed
};

/// A copy of the environment's pointers with LISTEN_PID replaced by `launch->listen_pid`, whose number is filled in by the child.
static int prepare_environment(struct launch *launch, const char *const envp[]) {
    char **from = envp ? (char **)envp : environ;
    size_t count = 0;
    while (from[count])
        count++;
    launch->environment = malloc((count + 2) * sizeof *from);
    if (!launch->environment)
        return -ENOMEM;
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (!launch->set_listen_pid || strncmp(from[i], listen_pid_key, strlen(listen_pid_key)) != 0)
            launch->environment[kept++] = from[i];
    if (launch->set_listen_pid)
        launch->environment[kept++] = launch->listen_pid;
    launch->environment[kept] = NULL;
    return 0;
}

/// snprintf is not async-signal-safe.
static void write_listen_pid(struct launch *launch) {
    char digits[16];
    int count = 0;
    for (unsigned pid = (unsigned)getpid(); pid; pid /= 10)
        digits[count++] = (char)('0' + pid % 10);
    char *end = launch->listen_pid;
    memcpy(end, listen_pid_key, strlen(listen_pid_key));
    for (end += strlen(listen_pid_key); count;)
        *end++ = digits[--count];
    *end = '\0';
}

/// Puts the sources in their places. A source whose own number is the place of another one is first moved out of the way.
static int place_descriptors(struct launch *launch) {
    int end = launch->first + launch->count, null = -1;
    for (int i = 0; i < launch->count; i++) {
        int *source = &launch->sources[i];
        if (*source < 0) {
            if (null < 0 && (null = open("/dev/null", O_RDWR | O_CLOEXEC)) < 0)
                return -errno;
            *source = null;
        }
        if (*source >= launch->first && *source < end && *source != launch->first + i) {
            *source = fcntl(*source, F_DUPFD_CLOEXEC, end);
            if (*source < 0)
                return -errno;
        }
    }
    for (int i = 0; i < launch->count; i++) {
        int place = launch->first + i;
        // dup2 of a descriptor onto itself would leave O_CLOEXEC set.
        int done = launch->sources[i] == place ? fcntl(place, F_SETFD, 0) : dup2(launch->sources[i], place);
        if (done < 0)
            return -errno;
    }
    return 0;
}

/// The default action for every signal the caller handles, before any of them is unblocked: its handlers would run in the child.
static void reset_signals(void) {
    for (int signal = 1; signal < NSIG; signal++) {
        struct sigaction action;
        if (sigaction(signal, NULL, &action) < 0 || action.sa_handler == SIG_DFL)
            continue;
        if (action.sa_handler == SIG_IGN && signal != SIGPIPE)
            continue;
        action = (struct sigaction){.sa_handler = SIG_DFL};
        sigaction(signal, &action, NULL);
    }
    sigset_t none;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, NULL);
}

/// Becomes the program; returns only on failure.
static int execute(struct launch *launch) {
    int error = place_descriptors(launch);
    if (error < 0)
        return error;
    // Also descriptors that some library opened without O_CLOEXEC, or that another thread opened a moment ago.
    close_range((unsigned)(launch->first + launch->count), ~0u, CLOSE_RANGE_CLOEXEC);
    if (launch->set_listen_pid)
        write_listen_pid(launch);
    reset_signals();
    execvpe(launch->argv[0], (char **)launch->argv, launch->environment);
    return -errno;
}

static void child(struct launch *launch) {
    int error = 0;
    if (launch->netns_fd >= 0 && setns(launch->netns_fd, CLONE_NEWNET) < 0)
        error = -errno;
    launch->error = error ? error : execute(launch);
    _exit(127);
}

/// vfork(2) instead of fork: no page tables are copied however large the caller is, and the child reports through shared memory.
/// It is safe as the child stays inside `child`, its signals are blocked, and this thread sleeps until it has executed or ended.
static pid_t run(struct launch *launch) {
    sigset_t all, mask;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &mask);
    pid_t pid = vfork();
    if (pid == 0)
        child(launch);
    int error = errno;
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    return pid < 0 ? -error : pid;
}

int cproc_spawn(const char *const argv[], const char *const envp[], int netns_fd, int in, int out, int err, const int passed[], int npassed,
                int listen_pid) {
    if (!argv || !argv[0] || npassed < 0)
        return -EINVAL;
    struct launch launch = {.argv = argv, .netns_fd = netns_fd, .first = 0, .count = 3 + npassed, .set_listen_pid = listen_pid != 0};
    launch.sources = malloc((size_t)launch.count * sizeof(int));
    int answer = launch.sources ? prepare_environment(&launch, envp) : -ENOMEM;
    if (answer == 0) {
        memcpy(launch.sources, (int[]){in, out, err}, 3 * sizeof(int));
        if (npassed)
            memcpy(launch.sources + 3, passed, (size_t)npassed * sizeof(int));
        answer = run(&launch);
    }
    if (answer > 0 && launch.error < 0) {
        while (waitpid(answer, NULL, 0) < 0 && errno == EINTR)
            continue;
        answer = launch.error;
    }
    free(launch.environment);
    free(launch.sources);
    return answer;
}

int cproc_exec(const char *const argv[], const char *const envp[], const int passed[], int npassed) {
    if (!argv || !argv[0] || npassed < 0)
        return -EINVAL;
    struct launch launch = {.argv = argv, .netns_fd = -1, .first = 3, .count = npassed, .set_listen_pid = 1};
    launch.sources = malloc((size_t)(npassed + 1) * sizeof(int));
    int error = launch.sources ? prepare_environment(&launch, envp) : -ENOMEM;
    if (error == 0) {
        if (npassed)
            memcpy(launch.sources, passed, (size_t)npassed * sizeof(int));
        error = execute(&launch);
    }
    free(launch.environment);
    free(launch.sources);
    return error;
}
