// Elements of nftables sets and maps, changed by one nfnetlink batch (net/netfilter/nfnetlink.c: a batch is a transaction).
#include "cproc_nft.h"

#include <arpa/inet.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "address.h"
#include "netlink.h"
#include "result.h"

/// nla_len has 16 bits, so the list of elements in one message has to stay below 64 KiB: 500 of at most 76 bytes do.
enum { ELEMENTS_PER_MESSAGE = 500, LARGEST_ELEMENT = 80, MESSAGE_OVERHEAD = 128, LARGEST_NAME = NFT_TABLE_MAXNAMELEN };

int cproc_nft_open(void) {
    int fd = netlink_open(NETLINK_NETFILTER);
    // One acknowledgement for each message of a batch: a batch over many sets must not overflow the default buffer (recv: ENOBUFS).
    int size = 4 << 20;
    if (fd >= 0)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    return fd;
}

/// A batch under construction. Its buffer is allocated for the worst case, so writing needs no checks.
struct batch {
    uint8_t *start, *end;
    uint32_t sequence;
};

static struct nlmsghdr *begin_message(struct batch *batch, uint16_t type, uint16_t flags, uint8_t family, uint16_t resource) {
    struct nlmsghdr *header = (struct nlmsghdr *)batch->end;
    *header = (struct nlmsghdr){.nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | flags, .nlmsg_seq = batch->sequence++};
    struct nfgenmsg *netfilter = NLMSG_DATA(header);
    *netfilter = (struct nfgenmsg){.nfgen_family = family, .version = NFNETLINK_V0, .res_id = htons(resource)};
    batch->end += NLMSG_LENGTH(sizeof *netfilter);
    return header;
}

static void end_message(struct batch *batch, struct nlmsghdr *header) {
    header->nlmsg_len = (uint32_t)(batch->end - (uint8_t *)header);
}

static void put(struct batch *batch, uint16_t type, const void *data, size_t length) {
    struct nlattr *attribute = (struct nlattr *)batch->end;
    *attribute = (struct nlattr){.nla_type = type, .nla_len = (uint16_t)(NLA_HDRLEN + length)};
    memcpy(batch->end + NLA_HDRLEN, data, length);
    memset(batch->end + NLA_HDRLEN + length, 0, NLA_ALIGN(length) - length);
    batch->end += NLA_HDRLEN + NLA_ALIGN(length);
}

static void put_name(struct batch *batch, uint16_t type, const char *name, size_t capacity) {
    char text[LARGEST_NAME] = {0};
    size_t length = strnlen(name, capacity);
    memcpy(text, name, length);
    put(batch, type, text, length + 1);
}

static struct nlattr *begin_nest(struct batch *batch, uint16_t type) {
    struct nlattr *nest = (struct nlattr *)batch->end;
    nest->nla_type = type | NLA_F_NESTED;
    batch->end += NLA_HDRLEN;
    return nest;
}

static void end_nest(struct batch *batch, struct nlattr *nest) {
    nest->nla_len = (uint16_t)(batch->end - (uint8_t *)nest);
}

/// A value in the form of registers: nft pads every field of a concatenation to 4 bytes.
static void put_value(struct batch *batch, uint16_t type, const void *value, size_t length) {
    struct nlattr *nest = begin_nest(batch, type);
    put(batch, NFTA_DATA_VALUE, value, length);
    end_nest(batch, nest);
}

static size_t write_endpoint(uint8_t *key, const struct cproc_endpoint *endpoint) {
    size_t length = address_length(endpoint->family);
    uint16_t port = htons(endpoint->port);
    memcpy(key, endpoint->address, length);
    memcpy(key + length, &port, sizeof port);
    return length + 4;
}

static void put_element(struct batch *batch, const struct cproc_nft_change *change) {
    uint8_t key[40] = {0};
    size_t length = write_endpoint(key, &change->client);
    length += write_endpoint(key + length, &change->service);
    struct nlattr *element = begin_nest(batch, NFTA_LIST_ELEM);
    put_value(batch, NFTA_SET_ELEM_KEY, key, length);
    if (change->add && change->data_length)
        put_value(batch, NFTA_SET_ELEM_DATA, change->data, change->data_length);
    end_nest(batch, element);
}

static int same_message(const struct cproc_nft_change *a, const struct cproc_nft_change *b) {
    return !a->add == !b->add && strncmp(a->set, b->set, sizeof a->set) == 0;
}

