// Sessions that could come: what a server is told of them, and says to them.

#include "internal.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int sc_accept_offers(sc_t *sc, int accept) {
    if (accept && (sc->callbacks.offer == NULL || sc->callbacks.import == NULL)) return -EINVAL;
    sc->accepts = accept != 0;
    sc->tell_accepts = true;
    sc__flush(sc);
    return 0;
}

const char *sc_offer_local(const sc_offer_t *offer) { return offer->local; }
const char *sc_offer_peer(const sc_offer_t *offer) { return offer->peer; }
uint32_t sc_offer_state_version(const sc_offer_t *offer) { return offer->state_version; }
size_t sc_offer_state_bytes(const sc_offer_t *offer) { return offer->state_bytes; }

void sc__free_offer(sc_offer_t *offer) {
    if (offer->sc) {
        sc_offer_t **place = &offer->sc->offers;
        while (*place != offer) place = &(*place)->next;
        *place = offer->next;
    }
    free(offer);
}

int sc_accept(sc_offer_t *offer, void *session, sc_continuation_t **out) {
    sc_t *sc = offer->sc;
    int result = sc ? sc_create(sc, session, out) : -ESTALE;
    if (result == 0) {
        (*out)->state = ACCEPTED;
        (*out)->offer = offer->id;
        memcpy((*out)->part, offer->part, sizeof offer->part);
        memcpy((*out)->group, offer->group, sizeof offer->group);
        (*out)->known = true;
        // Until it is live it has read and written nothing.
        if ((*out)->slot) (*out)->slot->has_base = 0;
        (*out)->answer = ANSWER_ACCEPTED;
        sc__mark(*out);
        sc__flush(sc);
    }
    if (result == -ENOMEM) sc__send_refused(sc, offer->id, ENOMEM, "the server has no memory");
    sc__free_offer(offer);
    return result;
}

void sc_decline(sc_offer_t *offer, const char *reason) {
    if (offer->sc) sc__send_refused(offer->sc, offer->id, ECONNREFUSED, reason);
    sc__free_offer(offer);
}
