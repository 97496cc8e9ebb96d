/* descriptors.c - the list of all messages of images/, for checks over their shape. */
#include "CSCImage.h"

static const ProtobufCMessageDescriptor *const all[] = {
    &sc__image__inventory__descriptor, &sc__image__session_header__descriptor, &sc__image__tcpchannel__descriptor,
    &sc__image__socket_option__descriptor, &sc__image__end__descriptor,
    &sc__image__process__descriptor, &sc__image__process_descriptor__descriptor, &sc__image__local_channel__descriptor,
    &sc__image__queued_message__descriptor, &sc__image__sender__descriptor, &sc__image__unix_socket__descriptor,
    &sc__image__pipe_end__descriptor, &sc__image__udpsocket__descriptor, &sc__image__regular_file__descriptor,
    &sc__wire__offer__descriptor, &sc__wire__flow__descriptor, &sc__wire__handover__descriptor,
    &sc__wire__answer__descriptor, &sc__wire__reason__descriptor, &sc__wire__timing__descriptor,
    &sc__wire__report__descriptor, &sc__wire__failure__descriptor,
    &sc__wire__resolve__descriptor, &sc__wire__standing__descriptor, &sc__wire__inquiry__descriptor, &sc__wire__living__descriptor,
    &sc__archive__entry__descriptor,
};

const ProtobufCMessageDescriptor *const *csci_descriptors(size_t *count)
{
    *count = sizeof(all) / sizeof(all[0]);
    return all;
}
