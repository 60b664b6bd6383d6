/* 3x3 convolutions for dense blocks. They read some of the channels of a buffer, write to others,
 * and add other rows to their result, so nothing has to be concatenated or added by itself.
 *
 * Arrays are channels last. Rows and columns outside of the picture are zero.
 */

#include "numbers.h"

#include <stddef.h>
#include <stdlib.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && \
    __GNUC__ >= 11
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#define HAS_AMX
#endif

#define ADDENDS 2
/* Results per block of weights. */
#define COLUMNS 16
#define POINTS 36
/* Inputs that are transformed and multiplied at once. */
#define DEPTH 32
/* Values from the tiles of one point to those of the next. The 16 avoid that all points fall into
 * the same sets of a cache. */
#define POINT_STRIDE(tiles, channels) ((tiles) * (channels) + 16)
/* The number of tiles that are computed at once is a multiple of it. */
#define TILES 12

/* rows: the first value of row 0, which need not be in memory. Strides count values. */
typedef struct {
    const void *rows;
    ptrdiff_t row, pixel;
    float scale;
} Addend;

/* One convolution, of rows `first` to `last`. Rows are numbered as in the source.
 *
 * Values below zero are multiplied by the slope of their channel. Then, for each addend that has
 * rows, the result is multiplied by the addend's scale and the addend is added. The source has rows
 * `top` to `bottom`; outside of them it is zero. shift: if 1, the source is read at twice its width
 * and height, each pixel four times, and all numbers are those of the enlarged source. grid: the
 * row at which the first row of tiles begins: `first`, or up to three rows above it. */
typedef struct {
    const void *in;
    ptrdiff_t in_row, in_pixel;
    void *out;
    ptrdiff_t out_row, out_pixel;
    const void *weights;
    const float *bias, *slopes;
    Addend addends[ADDENDS];
    ptrdiff_t width, inputs, outputs;
    ptrdiff_t top, bottom, first, last, grid;
    int shift;
} Convolution;

#define TEMPLATE "winograd.h"
#include "each_width.h"

typedef void (*Tiles)(const Convolution *, ptrdiff_t first, ptrdiff_t count, ptrdiff_t places,
                      float *scratch);

/* For this processor, or null. */
static Tiles tiles_of(int lanes) {
#ifdef HAS_WIDTHS
    if (lanes == 16) return tiles_16;
    if (lanes == 8) return tiles_8;
#endif
    return NULL;
}

/* A kernel's row or column of three, COLUMNS of them, as six points: G w. */
static inline void kernel_points(const float w[3][COLUMNS], float *to, ptrdiff_t step) {
    for (int n = 0; n < COLUMNS; n++) {
        const float outer = w[0][n] + w[2][n], spread = w[0][n] * 0.25f + w[2][n];
        to[n] = w[0][n] * 0.25f;
        to[step + n] = (outer + w[1][n]) * (-1.0f / 6);
        to[2 * step + n] = (outer - w[1][n]) * (-1.0f / 6);
        to[3 * step + n] = (spread + w[1][n] * 0.5f) * (1.0f / 6);
        to[4 * step + n] = (spread - w[1][n] * 0.5f) * (1.0f / 6);
        to[5 * step + n] = w[2][n];
    }
}

/* Weights (outputs, inputs, 3, 3) in the layout of `convolve_float`. */
void pack_float(const float *weights, ptrdiff_t outputs, ptrdiff_t inputs, float *packed,
                int threads) {
#pragma omp parallel for collapse(2) num_threads(threads)
    for (ptrdiff_t column = 0; column < outputs; column += COLUMNS)
        for (ptrdiff_t input = 0; input < inputs; input++) {
            float w[3][3][COLUMNS], half[3][6][COLUMNS];
            for (int n = 0; n < COLUMNS; n++)
                for (int tap = 0; tap < 9; tap++)
                    w[tap % 3][tap / 3][n] = weights[((column + n) * inputs + input) * 9 + tap];
            for (int x = 0; x < 3; x++) kernel_points(w[x], half[x][0], COLUMNS);
            const ptrdiff_t first = input / DEPTH * DEPTH, depth = LEAST(DEPTH, inputs - first);
            float *to = packed + POINTS * first * outputs + column * depth + (input - first) * COLUMNS;
            for (int y = 0; y < 6; y++) {
                float row[3][COLUMNS];
                for (int x = 0; x < 3; x++) memcpy(row[x], half[x][y], sizeof row[x]);
                kernel_points(row, to + 6 * y * outputs * depth, outputs * depth);
            }
        }
}

/* In float: weights (inputs / DEPTH, POINTS, outputs / COLUMNS, DEPTH, COLUMNS), each kernel
 * G w G^T; outputs are a multiple of COLUMNS, and so are inputs, the last DEPTH of which may be
 * fewer. Returns 0 if there is no memory. */
