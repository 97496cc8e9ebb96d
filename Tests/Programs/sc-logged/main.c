// sc-logged: a server whose sessions outlive it, for tests, and its client.
//
//   sc-logged serve ADDRESS PORT [salt] [rarely] [refuses]   answers each byte; SIGUSR1: it loops for ever, wherever it is
//       salt     answers differently from the others: what it repeats as a successor differs
//       rarely   exports only at the beginning and when the log is nearly full
//       once     exports only at the beginning
//       refuses  takes no sessions in
//       holds    does not park one session in three
//       wavers   the same, at the first time only
//   sc-logged ask ADDRESS PORT CONNECTIONS SEED [LIMIT]    checks every byte of the answers; ends after the line "stop". Says at most LIMIT bytes on each
//   sc-logged chain [rarely]   a process of a session of several, with its channels as descriptors 3 to 5

#include "logged.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    if (argc >= 4 && strcmp(argv[1], "serve") == 0) return serve(argv[2], argv[3], argc - 4, argv + 4);
    if (argc >= 2 && strcmp(argv[1], "chain") == 0) return chain(argc == 3);
    if ((argc == 6 || argc == 7) && strcmp(argv[1], "ask") == 0)
        return ask(argv[2], argv[3], atoi(argv[4]), strtoull(argv[5], NULL, 10), argc == 7 ? strtoull(argv[6], NULL, 10) : UINT64_MAX);
    fprintf(stderr, "usage: sc-logged serve ADDRESS PORT [salt] [rarely | once] [refuses] [holds | wavers] | chain [rarely] | "
                    "ask ADDRESS PORT CONNECTIONS SEED [LIMIT]\n");
    return 2;
}
