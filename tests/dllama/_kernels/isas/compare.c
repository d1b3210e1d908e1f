/* Compares every kernel of every instruction set with the baseline, bit by bit, on random inputs.
 *
 *   compare            prints the instruction sets that this machine supports
 *   compare NAME...    compares these; a build that emulates what is missing has all
 *
 * Exits with status 1 at the first difference.
 */
#include <stdio.h>
#include <stdlib.h>
#include "simd/attend.h"
#include "simd/cpu.h"
#include "simd/delta.h"
#include "simd/floats.h"
#include "simd/matmul.h"
#include "simd/quants.h"
#include "simd/sampling.h"
#include "simd/search.h"
#include "simd/wires.h"

enum { MOST = 1 << 15 };

static int isa;
static uint64_t state = 88172645463325252u;

static uint32_t draw(void) /* xorshift64 (Marsaglia 2003) */
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32);
}

/* A roughly normal number with standard deviation `size`. */
static float normal(float size)
{
    float sum = 0.0f;
    for (int i = 0; i < 3; i++) sum += (float)(draw() >> 8) * 0x1p-23f;
    return (sum - 3.0f) * size;
}

static void normals(float *x, int64_t n, float size)
{
    for (int64_t i = 0; i < n; i++) x[i] = normal(size);
}

static void same(const void *got, const void *expected, size_t bytes, const char *what, int a, int b)
{
    if (memcmp(got, expected, bytes) == 0) return;
    printf("%s differs from baseline: %s %d %d\n", dl_isa_names[isa], what, a, b);
    exit(1);
}

/* Where the float16 numbers of a block are; -1 for none. */
static const int *scales_at(int type)
{
    static const int at[][2] = {
        [dl_type_q40] = {0, -1}, [dl_type_q80] = {0, -1}, [dl_type_q41] = {0, 2}, [dl_type_q50] = {0, -1},
        [dl_type_q51] = {0, 2}, [dl_type_q2k] = {80, 82}, [dl_type_q3k] = {108, -1}, [dl_type_q4k] = {0, 2},
        [dl_type_q5k] = {0, 2}, [dl_type_q6k] = {208, -1}, [dl_type_iq4nl] = {0, -1}, [dl_type_iq4xs] = {0, -1},
        [dl_type_mxfp4] = {-1, -1},
    };
    return at[type];
}

/* A row of stored numbers. Quantised numbers take all values of a byte, including -128. */
static void fill_row(const dl_weight_type *type, int64_t k, uint8_t *row)
{
    if (!type->quantised) {
        static float w[MOST];
        normals(w, k, 1.0f);
        dl_quants_of(0)->encode(w, DL_SRC_F32, k, type->id, row);
        return;
    }
    for (int64_t i = 0; i < dl_type_bytes(type->id, k); i++) row[i] = (uint8_t)draw();
    for (int64_t b = 0; b < k / type->block; b++) {
        const int *at = scales_at(type->id);
        if (type->id == dl_type_mxfp4) row[b * type->bytes] = (uint8_t)(110 + draw() % 20);
        for (int i = 0; i < 2 && at[i] >= 0; i++) {
            uint16_t scale = dl_float_to_half(normal(0.1f));
            memcpy(row + b * type->bytes + at[i], &scale, 2);
        }
    }
}

/* skip: columns of a row before those of the panel. */
static void fill_panel(const dl_weight_type *type, int64_t skip, int64_t k, uint8_t *panel)
{
    static uint8_t row[MOST * 4];
    int64_t whole = (skip + k + type->block - 1) / type->block * type->block;
    for (int r = 0; r < 16; r++) {
        fill_row(type, whole, row);
        if (dl_pack_row(type->id, skip, k, r, row, panel)) exit(2);
    }
}

/* Activations of n tokens. Every third block is at the limits of its bytes. */
static void fill_tokens(int64_t nb, int n, int8_t *q, float *d, int32_t *s, int32_t *h)
{
    float x[32];
    for (int64_t b = 0; b < nb; b++)
        for (int i = 0; i < n; i++) {
            int64_t at = b * n + i;
            for (int e = 0; e < 32; e++) x[e] = b % 3 ? normal(1.0f) : draw() & 1 ? 1.0f : -1.0f;
            dl_floats_of(0)->quantise_row(x, 1, n, q + (b * 8 * n + i) * 4, d + at, s + at, h + at);
        }
}