int convolve_float(const Convolution *c, int threads) {
    const int lanes = fastest_lanes();
    const Tiles tiles = tiles_of(lanes);
    /* How much of the second cache tiles may fill; the rest is for the weights that pass through. */
    const ptrdiff_t bytes = lanes == 16 ? 768 << 10 : 384 << 10;
    const ptrdiff_t total = (c->width + 3) / 4 * ((c->last - c->grid + 3) / 4);
    const ptrdiff_t tile_bytes = POINTS * (DEPTH + c->outputs) * (ptrdiff_t)sizeof(float);
    const ptrdiff_t fitting = bytes / tile_bytes / TILES * TILES;
    const ptrdiff_t places = fitting > TILES ? fitting : TILES;
    const size_t floats = POINTS * (POINT_STRIDE(places, DEPTH) + POINT_STRIDE(places, c->outputs));
    int complete = 1;
#pragma omp parallel num_threads(threads) reduction(&& : complete)
    {
        float *scratch = aligned_alloc(64, floats * sizeof(float));
        complete = scratch != NULL;
#pragma omp for schedule(dynamic)
        for (ptrdiff_t first = 0; first < total; first += places)
            if (scratch) tiles(c, first, LEAST(places, total - first), places, scratch);
        free(scratch);
    }
    return complete;
}

/* In bf16 -------------------------------------------------------------------------------------- */

/* Pixels and results that are computed at once: two by two AMX tiles of 16 x 16 sums. */
#define SIDE 32
/* Inputs per tile of weights. */
#define TILE_DEPTH 32

/* The sums of SIDE pixels for SIDE results, `sums` (SIDE, SIDE).
 *
 * in: the pixel to the upper left of the first. weights (inputs / TILE_DEPTH, 3, 3, 2, 16, 16, 2): by
 * row and column of the kernel, 16 results, pair of inputs, result, input. rows: those of the
 * kernel's three, from `from` to `to`, under which there is a source. */
typedef void (*Block)(const uint16_t *in, ptrdiff_t row, ptrdiff_t pixel, const uint16_t *weights,
                      ptrdiff_t inputs, int from, int to, float *sums);

/* The same as AMX: for tests on processors without it, and to check it on processors with it. */
static void plain_block(const uint16_t *in, ptrdiff_t row, ptrdiff_t pixel, const uint16_t *weights,
                        ptrdiff_t inputs, int from, int to, float *sums) {
    memset(sums, 0, SIDE * SIDE * sizeof *sums);
    for (ptrdiff_t k = 0; k < inputs; k += TILE_DEPTH)
        for (int tap = 0; tap < 9; tap++, weights += SIDE * TILE_DEPTH) {
            if (tap / 3 < from || tap / 3 >= to) continue;
            const uint16_t *a = in + tap / 3 * row + tap % 3 * pixel + k;
            for (int m = 0; m < SIDE; m++)
                for (int n = 0; n < SIDE; n++)
                    for (int i = 0; i < TILE_DEPTH; i++)
                        sums[m * SIDE + n] +=
                            from_bf16(a[m * pixel + i]) *
                            from_bf16(weights[((n / 16 * 16 + i / 2) * 16 + n % 16) * 2 + i % 2]);
        }
}

#ifdef HAS_AMX
#define FOR_AMX __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl")))

/* The processor's own layout: palette 1, and 16 rows of 64 bytes for each of 8 tiles. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileConfig;

static const TileConfig config = {
    1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

FOR_AMX static void begin_amx(void) { _tile_loadconfig(&config); }

FOR_AMX static void end_amx(void) { _tile_release(); }

FOR_AMX static void amx_block(const uint16_t *in, ptrdiff_t row, ptrdiff_t pixel,
                              const uint16_t *weights, ptrdiff_t inputs, int from, int to,
                              float *sums) {
    const ptrdiff_t stride = pixel * 2;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (ptrdiff_t k = 0; k < inputs; k += TILE_DEPTH)
        for (int y = from; y < to; y++) {
            const uint16_t *weight = weights + (k / TILE_DEPTH * 9 + y * 3) * SIDE * TILE_DEPTH;
            const uint16_t *a = in + y * row + k;
            for (int x = 0; x < 3; x++, a += pixel, weight += SIDE * TILE_DEPTH) {
                _tile_loadd(4, a, stride);
                _tile_loadd(6, weight, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_loadd(7, weight + SIDE * TILE_DEPTH / 2, 64);
                _tile_dpbf16ps(1, 4, 7);
                _tile_loadd(5, a + 16 * pixel, stride);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
        }
    _tile_stored(0, sums, SIDE * sizeof *sums);
    _tile_stored(1, sums + 16, SIDE * sizeof *sums);
    _tile_stored(2, sums + 16 * SIDE, SIDE * sizeof *sums);
    _tile_stored(3, sums + 16 * SIDE + 16, SIDE * sizeof *sums);
}
#endif

/* `count` pixels of results `channel` to `channel` + SIDE, of row `at` from `column` on. */
FOR_EACH_PROCESSOR
static void finish_block(const Convolution *c, ptrdiff_t at, ptrdiff_t column, ptrdiff_t channel,
                         ptrdiff_t count, const float *sums) {
    float bias[SIDE], slopes[SIDE];
    memcpy(bias, c->bias + channel, sizeof bias);
    memcpy(slopes, c->slopes + channel, sizeof slopes);
    for (ptrdiff_t x = column; x < column + count; x++, sums += SIDE) {
        float values[SIDE];
        for (int i = 0; i < SIDE; i++) {
            const float value = sums[i] + bias[i];
            values[i] = value > 0.0f ? value : value * slopes[i];
        }
        for (const Addend *addend = c->addends; addend < c->addends + ADDENDS; addend++) {
            if (!addend->rows) continue;
            const uint16_t *more = (const uint16_t *)addend->rows + at * addend->row +
                                   x * addend->pixel + channel;
            for (int i = 0; i < SIDE; i++)
                values[i] = values[i] * addend->scale + from_bf16(more[i]);
        }
        uint16_t *out = (uint16_t *)c->out + at * c->out_row + x * c->out_pixel + channel;
        for (int i = 0; i < SIDE; i++) out[i] = to_bf16(values[i]);
    }
}

