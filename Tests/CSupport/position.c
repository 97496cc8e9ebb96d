// Where an application stands in the two directions of a TCP connection, from the kernel's own counters.
#include "csupport.h"

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

int csupport_tcp_position(int fd, uint64_t *written, uint64_t *read) {
    // Repeated until no segment arrived in between, so that counters and queues belong together.
    for (int attempt = 0; attempt < 1000; attempt++) {
        struct tcp_info before = {0}, after = {0};
        socklen_t length = sizeof before;
        int in = 0, out = 0;
        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &before, &length) < 0 || ioctl(fd, SIOCINQ, &in) < 0 || ioctl(fd, SIOCOUTQ, &out) < 0)
            return -errno;
        length = sizeof after;
        if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &after, &length) < 0)
            return -errno;
        if (before.tcpi_bytes_acked == after.tcpi_bytes_acked && before.tcpi_bytes_received == after.tcpi_bytes_received) {
            *written = after.tcpi_bytes_acked + (uint64_t)out;
            *read = after.tcpi_bytes_received - (uint64_t)in;
            return 0;
        }
    }
    return -EAGAIN;
}