enum { SUMS = 4 }; /* most sums of a tile in this test */

typedef float Sums[SUMS][DL_TILE_MOST][16];

/* The sums of a tile, stored or, with factors, added to out. */
static void run_tile(dl_tile tile, dl_tile_fn run, int n, const float *factors, Sums out)
{
    tile.out_stride = DL_TILE_MOST * 16, tile.factors = factors;
    for (int i = 0; i < n; i++) tile.out[i] = out[0][i];
    run(&tile, n);
}

/* Buffers have the exact size, so that a sanitizer sees reads beyond them. */
static void check_tile(const dl_weight_type *type, int64_t skip, int64_t k, const dl_segment *order, int segments, int n)
{
    int64_t nb = k / 32;
    const dl_tiles *tiles = dl_tiles_of(isa, type->id), *base = dl_tiles_of(0, type->id);
    uint8_t *panel = calloc(1, (size_t)dl_panel_bytes(type->id, skip, k));
    int8_t *q = malloc((size_t)(k * n));
    float *x = malloc((size_t)(k * n) * sizeof *x), *d = malloc((size_t)(nb * n) * sizeof *d);
    int32_t *s = malloc((size_t)(nb * n) * sizeof *s), *h = malloc((size_t)(nb * n) * sizeof *h);
    Sums got = {{{0}}}, expected = {{{0}}};
    float factors[DL_TILE_MOST];
    dl_tile tile = {.w = panel, .q = q, .d = d, .s = s, .h = h, .x = x, .ldx = k, .order = order, .segments = segments};
    tile.skip = skip, tile.headers = dl_panel_headers(type->id, skip, k);
    fill_panel(type, skip, k, panel);
    if (!type->quantised) normals(x, k * n, 1.0f);
    for (int64_t i = 0; type->quantised && i < n; i += DL_TILE_TOKENS)
        fill_tokens(nb, n < DL_TILE_TOKENS ? n : DL_TILE_TOKENS, q + i * k, d + i * nb, s + i * nb, h + i * nb);
    normals(factors, n, 1.0f);
    for (int weighted = 0; weighted < 2; weighted++) {
        const float *given = weighted ? factors : NULL;
        run_tile(tile, tiles->run, n, given, got);
        run_tile(tile, base->run, n, given, expected);
        same(got, expected, sizeof expected, "tile of type and tokens", type->id, n);
    }
    free(panel), free(q), free(x), free(d), free(s), free(h);
}

static void check_tiles(void)
{
    const dl_segment one[] = {{32, 0, 1}}, odd[] = {{7, 0, 1}}, odds[] = {{9, 0, 0}, {2, 0, 0}, {25, 2, 1}};
    const dl_segment many[] = {{64, 0, 0}, {32, 0, 0}, {96, 1, 0}, {32, 0, 0}, {32, 0, 0}, {160, 2, 0}, {64, 1, 1}};
    const dl_segment some[] = {{64, 0, 1}, {32, 0, 0}, {96, 0, 0}, {32, 2, 1}, {32, 0, 1}, {160, 0, 0}, {64, 1, 1}};
    const dl_weight_type *type;
    for (int id = 0; (type = dl_weight_type_of(id)); id++)
        for (int n = 1; n <= dl_tiles_of(isa, id)->most; n += n < DL_TILE_TOKENS ? 1 : DL_TILE_TOKENS) {
            check_tile(type, 0, 32, one, 1, n);
            check_tile(type, 0, 480, many, 7, n);
            check_tile(type, type->block == 256 ? 96 : 0, 480, some, 7, n);
            if (type->block == 1) check_tile(type, 0, 7, odd, 1, n), check_tile(type, 0, 36, odds, 3, n);
        }
}

