// Work in another network namespace, on a thread that exists for nothing else.
#include "cproc_netns.h"

#include <fcntl.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "result.h"

struct visit {
    int netns_fd;
    int (*body)(void *context);
    void *context;
    int answer;
};

static void *visit_thread(void *argument) {
    struct visit *visit = argument;
    if (visit->netns_fd >= 0 && setns(visit->netns_fd, CLONE_NEWNET) < 0)
        visit->answer = -errno;
    else
        visit->answer = visit->body(visit->context);
    return NULL;
}

int cproc_in_netns(int netns_fd, int (*body)(void *context), void *context) {
    struct visit visit = {netns_fd, body, context, 0};
    // A signal handler of the process must not run here: it would find itself in the wrong namespace.
    sigset_t all;
    sigfillset(&all);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setsigmask_np(&attributes, &all);
    pthread_t thread;
    int error = pthread_create(&thread, &attributes, visit_thread, &visit);
    pthread_attr_destroy(&attributes);
    if (error)
        return -error;
    pthread_join(thread, NULL);
    return visit.answer;
}

/// A new namespace's loopback is down: not even connections to its own addresses work.
static int loopback_up(void) {
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int error = result(ioctl(fd, SIOCSIFFLAGS, &request));
    close(fd);
    return error;
}

static int make_netns(void *context) {
    (void)context;
    if (unshare(CLONE_NEWNET) < 0)
        return -errno;
    int error = loopback_up();
    return error < 0 ? error : result(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
}

int cproc_new_netns(void) {
    return cproc_in_netns(-1, make_netns, NULL);
}

int cproc_pid_netns(int pid) {
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/ns/net", pid);
    int fd = result(open(path, O_RDONLY | O_CLOEXEC));
    return fd == -ENOENT ? -ESRCH : fd;
}

int cproc_same_netns(int a, int b) {
    struct stat one, other;
    if (fstat(a, &one) < 0 || fstat(b, &other) < 0)
        return -errno;
    return one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

struct socket_arguments {
    int family, type, protocol;
};

static int make_socket(void *context) {
    const struct socket_arguments *arguments = context;
    return result(socket(arguments->family, arguments->type | SOCK_CLOEXEC, arguments->protocol));
}

int cproc_socket_in(int netns_fd, int family, int type, int protocol) {
    struct socket_arguments arguments = {family, type, protocol};
    return cproc_in_netns(netns_fd, make_socket, &arguments);
}
