/* The kernels of wire.h. */
#ifndef DL_WIRES_H
#define DL_WIRES_H

#include "quants.h"
#include "wire.h"

#define DL_BODY "wire.inc.h"
#include "each_vec.h"

#define DL_WIRE_FNS(isa, vec) {dl_wire_pack_##vec, dl_wire_decode_##vec, dl_wire_round_##vec, dl_wire_unpack_##vec},

/* isa must be available on this machine. */
static inline const dl_wire_fns *dl_wire_fns_of(int isa)
{
    static const dl_wire_fns table[DL_ISA_COUNT] = {DL_ISAS(DL_WIRE_FNS)};
    return &table[isa];
}

#endif