static void check_floats(void)
{
    static float x[MOST], w[MOST], got[MOST], expected[MOST];
    static int8_t q[2][MOST];
    static float d[2][MOST];
    static int32_t s[2][MOST], h[2][MOST];
    const int sizes[] = {1, 15, 16, 17, 33, 288, 1001};
    const dl_floats *f = dl_floats_of(isa), *base = dl_floats_of(0);
    for (int z = 0; z < 7; z++) {
        int n = sizes[z];
        size_t bytes = (size_t)n * sizeof(float);
        normals(x, n, 3.0f), normals(w, n, 1.0f);
        f->rmsnorm(x, w, 1e-5f, n, got), base->rmsnorm(x, w, 1e-5f, n, expected);
        same(got, expected, bytes, "rmsnorm", n, 0);
        f->layernorm(x, w, x, 1e-5f, n, got), base->layernorm(x, w, x, 1e-5f, n, expected);
        same(got, expected, bytes, "layernorm", n, 0);
        f->layernorm(x, w, NULL, 1e-5f, n, got), base->layernorm(x, w, NULL, 1e-5f, n, expected);
        same(got, expected, bytes, "layernorm without bias", n, 0);
        f->silu(x, n, got), base->silu(x, n, expected);
        same(got, expected, bytes, "silu", n, 0);
        f->gelu(x, n, got), base->gelu(x, n, expected);
        same(got, expected, bytes, "gelu", n, 0);
        f->swiglu(x, w, n, got), base->swiglu(x, w, n, expected);
        same(got, expected, bytes, "swiglu", n, 0);
        f->geglu(x, w, n, got), base->geglu(x, w, n, expected);
        same(got, expected, bytes, "geglu", n, 0);
        f->swiglu_clamped(x, w, n, 2.5f, got), base->swiglu_clamped(x, w, n, 2.5f, expected);
        same(got, expected, bytes, "swiglu_clamped", n, 0);
        normals(x, n, 60.0f);
        x[0] = -INFINITY;
        f->softcap(x, n, 0.5f, got), base->softcap(x, n, 0.5f, expected);
        same(got, expected, bytes, "softcap", n, 0);
        f->exp_row(x, n, got), base->exp_row(x, n, expected);
        same(got, expected, bytes, "exp", n, 0);
    }
    for (int n = 1; n <= DL_TILE_TOKENS; n++) {
        normals(x, 96, 1.0f);
        memset(x + 32, 0, 128);
        f->quantise_row(x, 3, n, q[0], d[0], s[0], h[0]), base->quantise_row(x, 3, n, q[1], d[1], s[1], h[1]);
        same(q[0], q[1], sizeof q[0], "quantised row", n, 0);
        same(d[0], d[1], sizeof d[0], "scales of a row", n, 0);
        same(s[0], s[1], sizeof s[0], "sums of a row", n, 0);
        same(h[0], h[1], sizeof h[0], "sums of half blocks", n, 0);
    }
}

/* The keys and values of a block as `type` stores them. */
typedef struct { uint8_t k[4 * DL_KV_BLOCK * DL_HEAD_MAX], v[4 * DL_KV_BLOCK * DL_HEAD_MAX]; } kv_block;

/* Fills keys or values of a block; x[DL_KV_BLOCK * padded]. Positions beyond `count` are stale. */
static void fill_block(const dl_attention *f, int type, int size, int count, const float *x, int is_value, uint8_t *block)
{
    int padded = (size + 15) / 16 * 16, n = DL_KV_BLOCK * padded;
    if (type == dl_type_f32) memcpy(block, x, (size_t)n * 4);
    if (type == dl_type_f16) f->to_half(x, n, (uint16_t *)block);
    if (type != dl_type_q80) return;
    for (int at = 0; at < DL_KV_BLOCK; at++) {
        float head[DL_HEAD_MAX];
        for (int d = 0; d < size; d++) head[d] = x[at * padded + d] * (at % 37 == 5 ? 0.0f : at % 37 == 9 ? 1e-6f : 1.0f);
        if (at >= count) head[0] = INFINITY;
        f->put_q80(head, size, at, is_value, block);
    }
}

enum { STARTS = 256 };

/* pool[DL_KV_BLOCK * DL_HEAD_MAX + STARTS * 16]: numbers of which keys and values are some in a row, since to draw
 * them takes longer than attention. shared: values are the first elements of keys. */
