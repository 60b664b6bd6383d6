/* 3x3 convolutions in bf16, on AMX: a tile is 16 pixels by 32 inputs, 32 inputs by 16 results, or the
 * sums of 16 pixels by 16 results. */

#include "convolution.h"
#include "numbers.h"

#include <stdlib.h>

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && __GNUC__ >= 11
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#define HAS_AMX
#endif

#define TILE 16
/* Inputs that are multiplied at once. */
#define DEPTH 32
/* Pixels and results that are computed at once: two by two tiles of sums. */
#define SIDE (2 * TILE)
/* Pixels of each row that TILE results read. */
#define SEEN (TILE + 2)

/* What TILE pixels are computed from: three rows of SEEN pixels, the first of them to the upper left.
 * Strides count values. */
typedef struct {
    const uint16_t *values;
    ptrdiff_t row, pixel;
} Window;

/* A pixel reads 3 x inputs values of each row, which are cut to runs of a multiple of DEPTH values: one
 * per column of the kernel, or all in one, if the inputs are no such multiple. In one run the pixels
 * have to lie side by side. */
static inline int runs_of(ptrdiff_t inputs) { return inputs % DEPTH ? 1 : 3; }

/* Pieces of DEPTH values per row. The last one begins inside the one before if it has to. */
static inline ptrdiff_t pieces_of(ptrdiff_t inputs) { return (3 * inputs + DEPTH - 1) / DEPTH; }

/* The sums of two windows for `columns` x TILE results, `sums` (SIDE, SIDE).
 *
 * weights (columns, 3, pieces, DEPTH / 2, TILE, 2): row of the kernel, piece, pair of inputs, result,
 * input. The source has the rows from `from` to `to` of each window. */
typedef void (*Sums)(const Window windows[2], const uint16_t *weights, ptrdiff_t inputs, int from,
                     int to, int columns, float *sums);

/* The same as AMX: for tests on processors without it, and to check it on processors with it. */
static void plain_sums(const Window windows[2], const uint16_t *weights, ptrdiff_t inputs, int from,
                       int to, int columns, float *sums) {
    const int runs = runs_of(inputs);
    const ptrdiff_t run = 3 * inputs / runs, row = pieces_of(inputs) * DEPTH * TILE;
    memset(sums, 0, SIDE * SIDE * sizeof *sums);
    for (int pixel = 0; pixel < SIDE; pixel++, sums += SIDE)
        for (int y = from; y < to; y++) {
            const Window *in = windows + pixel / TILE;
            const uint16_t *a = in->values + y * in->row + pixel % TILE * in->pixel;
            const uint16_t *weight = weights + y * row;
            for (int x = 0; x < runs; x++, a += in->pixel)
                for (ptrdiff_t k = 0; k < run; k += DEPTH, weight += DEPTH * TILE)
                    for (int i = 0; i < DEPTH * columns; i++) {
                        const float value = from_bf16(a[LEAST(k, run - DEPTH) + i % DEPTH]);
                        const uint16_t *pairs =
                            weight + i / DEPTH * 3 * row + i % DEPTH / 2 * TILE * 2 + i % 2;
                        float *results = sums + i / DEPTH * TILE;
                        for (int n = 0; n < TILE; n++) results[n] += value * from_bf16(pairs[2 * n]);
                    }
        }
}

static void nothing(void) {}

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

/* Tiles 0 to 3 hold sums, 4 and 5 pixels, 6 and 7 weights. `columns` is known when it is compiled. */
FOR_AMX static inline __attribute__((always_inline)) void amx_columns(
    const Window windows[2], const uint16_t *weights, ptrdiff_t inputs, int from, int to, float *sums,
    const int columns) {
    const Window left = windows[0], right = windows[1];
    const int runs = runs_of(inputs);
    const ptrdiff_t run = 3 * inputs / runs, row = pieces_of(inputs) * DEPTH * TILE;
    /* GCC does not know that tiles are loaded from memory: what was written before must be there. */
    __asm__ volatile("" ::: "memory");
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int y = from; y < to; y++) {
        const uint16_t *weight = weights + y * row;
        for (int x = 0; x < runs; x++) {
            const uint16_t *a = left.values + y * left.row + x * left.pixel;
            const uint16_t *b = right.values + y * right.row + x * right.pixel;
            for (ptrdiff_t k = 0; k < run; k += DEPTH, weight += DEPTH * TILE) {
                const ptrdiff_t at = LEAST(k, run - DEPTH);
                _tile_loadd(4, a + at, left.pixel * 2);
                _tile_loadd(6, weight, 64);
                _tile_dpbf16ps(0, 4, 6);
                if (columns == 2) {
                    _tile_loadd(7, weight + 3 * row, 64);
                    _tile_dpbf16ps(1, 4, 7);
                }
                _tile_loadd(5, b + at, right.pixel * 2);
                _tile_dpbf16ps(2, 5, 6);
                if (columns == 2) _tile_dpbf16ps(3, 5, 7);
            }
        }
    }
    _tile_stored(0, sums, SIDE * sizeof *sums);
    _tile_stored(2, sums + TILE * SIDE, SIDE * sizeof *sums);
    if (columns == 2) {
        _tile_stored(1, sums + TILE, SIDE * sizeof *sums);
        _tile_stored(3, sums + TILE * SIDE + TILE, SIDE * sizeof *sums);
    }
}

