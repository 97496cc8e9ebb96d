// cproc: the kernel calls that Swift cannot make itself, one header per subject.
//
// Convention, everywhere: a function returns 0 or a value >= 0, or -errno. errno itself is never part of the contract.
// No function allocates memory that the caller has to free; descriptors that a function returns are O_CLOEXEC and
// belong to the caller; descriptors passed in are borrowed unless the comment says "takes".
#pragma once

#include "cproc_system.h"
#include "cproc_process.h"
#include "cproc_keeper.h"
#include "cproc_local.h"
#include "cproc_fds.h"
#include "cproc_socket.h"
#include "cproc_repair.h"
#include "cproc_diag.h"
#include "cproc_filter.h"
#include "cproc_netns.h"
#include "cproc_inject.h"
#include "cproc_nft.h"
#include "cproc_rtnl.h"
#include "cproc_announce.h"
#include "cproc_sandbox.h"
#include "cproc_capabilities.h"