static void convolve_block(const Convolution *c, ptrdiff_t number, Block block) {
    const ptrdiff_t across = (c->width + SIDE - 1) / SIDE;
    const ptrdiff_t at = c->first + number / across, column = number % across * SIDE;
    const int from = at - 1 < c->top, to = at + 1 < c->bottom ? 3 : 2;
    const uint16_t *in =
        (const uint16_t *)c->in + (at - 1) * c->in_row + (column - 1) * c->in_pixel;
    const uint16_t *weights = c->weights;
    for (ptrdiff_t channel = 0; channel < c->outputs; channel += SIDE) {
        float sums[SIDE * SIDE] __attribute__((aligned(64)));
        block(in, c->in_row, c->in_pixel, weights, c->inputs, from, to, sums);
        finish_block(c, at, column, channel, LEAST(SIDE, c->width - column), sums);
        weights += 9 * SIDE * c->inputs;
    }
}

#ifdef HAS_AMX
/* 1 if AMX gives the sums of plain C. The numbers are whole and small, so no sum is rounded. */
static int amx_agrees(void) {
    enum { PIXELS = SIDE + 2, INPUTS = 2 * TILE_DEPTH };
    uint16_t in[3 * PIXELS * INPUTS], weights[9 * SIDE * INPUTS];
    float expected[SIDE * SIDE], sums[SIDE * SIDE] __attribute__((aligned(64)));
    for (int i = 0; i < 3 * PIXELS * INPUTS; i++) in[i] = to_bf16((float)(i % 7 - 3));
    for (int i = 0; i < 9 * SIDE * INPUTS; i++) weights[i] = to_bf16((float)(i % 5 - 2));
    plain_block(in, PIXELS * INPUTS, INPUTS, weights, INPUTS, 0, 3, expected);
    begin_amx();
    amx_block(in, PIXELS * INPUTS, INPUTS, weights, INPUTS, 0, 3, sums);
    end_amx();
    return memcmp(sums, expected, sizeof sums) == 0;
}
#endif

/* 1 if this processor has what `convolve_bf16` needs, the system allows its use, and its results
 * are right. */
int convolves_bf16(void) {
#ifdef HAS_AMX
    static int known = -1;
    if (known < 0)
        /* ARCH_REQ_XCOMP_PERM for XTILEDATA. */
        known = __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl") && syscall(SYS_arch_prctl, 0x1023, 18) == 0 &&
                amx_agrees();
    return known;
#else
    return 0;
#endif
}

/* In bf16: weights (outputs / SIDE, ...) in the layout of `Block`; inputs and outputs are multiples
 * of SIDE. The pixels before and behind each row are zero in memory, and SIDE more can be read.
 * grid and shift are ignored. Always returns 1. */
int convolve_bf16(const Convolution *c, int threads) {
#ifdef HAS_AMX
    const ptrdiff_t blocks = (c->width + SIDE - 1) / SIDE * (c->last - c->first);
#pragma omp parallel num_threads(threads)
    {
        begin_amx();
#pragma omp for schedule(dynamic, 4)
        for (ptrdiff_t number = 0; number < blocks; number++) convolve_block(c, number, amx_block);
        end_amx();
    }
#endif
    return 1;
}

/* The same without AMX, many times slower, for tests. */
int convolve_bf16_plain(const Convolution *c, int threads) {
    const ptrdiff_t blocks = (c->width + SIDE - 1) / SIDE * (c->last - c->first);
#pragma omp parallel for num_threads(threads)
    for (ptrdiff_t number = 0; number < blocks; number++) convolve_block(c, number, plain_block);
    return 1;
}