FOR_AMX static void amx_sums(const Window windows[2], const uint16_t *weights, ptrdiff_t inputs,
                             int from, int to, int columns, float *sums) {
    if (columns == 2)
        amx_columns(windows, weights, inputs, from, to, sums, 2);
    else
        amx_columns(windows, weights, inputs, from, to, sums, 1);
}

/* 1 if AMX gives the sums of plain C. The numbers are whole and small, so no sum is rounded. */
static int amx_agrees(void) {
    enum { INPUTS = DEPTH + TILE - 3, PIXELS = SIDE + 2, PIECES = (3 * INPUTS + DEPTH - 1) / DEPTH };
    uint16_t in[3 * PIXELS * INPUTS], weights[2 * 3 * PIECES * DEPTH * TILE];
    float expected[SIDE * SIDE], sums[SIDE * SIDE] __attribute__((aligned(64)));
    for (int i = 0; i < 3 * PIXELS * INPUTS; i++) in[i] = to_bf16((float)(i % 7 - 3));
    for (int i = 0; i < 2 * 3 * PIECES * DEPTH * TILE; i++) weights[i] = to_bf16((float)(i % 5 - 2));
    const Window windows[2] = {{in, PIXELS * INPUTS, INPUTS},
                               {in + TILE * INPUTS, PIXELS * INPUTS, INPUTS}};
    plain_sums(windows, weights, INPUTS, 0, 3, 2, expected);
    begin_amx();
    amx_sums(windows, weights, INPUTS, 0, 3, 2, sums);
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

/* The window of the pixels from `column` on, in row `at`. It is copied to `copy` (3, SEEN, inputs) if
 * it leaves the picture, or if its pixels do not lie as they have to. */
static Window window_at(const Convolution *c, ptrdiff_t at, ptrdiff_t column, uint16_t *copy) {
    const uint16_t *in = c->in;
    if (column > 0 && column + TILE < c->width && !c->shift &&
        (runs_of(c->inputs) > 1 || c->in_pixel == c->inputs))
        return (Window){in + (at - 1) * c->in_row + (column - 1) * c->in_pixel, c->in_row, c->in_pixel};
    for (int y = 0; y < 3; y++) {
        const ptrdiff_t row = at - 1 + y;
        if (row < c->top || row >= c->bottom) continue;
        for (int x = 0; x < SEEN; x++) {
            uint16_t *to = copy + (y * SEEN + x) * c->inputs;
            const ptrdiff_t pixel = column - 1 + x;
            const size_t bytes = (size_t)c->inputs * sizeof *to;
            if (pixel < 0 || pixel >= c->width)
                memset(to, 0, bytes);
            else
                memcpy(to, in + (row >> c->shift) * c->in_row + (pixel >> c->shift) * c->in_pixel, bytes);
        }
    }
    return (Window){copy, SEEN * c->inputs, c->inputs};
}

/* TILE values, which the compiler keeps in what registers the processor has. */
typedef float Floats __attribute__((vector_size(4 * TILE), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(4 * TILE)));
typedef uint16_t Halves __attribute__((vector_size(2 * TILE), aligned(2), may_alias));

/* The first of TILE values in bf16, the others zero. `values` may be known when it is compiled. */
static inline __attribute__((always_inline)) Floats first_values(const uint16_t *from, ptrdiff_t values) {
    Halves halves = {0};
    memcpy(&halves, from, (size_t)values * sizeof *from);
    return (Floats)(__builtin_convertvector(halves, Bits) << 16);
}

static inline __attribute__((always_inline)) void finish_results(
    const Convolution *c, ptrdiff_t at, ptrdiff_t column, ptrdiff_t channel, ptrdiff_t count,
    const float *sums, const ptrdiff_t results) {
    const Floats bias = *(const Floats *)(c->bias + channel);
    const Floats slopes = *(const Floats *)(c->slopes + channel);
    const Addend first = c->addends[0], second = c->addends[1];
    const uint16_t *one = first.rows, *two = second.rows;
    if (one) one += at * first.row + column * first.pixel + channel;
    if (two) two += at * second.row + column * second.pixel + channel;
    const ptrdiff_t step = c->out_pixel;
    uint16_t *out = (uint16_t *)c->out + at * c->out_row + column * step + channel;
    for (const float *end = sums + count * SIDE; sums < end; sums += SIDE, out += step) {
        Floats value = *(const Floats *)sums + bias;
        const Bits above = (Bits)(value > 0.0f);
        value = (Floats)(((Bits)value & above) | ((Bits)(value * slopes) & ~above));
        if (one) value = value * first.scale + first_values(one, results), one += first.pixel;
        if (two) value = value * second.scale + first_values(two, results), two += second.pixel;
        /* As `to_bf16`. */
        const Bits bits = (Bits)value;
        const Halves halves =
            __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, Halves);
        memcpy(out, &halves, (size_t)results * sizeof *out);
    }
}

