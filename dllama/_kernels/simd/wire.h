/* How nodes send numbers to each other, for every instruction set.
 *
 * DL_WIRES(X) calls X(id, name, block, bytes, rotated) with
 *   id       the number of the form
 *   name     suffix of dl_wire_NAME, which is the id
 *   block    numbers that are sent together
 *   bytes    of a block
 *   rotated  whether numbers are rotated before they are rounded
 *
 * Numbers are rotated DL_STRIP at a time by a Walsh-Hadamard transform, which spreads each of them
 * over all. So a single large number does not take the small ones of its block their bits (QuaRot,
 * Ashkboos et al. 2024). The transform is linear: what is rotated may be added, and the sum is rotated
 * back.
 */
#ifndef DL_WIRE_H
#define DL_WIRE_H

#include <stdint.h>

#define DL_WIRES(X)      \
    X(0, f32, 1, 4, 0)   \
    X(1, f16, 1, 2, 0)   \
    X(2, q80, 32, 34, 1) \
    X(3, q60, 32, 26, 1)

enum { DL_STRIP = 64 }; /* numbers that are rotated together; of the last ones of a row 32 */

#define DL_WIRE_ID(id, name, block, bytes, rotated) dl_wire_##name = id,
enum { DL_WIRES(DL_WIRE_ID) };
#undef DL_WIRE_ID

typedef struct {
    const char *name;
    int block, bytes, rotated;
} dl_wire;

/* The row of a form; NULL if there is none. */
static inline const dl_wire *dl_wire_of(int id)
{
#define DL_WIRE_ROW(id, name, block, bytes, rotated) {#name, block, bytes, rotated},
    static const dl_wire rows[] = {DL_WIRES(DL_WIRE_ROW)};
#undef DL_WIRE_ROW
    return id >= 0 && id < (int)(sizeof rows / sizeof *rows) ? &rows[id] : 0;
}

/* Bytes of n numbers of a known form; n is whole blocks. */
static inline int64_t dl_wire_bytes(int wire, int64_t n)
{
#define DL_WIRE_BYTES(id, name, block, bytes, rotated) case id: return n / block * bytes;
    switch (wire) { DL_WIRES(DL_WIRE_BYTES) }
#undef DL_WIRE_BYTES
    return 0;
}

/* n: numbers, whole blocks; for `round` at most DL_STRIP. The numbers of `decode` and `round` are
 * those that are sent: rotated, if the form is.
 *   pack     encode src[n], with carry[n] unless it is NULL; carry = what rounding takes
 *            fresh: the carry is not read
 *   decode   x = what is sent
 *   round    encode x[n], and decode it again; unless carry is NULL, it gets what rounding takes too
 *   unpack   dst[n] = x, or with add dst[n] += x, in the place of x as sent
 */
typedef struct {
    void (*pack)(const float *src, float *carry, int fresh, int64_t n, int wire, uint8_t *dst);
    void (*decode)(const uint8_t *src, int64_t n, int wire, float *x);
    void (*round)(float *x, float *carry, int64_t n, int wire, uint8_t *dst);
    void (*unpack)(float *x, int64_t n, int wire, int add, float *dst);
} dl_wire_fns;

#endif
