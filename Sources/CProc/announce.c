// Gratuitous ARP and unsolicited neighbour advertisements, built by libnet and sent through a packet socket of the right namespace.
#include "cproc_announce.h"

#include <libnet.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "address.h"
#include "result.h"

static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
static const uint8_t nobody[6] = {0};
static const uint8_t all_nodes_mac[6] = {0x33, 0x33, 0, 0, 0, 1}; // ff02::1 on Ethernet (RFC 2464 section 7)

/// libnet would read the address of an interface of the calling thread's namespace, so it is asked of the socket's.
static int own_mac(int packet, int ifindex, uint8_t mac[6]) {
    struct ifreq request = {.ifr_ifindex = ifindex};
    if (ioctl(packet, SIOCGIFNAME, &request) < 0 || ioctl(packet, SIOCGIFHWADDR, &request) < 0)
        return -errno;
    if (request.ifr_hwaddr.sa_family != ARPHRD_ETHER)
        return -EOPNOTSUPP;
    memcpy(mac, request.ifr_hwaddr.sa_data, 6);
    return 0;
}

static int build_arp(libnet_t *net, uint16_t operation, const uint8_t mac[6], const uint8_t address[4]) {
    const uint8_t *to = operation == ARPOP_REQUEST ? nobody : everybody;
    int built = libnet_build_arp(ARPHRD_ETHER, ETHERTYPE_IP, 6, 4, operation, mac, address, to, address, NULL, 0, net, 0);
    return built < 0 ? built : libnet_build_ethernet(everybody, mac, ETHERTYPE_ARP, NULL, 0, net, 0);
}

static int build_advertisement(libnet_t *net, const uint8_t mac[6], const uint8_t address[16]) {
    struct libnet_in6_addr own, all = {.__u6_addr.__u6_addr8 = {0xff, 0x02, [15] = 1}};
    memcpy(&own, address, sizeof own);
    int built = libnet_build_icmpv6_ndp_opt(ND_OPT_TARGET_LINKADDR, (uint8_t *)mac, 6, net, 0);
    if (built >= 0)
        built = libnet_build_icmpv6_ndp_nadv(ND_NEIGHBOR_ADVERT, 0, 0, ND_NA_FLAG_OVERRIDE, own, NULL, 0, net, 0);
    if (built >= 0) // hop limit 255: others are ignored, as they may come from beyond the link
        built = libnet_build_ipv6(0, 0, LIBNET_ICMPV6_NDP_NADV_H + 8, IPPROTO_ICMP6, 255, own, all, NULL, 0, net, 0);
    return built < 0 ? built : libnet_build_ethernet(all_nodes_mac, mac, ETHERTYPE_IPV6, NULL, 0, net, 0);
}

/// Sends what was built, and forgets it.
static int send_frame(int packet, int ifindex, libnet_t *net, int built) {
    uint8_t *frame = NULL;
    uint32_t length = 0;
    if (built < 0 || libnet_pblock_coalesce(net, &frame, &length) < 0)
        return errno ? -errno : -EIO;
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = ifindex, .sll_halen = 6};
    memcpy(to.sll_addr, frame, 6);
    int error = result(sendto(packet, frame, length, 0, (struct sockaddr *)&to, sizeof to));
    free(frame);
    libnet_clear_packet(net);
    return error < 0 ? error : 0;
}

int cproc_announce(int packet, int ifindex, const struct cproc_endpoint *address) {
    uint8_t mac[6];
    int error = own_mac(packet, ifindex, mac);
    if (error < 0)
        return error;
    if (!address_length(address->family))
        return -EAFNOSUPPORT;
    char message[LIBNET_ERRBUF_SIZE];
    errno = 0;
    libnet_t *net = libnet_init(LIBNET_NONE, NULL, message);
    if (!net)
        return errno ? -errno : -EIO;
    if (address->family == AF_INET) {
        error = send_frame(packet, ifindex, net, build_arp(net, ARPOP_REQUEST, mac, address->address));
        if (error == 0)
            error = send_frame(packet, ifindex, net, build_arp(net, ARPOP_REPLY, mac, address->address));
    } else {
        error = send_frame(packet, ifindex, net, build_advertisement(net, mac, address->address));
    }
    libnet_destroy(net);
    return error;
}