/* `count` pixels of row `at` from `column` on, of `results`, at most TILE, from `channel` on. */
FOR_EACH_PROCESSOR
static void finish(const Convolution *c, ptrdiff_t at, ptrdiff_t column, ptrdiff_t channel,
                   ptrdiff_t count, const float *sums, ptrdiff_t results) {
    if (results == TILE)
        finish_results(c, at, column, channel, count, sums, TILE);
    else
        finish_results(c, at, column, channel, count, sums, results);
}

/* SIDE pixels of row `at`, from `column` on. copies: memory for two windows. */
static void convolve_pixels(const Convolution *c, ptrdiff_t at, ptrdiff_t column, Sums sums_of,
                            uint16_t *copies) {
    const ptrdiff_t count = LEAST(SIDE, c->width - column);
    const int from = at - 1 < c->top, to = at + 1 < c->bottom ? 3 : 2;
    Window windows[2];
    windows[0] = window_at(c, at, column, copies);
    /* The second window may begin behind the picture; its sums are not used then. */
    windows[1] = count <= TILE ? windows[0]
                               : window_at(c, at, column + TILE, copies + 3 * SEEN * c->inputs);
    for (ptrdiff_t channel = 0; channel < c->outputs; channel += SIDE) {
        float sums[SIDE * SIDE] __attribute__((aligned(64)));
        const ptrdiff_t left = c->outputs - channel;
        const int columns = left > TILE ? 2 : 1;
        const uint16_t *weights =
            (const uint16_t *)c->weights + channel * 3 * pieces_of(c->inputs) * DEPTH;
        sums_of(windows, weights, c->inputs, from, to, columns, sums);
        for (int n = 0; n < columns; n++)
            finish(c, at, column, channel + n * TILE, count, sums + n * TILE,
                   LEAST(TILE, left - n * TILE));
    }
}

static int convolve_one(const Convolution *c, int threads, Sums sums, void (*begin)(void),
                        void (*end)(void)) {
    const ptrdiff_t across = (c->width + SIDE - 1) / SIDE;
    const ptrdiff_t blocks = across * (c->last - c->first);
    /* A multiple of the alignment. */
    const size_t copies_bytes = (2 * 3 * SEEN * (size_t)c->inputs * sizeof(uint16_t) + 63) / 64 * 64;
    int complete = 1;
#pragma omp parallel num_threads(threads) reduction(&& : complete)
    {
        uint16_t *copies = aligned_alloc(64, copies_bytes);
        complete = copies != NULL;
        begin();
        /* Guided: most rows that follow each other are one thread's, whose cache has what they share. */
#pragma omp for schedule(guided)
        for (ptrdiff_t number = 0; number < blocks; number++)
            if (copies)
                convolve_pixels(c, c->first + number / across, number % across * SIDE, sums, copies);
        end();
        free(copies);
    }
    return complete;
}

static int convolve(const Convolution *all, int count, int threads, Sums sums, void (*begin)(void),
                    void (*end)(void)) {
    for (const Convolution *c = all; c < all + count; c++)
        if (!convolve_one(c, threads, sums, begin, end)) return 0;
    return 1;
}

/* In bf16: weights (outputs / TILE, ...) in the layout of `Sums`; outputs are filled up with zeros to a
 * multiple of TILE, here and in bias and slopes. Inputs are at least DEPTH / 3. grid is ignored. Returns 0 if
 * there is no memory. */
int convolve_bf16(const Convolution *all, int count, int threads) {
#ifdef HAS_AMX
    return convolve(all, count, threads, amx_sums, begin_amx, end_amx);
#else
    return convolve(all, count, threads, plain_sums, nothing, nothing);
#endif
}

/* The same without AMX, many times slower, for tests. */
int convolve_bf16_plain(const Convolution *all, int count, int threads) {
    return convolve(all, count, threads, plain_sums, nothing, nothing);
}
