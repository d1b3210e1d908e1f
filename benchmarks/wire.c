/* Measures what it costs to round what nodes send: nanoseconds for a row of 2048 numbers, for every
 * form and instruction set. `pack` also keeps what rounding takes, `unpack` adds to the residual stream.
 *
 *   gcc -O3 -std=gnu11 -ffp-contract=off -fno-math-errno -I dllama/_kernels benchmarks/wire.c -o wire -lm && ./wire
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "simd/cpu.h"
#include "simd/wires.h"

enum { N = 2048, ROUNDS = 300, CALLS = 20, KINDS = 4 };

static float x[N], carry[N], numbers[N], sum[N];
static uint8_t row[4 * N];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void run(const dl_wire_fns *f, int wire, int kind)
{
    if (kind == 0) f->pack(x, carry, 0, N, wire, row);
    if (kind == 1) f->decode(row, N, wire, numbers);
    for (int i = 0; kind == 2 && i < N; i += DL_STRIP) f->round(numbers + i, carry + i, DL_STRIP, wire, row);
    if (kind == 3) f->unpack(numbers, N, wire, 1, sum);
}

int main(void)
{
    for (int i = 0; i < N; i++) x[i] = (float)(rand() % 2001 - 1000) / 300.0f;
    printf("isa form pack decode round unpack (ns)\n");
    for (int isa = 0; isa < DL_ISA_COUNT; isa++)
        for (int wire = 0; dl_isa_available(isa) && dl_wire_of(wire); wire++) {
            printf("%s %s", dl_isa_names[isa], dl_wire_of(wire)->name);
            for (int kind = 0; kind < KINDS; kind++) {
                double best = 1e9;
                for (int n = 0; n < ROUNDS; n++) {
                    double begin = now();
                    for (int i = 0; i < CALLS; i++) run(dl_wire_fns_of(isa), wire, kind);
                    double took = (now() - begin) / CALLS;
                    best = took < best ? took : best;
                }
                printf(" %.0f", best);
            }
            printf("\n");
        }
    return 0;
}