/// One message for changes of the same kind in the same set; returns how many it took.
static uint32_t put_elements(struct batch *batch, const char *table, const struct cproc_nft_change *changes, uint32_t count) {
    uint16_t type = changes->add ? NFT_MSG_NEWSETELEM : NFT_MSG_DELSETELEM;
    struct nlmsghdr *message =
        begin_message(batch, NFNL_SUBSYS_NFTABLES << 8 | type, NLM_F_ACK | (changes->add ? NLM_F_CREATE : 0), NFPROTO_NETDEV, 0);
    put_name(batch, NFTA_SET_ELEM_LIST_TABLE, table, LARGEST_NAME - 1);
    put_name(batch, NFTA_SET_ELEM_LIST_SET, changes->set, sizeof changes->set);
    struct nlattr *list = begin_nest(batch, NFTA_SET_ELEM_LIST_ELEMENTS);
    uint32_t taken = 0;
    while (taken < count && taken < ELEMENTS_PER_MESSAGE && same_message(changes, changes + taken))
        put_element(batch, &changes[taken++]);
    end_nest(batch, list);
    end_message(batch, message);
    return taken;
}

static int valid(const struct cproc_nft_change *change) {
    return address_length(change->client.family) && change->client.family == change->service.family &&
           (change->data_length == 0 || change->data_length == 4 || change->data_length == 16);
}

/// A transaction must be one send(2), which netlink refuses beyond the socket's send buffer (netlink_sendmsg: EMSGSIZE).
static int send_batch(int netlink, const struct batch *batch) {
    size_t length = (size_t)(batch->end - batch->start);
    int size = 0;
    socklen_t size_length = sizeof size;
    getsockopt(netlink, SOL_SOCKET, SO_SNDBUF, &size, &size_length);
    if ((size_t)size < length + 64) {
        int wanted = (int)length + 64;
        if (setsockopt(netlink, SOL_SOCKET, SO_SNDBUFFORCE, &wanted, sizeof wanted) < 0)
            return -errno;
    }
    ssize_t sent;
    do
        sent = send(netlink, batch->start, length, 0);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}

/// Every message with elements is acknowledged when the transaction is done, in order, so the answer to the last one is the last answer.
/// A failure of the transaction as a whole is reported once, for the opening message (nfnetlink_rcv_batch).
static int await(int netlink, uint32_t first, uint32_t last) {
    int answer = 0;
    for (;;) {
        _Alignas(struct nlmsghdr) uint8_t buffer[8192];
        ssize_t length = recv(netlink, buffer, sizeof buffer, 0);
        if (length < 0 && errno == EINTR)
            continue;
        if (length < 0)
            return -errno;
        size_t left = (size_t)length;
        for (struct nlmsghdr *message = (struct nlmsghdr *)buffer; NLMSG_OK(message, left); message = NLMSG_NEXT(message, left)) {
            if (message->nlmsg_type != NLMSG_ERROR || message->nlmsg_seq - first > last - first)
                continue;
            int error = ((const struct nlmsgerr *)NLMSG_DATA(message))->error;
            if (answer == 0)
                answer = error;
            if (message->nlmsg_seq == last || message->nlmsg_seq == first)
                return answer;
        }
    }
}

int cproc_nft_apply(int netlink, const char *table, const struct cproc_nft_change *changes, uint32_t count) {
    if (count == 0)
        return 0;
    uint32_t messages = 2 + count / ELEMENTS_PER_MESSAGE;
    for (uint32_t i = 0; i < count; i++) {
        if (!valid(&changes[i]))
            return -EINVAL;
        messages += i && !same_message(&changes[i - 1], &changes[i]);
    }
    if (strnlen(table, LARGEST_NAME) == LARGEST_NAME)
        return -ENAMETOOLONG;
    size_t capacity = (size_t)count * LARGEST_ELEMENT + (size_t)(messages + 2) * (MESSAGE_OVERHEAD + LARGEST_NAME);
    if (capacity > INT32_MAX / 2)
        return -EMSGSIZE;

    static atomic_uint sequence;
    uint32_t first = atomic_fetch_add(&sequence, messages + 2);
    struct batch batch = {.start = malloc(capacity), .sequence = first};
    if (!batch.start)
        return -ENOMEM;
    batch.end = batch.start;
    end_message(&batch, begin_message(&batch, NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES));
    for (uint32_t done = 0; done < count;)
        done += put_elements(&batch, table, changes + done, count - done);
    uint32_t last = batch.sequence - 1;
    end_message(&batch, begin_message(&batch, NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES));

    int answer = send_batch(netlink, &batch);
    free(batch.start);
    return answer < 0 ? answer : await(netlink, first, last);
}