static void check_attend(
    const float *pool, int type, int size, int value_size, int n, int begin, int count, int shared)
{
    static float q[4 * DL_HEAD_MAX], scores[DL_ATTEND_ROWS * DL_KV_BLOCK];
    static kv_block blocks[2];
    static dl_partial partials[2][DL_ATTEND_ROWS];
    float out[2][DL_HEAD_MAX] = {{0}};
    int padded = (size + 15) / 16 * 16, values = (value_size + 15) / 16 * 16;
    const dl_attention *f[2] = {dl_attention_of(isa), dl_attention_of(0)};
    const float *x = pool + draw() % STARTS * 16;
    normals(q, 4 * size, 1.0f);
    memset(blocks, 0, sizeof blocks);
    for (int i = 0; i < 2; i++) {
        fill_block(f[i], type, size, count, x, 0, blocks[i].k);
        if (!shared) fill_block(f[i], type, value_size, count, x, 1, blocks[i].v);
        dl_attend job = {
            .k = blocks[i].k, .v = shared ? blocks[i].k : blocks[i].v, .stride = shared ? padded : values, .q = q, .size = size, .padded = padded, .values = values,
            .begin = begin / 16 * 16, .count = count, .cap = n == 3 ? 5.0f : 0.0f, .scores = scores,
            .partial = partials[i],
        };
        for (int r = 0; r < n; r++) {
            job.limit[r] = r == 1 ? 0 : count - r * 3 > 0 ? count - r * 3 : 1;
            job.first[r] = r != 1 && begin ? begin + r : 0;
        }
        if (shared) f[i]->attend_shared[type](&job, n);
        else f[i]->attend[type](&job, n);
        f[i]->merge(&partials[i][0], &partials[i][n - 1], values);
        f[i]->finish(&partials[i][0], value_size, out[i]);
    }
    same(&blocks[0], &blocks[1], sizeof blocks[0], "stored keys and values of type and size", type, size);
    for (int r = 0; r < n; r++)
        same(&partials[0][r], &partials[1][r], (size_t)(2 + values) * 4, "attention of size and rows", size, n);
    same(out[0], out[1], sizeof out[0], "finished attention", size, n);
    for (int d = 0; d < value_size; d++)
        if (!isfinite(out[0][d])) printf("attention of type %d is not finite\n", type), exit(1);
}

static void check_attention(void)
{
    const int types[] = {dl_type_f32, dl_type_f16, dl_type_q80}, sizes[] = {1, 12, 64, 80, 80, DL_HEAD_MAX};
    const int value_sizes[] = {1, 12, 64, 80, 41, 512};
    static float pool[DL_KV_BLOCK * DL_HEAD_MAX + STARTS * 16];
    normals(pool, DL_KV_BLOCK * DL_HEAD_MAX + STARTS * 16, 1.0f);
    for (int t = 0; t < 3; t++)
        for (int z = 0; z < 6; z++)
            for (int n = 1; n <= DL_ATTEND_ROWS; n++) {
                check_attend(pool, types[t], sizes[z], value_sizes[z], n, 0, 5, 0);
                check_attend(pool, types[t], sizes[z], value_sizes[z], n, 0, 77, 0);
                check_attend(pool, types[t], sizes[z], value_sizes[z], n, 0, DL_KV_BLOCK, 0);
                check_attend(pool, types[t], sizes[z], value_sizes[z], n, 23, 77, 0);
                check_attend(pool, types[t], sizes[z], value_sizes[z], n, 200, DL_KV_BLOCK, 0);
                if (z > 2) check_attend(pool, types[t], sizes[z], value_sizes[z], n, 23, 77, 1);
            }
}

/* Numbers of all sizes. Every third block is tiny, every fourth holds zeros of both signs. */
static void fill_source(uint8_t *src, int src_type, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float x = i / 32 % 4 == 3 ? (draw() & 1 ? 0.0f : -0.0f) : normal(i / 32 % 3 ? 1.0f : 1e-6f);
        uint16_t half = dl_float_to_half(x);
        uint32_t bits;
        memcpy(&bits, &x, 4);
        if (src_type == DL_SRC_BF16) half = (uint16_t)(bits >> 16);
        if (src_type == DL_SRC_F32) memcpy(src + 4 * i, &x, 4); else memcpy(src + 2 * i, &half, 2);
    }
}

