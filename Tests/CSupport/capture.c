// A packet capture that loses nothing at its end: an AF_PACKET ring (TPACKET_V2) that one thread reads until it is empty.
#include "csupport.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FRAME_SIZE = 256, BLOCK_SIZE = 1 << 18, BLOCKS = 64, FRAMES = BLOCKS * (BLOCK_SIZE / FRAME_SIZE) };

struct csupport_capture {
    int socket, stop;
    uint8_t *ring;
    unsigned next;
    pthread_t thread;
    struct csupport_packet *packets;
    size_t count, capacity;
    uint32_t dropped;
};

/// Fills addresses and the TCP part of `packet`; 0 when the frame is not a TCP segment.
static int parse(const uint8_t *ip, size_t length, struct csupport_packet *packet) {
    const struct tcphdr *tcp;
    size_t total;
    if (length >= sizeof(struct iphdr) && ip[0] >> 4 == 4) {
        const struct iphdr *header = (const struct iphdr *)ip;
        size_t size = (size_t)header->ihl * 4;
        if (header->protocol != IPPROTO_TCP || length < size + sizeof *tcp || (ntohs(header->frag_off) & 0x1fff))
            return 0;
        packet->source[10] = packet->source[11] = packet->destination[10] = packet->destination[11] = 0xff;
        memcpy(packet->source + 12, &header->saddr, 4);
        memcpy(packet->destination + 12, &header->daddr, 4);
        tcp = (const struct tcphdr *)(ip + size);
        total = ntohs(header->tot_len) - size;
    } else if (length >= sizeof(struct ip6_hdr) + sizeof *tcp && ip[0] >> 4 == 6) {
        const struct ip6_hdr *header = (const struct ip6_hdr *)ip;
        if (header->ip6_nxt != IPPROTO_TCP)
            return 0;
        memcpy(packet->source, &header->ip6_src, 16);
        memcpy(packet->destination, &header->ip6_dst, 16);
        tcp = (const struct tcphdr *)(ip + sizeof *header);
        total = ntohs(header->ip6_plen);
    } else {
        return 0;
    }
    packet->source_port = ntohs(tcp->source);
    packet->destination_port = ntohs(tcp->dest);
    packet->sequence = ntohl(tcp->seq);
    packet->acknowledgement = ntohl(tcp->ack_seq);
    packet->window = ntohs(tcp->window);
    packet->flags = ((const uint8_t *)tcp)[13];
    packet->payload = total > tcp->doff * 4u ? (uint32_t)(total - tcp->doff * 4u) : 0;
    return 1;
}

/// Takes every frame the kernel has finished. Returns how many there were.
static unsigned drain(struct csupport_capture *capture) {
    unsigned taken = 0;
    for (;; taken++) {
        struct tpacket2_hdr *header = (struct tpacket2_hdr *)(capture->ring + (size_t)capture->next * FRAME_SIZE);
        if (!(__atomic_load_n(&header->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
            return taken;
        const struct sockaddr_ll *link = (const struct sockaddr_ll *)((uint8_t *)header + TPACKET_ALIGN(sizeof *header));
        struct csupport_packet packet = {
            .time_ns = header->tp_sec * 1000000000ull + header->tp_nsec,
            .outgoing = link->sll_pkttype == PACKET_OUTGOING,
        };
        uint8_t *ip = (uint8_t *)header + header->tp_net;
        unsigned link_header = (unsigned)(header->tp_net - header->tp_mac);
        size_t length = header->tp_snaplen > link_header ? header->tp_snaplen - link_header : 0;
        if (parse(ip, length, &packet)) {
            if (capture->count == capture->capacity) {
                size_t capacity = capture->capacity ? capture->capacity * 2 : 4096;
                struct csupport_packet *grown = realloc(capture->packets, capacity * sizeof *grown);
                if (!grown)
                    abort();
                capture->packets = grown;
                capture->capacity = capacity;
            }
            capture->packets[capture->count++] = packet;
        }
        __atomic_store_n(&header->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        capture->next = (capture->next + 1) % FRAMES;
    }
}

static void *record(void *argument) {
    struct csupport_capture *capture = argument;
    struct pollfd fds[2] = {{capture->socket, POLLIN, 0}, {capture->stop, POLLIN, 0}};
    while (!(fds[1].revents & POLLIN)) {
        poll(fds, 2, -1);
        drain(capture);
    }
    return NULL;
}

struct csupport_capture *csupport_capture_start(int netns_fd, const char *link, int *error) {
    struct csupport_capture *capture = calloc(1, sizeof *capture);
    if (!capture)
        abort();
    capture->ring = MAP_FAILED;
    capture->stop = eventfd(0, EFD_CLOEXEC);
    // Protocol 0: nothing is delivered before the ring exists and the socket is bound to the link.
    capture->socket = csupport_socket_in(netns_fd, AF_PACKET, SOCK_RAW, 0);
    if (capture->socket < 0) {
        *error = capture->socket;
        csupport_capture_free(capture);
        return NULL;
    }
    struct ifreq interface = {0};
    strncpy(interface.ifr_name, link, IFNAMSIZ - 1);
    int version = TPACKET_V2;
    struct tpacket_req request = {BLOCK_SIZE, BLOCKS, FRAME_SIZE, FRAMES};
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    int ok = ioctl(capture->socket, SIOCGIFINDEX, &interface) == 0
        && setsockopt(capture->socket, SOL_PACKET, PACKET_VERSION, &version, sizeof version) == 0
        && setsockopt(capture->socket, SOL_PACKET, PACKET_RX_RING, &request, sizeof request) == 0;
    if (ok) {
        capture->ring = mmap(NULL, (size_t)BLOCK_SIZE * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED, capture->socket, 0);
        address.sll_ifindex = interface.ifr_ifindex;
        ok = capture->ring != MAP_FAILED && bind(capture->socket, (struct sockaddr *)&address, sizeof address) == 0
            && pthread_create(&capture->thread, NULL, record, capture) == 0;
    }
    if (!ok) {
        *error = errno ? -errno : -EAGAIN;
        csupport_capture_free(capture);
        return NULL;
    }
    return capture;
}

size_t csupport_capture_stop(struct csupport_capture *capture) {
    uint64_t one = 1;
    if (write(capture->stop, &one, sizeof one) != sizeof one)
        abort();
    pthread_join(capture->thread, NULL);
    struct tpacket_stats statistics = {0};
    socklen_t length = sizeof statistics;
    getsockopt(capture->socket, SOL_PACKET, PACKET_STATISTICS, &statistics, &length);
    capture->dropped = statistics.tp_drops;
    return capture->count;
}

const struct csupport_packet *csupport_capture_packets(const struct csupport_capture *capture) {
    return capture->packets;
}

uint32_t csupport_capture_dropped(const struct csupport_capture *capture) {
    return capture->dropped;
}

void csupport_capture_free(struct csupport_capture *capture) {
    if (capture->ring != MAP_FAILED)
        munmap(capture->ring, (size_t)BLOCK_SIZE * BLOCKS);
    if (capture->socket >= 0)
        close(capture->socket);
    close(capture->stop);
    free(capture->packets);
    free(capture);
}