static void check_quants(void)
{
    static uint8_t src[MOST], dst[2][MOST];
    static float back[2][MOST];
    const dl_quants *f = dl_quants_of(isa), *base = dl_quants_of(0);
    const dl_weight_type *row;
    for (int source = DL_SRC_F32; source <= DL_SRC_BF16; source++)
        for (int type = 0; (row = dl_weight_type_of(type)); type++) {
            int64_t n = row->block == 1 ? 1003 : row->block == 32 ? 32 * 33 : 256 * 5;
            fill_source(src, source, n);
            if (dl_type_is_encoded(type)) {
                int a = f->encode(src, source, n, type, dst[0]), b = base->encode(src, source, n, type, dst[1]);
                same(&a, &b, sizeof a, "finite", source, type);
                same(dst[0], dst[1], sizeof dst[0], "encoded", source, type);
            } else {
                fill_row(row, n, dst[0]);
                memcpy(dst[1], dst[0], sizeof dst[0]);
            }
            f->decode(dst[0], type, n, back[0]), base->decode(dst[1], type, n, back[1]);
            same(back[0], back[1], sizeof back[0], "decoded", source, type);
        }
}

static void check_search(void)
{
    enum { N = 1024 };
    static float x[N], importance[N];
    static uint8_t dst[2][4 * N];
    const float sizes[] = {1.0f, 1e-6f, 300.0f};
    for (int type = 0; type < 256; type++) {
        if (!dl_type_is_searched(type)) continue;
        for (int z = 0; z < 30; z++) {
            normals(x, N, sizes[z % 3]), normals(importance, N, 1.0f);
            for (int i = 0; i < N; i++) importance[i] = fabsf(importance[i]), x[i] += z % 5 ? 0.0f : 2.0f;
            const float *columns = z % 2 ? importance : NULL;
            int a = dl_search_of(isa)(x, columns, N, type, dst[0]);
            int b = dl_search_of(0)(x, columns, N, type, dst[1]);
            same(&a, &b, sizeof a, "search is finite", type, z);
            same(dst[0], dst[1], sizeof dst[0], "searched", type, z);
        }
    }
}

static void check_sampling(void)
{
    static float logits[1500];
    static int32_t octave[2][DL_RUN], mass[2][DL_RUN], index[2][DL_RUN];
    const dl_sampling *f[2] = {dl_sampling_of(isa), dl_sampling_of(0)};
    const int sizes[] = {1, 15, 31, 250, 512};
    for (int z = 0; z < 5; z++) {
        int n = sizes[z], usable[2];
        float top[2];
        int64_t count[2];
        uint64_t sums[2][DL_OCTAVES] = {{0}};
        normals(logits, 1500, 8.0f);
        logits[n / 2] = -INFINITY;
        for (int i = 0; i < 2; i++) {
            usable[i] = f[i]->usable(logits, n), top[i] = f[i]->top(logits, n);
            f[i]->masses(logits, n, 1.8f, octave[i], mass[i]);
            f[i]->sum_masses(logits, 1500 - n, 1.8f, 90, sums[i]);
            count[i] = f[i]->select(logits, n, 1.8f, -2.0f, -1.0f, index[i]);
        }
        same(&usable[0], &usable[1], sizeof(int), "usable", n, 0);
        same(&top[0], &top[1], sizeof(float), "top", n, 0);
        same(octave[0], octave[1], sizeof octave[0], "octaves", n, 0);
        same(mass[0], mass[1], sizeof mass[0], "masses", n, 0);
        same(sums[0], sums[1], sizeof sums[0], "sums of masses", n, 0);
        same(&count[0], &count[1], sizeof(int64_t), "count of selected", n, 0);
        same(index[0], index[1], (size_t)count[0] * 4, "selected", n, 0);
    }
}

static void check_deltas(void)
{
    const dl_deltas *f[2] = {dl_deltas_of(isa), dl_deltas_of(0)};
    static float x[4][128], w[4][128], start[64 * 48], states[2][64 * 48], y[2][128];
    const float *rows[4] = {x[0], x[1], x[2], x[3]};
    for (int n = 1; n <= 128; n += 9) {
        normals(x[0], 4 * 128, 2.0f), normals(w[0], 4 * 128, 1.0f), normals(start, 64 * 48, 1.0f);
        memcpy(states[0], start, sizeof start), memcpy(states[1], start, sizeof start);
        const float *biases[2] = {NULL, x[1]};
        for (int b = 0; b < 2; b++) {
            for (int i = 0; i < 2; i++) f[i]->conv(rows, w[0], 128, 4, biases[b], n, y[i]);
            same(y[0], y[1], (size_t)n * 4, "conv", n, 4);
        }
        for (int i = 0; i < 2; i++) y[i][0] = f[i]->squares(x[0], n);
        same(y[0], y[1], 4, "squares", n, 0);
        for (int i = 0; i < 2; i++) f[i]->gate(x[0], x[1], n, y[i]);
        same(y[0], y[1], (size_t)n * 4, "gate", n, 0);
        int K = n % 64 + 1;
        for (int i = 0; i < 2; i++) f[i]->delta(states[i], x[0], x[1], x[2], K, 48, 0.9f, 0.3f, y[i]);
        same(y[0], y[1], 48 * 4, "delta", K, 48);
        same(states[0], states[1], sizeof start, "state", K, 48);
        for (int i = 0; i < 2; i++) f[i]->scan(states[i], x[0], x[1], x[2], K, 48, 0.9f, y[i]);
        same(y[0], y[1], 48 * 4, "scan", K, 48);
        same(states[0], states[1], sizeof start, "state of scan", K, 48);
    }
}

/* What nodes send: packed with and without a carry, decoded, rounded again and unpacked. */
static void check_wire(int wire, int64_t n)
{
    static float x[MOST], carry[2][MOST], back[2][MOST], out[2][MOST];
    static uint8_t dst[2][4 * MOST];
    const dl_wire_fns *f[2] = {dl_wire_fns_of(isa), dl_wire_fns_of(0)};
    int64_t strip = n < DL_STRIP ? n : DL_STRIP;
    for (int round = 0; round < 3; round++) {
        fill_source((uint8_t *)x, DL_SRC_F32, n);
        for (int i = 0; i < 2; i++) {
            f[i]->pack(x, round ? carry[i] : NULL, round == 1, n, wire, dst[i]);
            f[i]->decode(dst[i], n, wire, back[i]);
        }
        same(dst[0], dst[1], sizeof dst[0], "packed form and numbers", wire, (int)n);
        same(carry[0], carry[1], sizeof carry[0], "carried form and numbers", wire, (int)n);
        same(back[0], back[1], sizeof back[0], "received form and numbers", wire, (int)n);
        for (int i = 0; i < 2; i++) {
            f[i]->round(back[i], carry[i], strip, wire, dst[i]);
            f[i]->unpack(back[i], n, wire, round, out[i]);
        }
        same(carry[0], carry[1], sizeof carry[0], "carried sum of form", wire, (int)n);
        same(out[0], out[1], sizeof out[0], "unpacked form and numbers", wire, (int)n);
    }
}

static void check_wires(void)
{
    for (int wire = 0; dl_wire_of(wire); wire++) {
        check_wire(wire, 32), check_wire(wire, 64), check_wire(wire, 480);
        if (dl_wire_of(wire)->block == 1) check_wire(wire, 7), check_wire(wire, 77);
    }
}

/* Whether all but tiles is code of another instruction set. */
static int has_vectors_of_the_one_before(void)
{
    return memcmp(dl_attention_of(isa), dl_attention_of(isa - 1), sizeof(dl_attention)) == 0;
}

int main(int argc, char **argv)
{
    for (isa = 1; isa < DL_ISA_COUNT; isa++) {
        int wanted = 0;
        for (int i = 1; i < argc; i++) wanted |= strcmp(argv[i], dl_isa_names[isa]) == 0;
        if (argc == 1 ? dl_isa_available(isa) : wanted) printf("%s\n", dl_isa_names[isa]);
        if (!wanted) continue;
        check_tiles();
        if (has_vectors_of_the_one_before()) continue;
        check_floats();
        check_attention();
        check_quants();
        check_search();
        check_sampling();
        check_deltas();
        check_wires();
    }
    return 0;
}
