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
/* Rows of results that are computed at once, each with a tile of sums. */
#define ROWS 4
/* What ROWS by TILE results read: rows, and pixels of each. */
#define SEEN_ROWS (ROWS + 2)
#define SEEN (TILE + 2)
/* Blocks of ROWS by TILE pixels that a thread computes of one convolution before the next one follows. What these read
 * and write stays in the thread's second cache: with twice or half as many RRDB takes a twentieth longer. */
#define BLOCKS_IN_A_ROW 16

/* What TILE pixels of some rows are computed from, the first of it to their upper left. Strides count values. */
typedef struct {
    const uint16_t *values;
    ptrdiff_t row, pixel;
} Window;

/* A result reads 3 x inputs values of each row, in pieces of DEPTH. If the inputs are a multiple of DEPTH, the same
 * inputs of the three columns follow each other: what was read once is in the first cache then. Otherwise the columns
 * are one run of values, for which the pixels have to lie side by side, and the last piece begins inside the one
 * before if it has to. */
static inline int is_one_run(ptrdiff_t inputs) { return inputs % DEPTH != 0; }

static inline ptrdiff_t pieces_of(ptrdiff_t inputs) { return (3 * inputs + DEPTH - 1) / DEPTH; }

/* Where a piece begins, counted from the first value of a row. */
static inline ptrdiff_t piece_at(ptrdiff_t inputs, ptrdiff_t pixel, ptrdiff_t number) {
    return is_one_run(inputs) ? LEAST(number * DEPTH, 3 * inputs - DEPTH)
                              : number / 3 * DEPTH + number % 3 * pixel;
}

/* What a processor does in its own way. */
typedef struct {
    void (*begin)(void);
    /* The sums of a window for TILE results, `sums` (rows, TILE, TILE): row, pixel, result.
     *
     * weights (pieces, 3, DEPTH / 2, TILE, 2): piece, row of the kernel, pair of inputs, result, input. */
    void (*sums)(Window window, const uint16_t *weights, ptrdiff_t inputs, int rows, float *sums);
    /* From sums to `count` pixels of row `at` from `column` on, of `results`, at most TILE, from `channel` on. */
    void (*finish)(const Convolution *c, ptrdiff_t at, ptrdiff_t column, ptrdiff_t count, ptrdiff_t channel,
                   ptrdiff_t results, const float *sums);
    void (*end)(void);
} Processor;

static void nothing(void) {}

static void plain_sums(Window window, const uint16_t *weights, ptrdiff_t inputs, int rows, float *sums) {
    memset(sums, 0, (size_t)rows * TILE * TILE * sizeof *sums);
    for (ptrdiff_t piece = 0; piece < pieces_of(inputs); piece++)
        for (int kernel = 0; kernel < 3; kernel++, weights += DEPTH * TILE)
            for (int pixel = 0; pixel < rows * TILE; pixel++) {
                const uint16_t *in = window.values + (pixel / TILE + kernel) * window.row +
                                     pixel % TILE * window.pixel + piece_at(inputs, window.pixel, piece);
                float *results = sums + pixel * TILE;
                for (int i = 0; i < DEPTH; i++)
                    for (int n = 0; n < TILE; n++)
                        results[n] += from_bf16(in[i]) * from_bf16(weights[(i / 2 * TILE + n) * 2 + i % 2]);
            }
}

static void plain_finish(const Convolution *c, ptrdiff_t at, ptrdiff_t column, ptrdiff_t count,
                         ptrdiff_t channel, ptrdiff_t results, const float *sums) {
    for (ptrdiff_t pixel = column; pixel < column + count; pixel++, sums += TILE)
        for (ptrdiff_t n = 0; n < results; n++) {
            const ptrdiff_t result = channel + n;
            float value = sums[n] + c->bias[result];
            if (value < 0) value *= c->slopes[result];
            for (const Addend *a = c->addends; a < c->addends + ADDENDS; a++)
                if (a->rows)
                    value = value * a->scale + value_at(a->rows, at * a->row + pixel * a->pixel + result, 1);
            ((uint16_t *)c->out)[at * c->out_row + pixel * c->out_pixel + result] = to_bf16(value);
        }
}

/* For tests on processors without AMX, and to check it on processors with it. */
static const Processor plain = {nothing, plain_sums, plain_finish, nothing};

#ifdef HAS_AMX
#define FOR_AMX __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512bf16")))

/* The processor's own layout: palette 1, and 16 rows of 64 bytes for each of 8 tiles. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileConfig;

static const TileConfig config = {
    1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

FOR_AMX static void amx_begin(void) { _tile_loadconfig(&config); }

FOR_AMX static void amx_end(void) { _tile_release(); }

/* Tiles 0 to 3 hold sums, one a row of results, 4 to 6 weights, one a row of the kernel, and 7 pixels. Each tile of pixels
 * is loaded once for all rows of results that read it. A row's sums are added in the same order whichever tile has them,
 * so the bits do not depend on how the rows were cut. `rows` is known when it is compiled. */
FOR_AMX static inline __attribute__((always_inline)) void amx_rows(
    Window window, const uint16_t *weights, ptrdiff_t inputs, const int rows, float *sums) {
    const ptrdiff_t row = window.row, pixel = window.pixel * 2, pieces = pieces_of(inputs);
    /* GCC does not know that tiles are loaded from memory: what was written before must be there. */
    __asm__ volatile("" ::: "memory");
    _tile_zero(0);
    if (rows > 1) _tile_zero(1);
    if (rows > 2) _tile_zero(2);
    if (rows > 3) _tile_zero(3);
    for (ptrdiff_t piece = 0; piece < pieces; piece++, weights += 3 * DEPTH * TILE) {
        const uint16_t *in = window.values + piece_at(inputs, window.pixel, piece);
        _tile_loadd(4, weights, 64);
        _tile_loadd(7, in, pixel);
        _tile_dpbf16ps(0, 7, 4);
        _tile_loadd(5, weights + DEPTH * TILE, 64);
        _tile_loadd(7, in + row, pixel);
        if (rows > 1) _tile_dpbf16ps(1, 7, 4);
        _tile_dpbf16ps(0, 7, 5);
        _tile_loadd(6, weights + 2 * DEPTH * TILE, 64);
        _tile_loadd(7, in + 2 * row, pixel);
        if (rows > 2) _tile_dpbf16ps(2, 7, 4);
        if (rows > 1) _tile_dpbf16ps(1, 7, 5);
        _tile_dpbf16ps(0, 7, 6);
        if (rows > 1) {
            _tile_loadd(7, in + 3 * row, pixel);
            if (rows > 3) _tile_dpbf16ps(3, 7, 4);
            if (rows > 2) _tile_dpbf16ps(2, 7, 5);
            _tile_dpbf16ps(1, 7, 6);
        }
        if (rows > 2) {
            _tile_loadd(7, in + 4 * row, pixel);
            if (rows > 3) _tile_dpbf16ps(3, 7, 5);
            _tile_dpbf16ps(2, 7, 6);
        }
        if (rows > 3) {
            _tile_loadd(7, in + 5 * row, pixel);
            _tile_dpbf16ps(3, 7, 6);
        }
    }
    _tile_stored(0, sums, 64);
    if (rows > 1) _tile_stored(1, sums + TILE * TILE, 64);
    if (rows > 2) _tile_stored(2, sums + 2 * TILE * TILE, 64);
    if (rows > 3) _tile_stored(3, sums + 3 * TILE * TILE, 64);
}

FOR_AMX static void amx_sums(Window window, const uint16_t *weights, ptrdiff_t inputs, int rows,
                             float *sums) {
    switch (rows) {
    case 1: amx_rows(window, weights, inputs, 1, sums); break;
    case 2: amx_rows(window, weights, inputs, 2, sums); break;
    case 3: amx_rows(window, weights, inputs, 3, sums); break;
    default: amx_rows(window, weights, inputs, ROWS, sums);
    }
}

/* The first of TILE values, the others zero. */
FOR_AMX static inline __m512 first_values(const uint16_t *from, __mmask16 first) {
    const __m512i bits = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first, from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

FOR_AMX static void amx_finish(const Convolution *c, ptrdiff_t at, ptrdiff_t column, ptrdiff_t count,
                               ptrdiff_t channel, ptrdiff_t results, const float *sums) {
    const __mmask16 first = (__mmask16)((1u << results) - 1);
    const __m512 bias = _mm512_loadu_ps(c->bias + channel), slopes = _mm512_loadu_ps(c->slopes + channel);
    const Addend a = c->addends[0], b = c->addends[1];
    const __m512 a_scale = _mm512_set1_ps(a.scale), b_scale = _mm512_set1_ps(b.scale);
    const uint16_t *one = a.rows, *two = b.rows;
    if (one) one += at * a.row + column * a.pixel + channel;
    if (two) two += at * b.row + column * b.pixel + channel;
    uint16_t *out = (uint16_t *)c->out + at * c->out_row + column * c->out_pixel + channel;
    for (const float *end = sums + count * TILE; sums < end; sums += TILE, out += c->out_pixel) {
        __m512 value = _mm512_add_ps(_mm512_load_ps(sums), bias);
        const __mmask16 below = _mm512_cmp_ps_mask(value, _mm512_setzero_ps(), _CMP_LT_OQ);
        value = _mm512_mask_mul_ps(value, below, value, slopes);
        if (one) value = _mm512_fmadd_ps(value, a_scale, first_values(one, first)), one += a.pixel;
        if (two) value = _mm512_fmadd_ps(value, b_scale, first_values(two, first)), two += b.pixel;
        _mm256_mask_storeu_epi16(out, first, (__m256i)_mm512_cvtneps_pbh(value));
    }
}

static const Processor amx = {amx_begin, amx_sums, amx_finish, amx_end};

/* 1 if AMX gives the results of plain C. The numbers are whole and small, so none is rounded. */
static int amx_agrees(void) {
    enum {
        INPUTS = DEPTH + TILE - 3,
        PIECES = (3 * INPUTS + DEPTH - 1) / DEPTH,
        SIDE = SEEN_ROWS * SEEN * INPUTS,
        RESULTS = ROWS * TILE * TILE
    };
    uint16_t in[SIDE], weights[3 * PIECES * DEPTH * TILE], results[2][RESULTS];
    float bias[TILE], slopes[TILE];
    for (int i = 0; i < SIDE; i++) in[i] = to_bf16((float)(i % 3 - 1));
    for (int i = 0; i < 3 * PIECES * DEPTH * TILE; i++) weights[i] = to_bf16((float)(i % 5 / 4));
    for (int i = 0; i < TILE; i++) bias[i] = (float)(i % 3), slopes[i] = (float)(i % 2);
    const Window window = {in, SEEN * INPUTS, INPUTS};
    const Processor *const both[] = {&plain, &amx};
    for (int rows = 1; rows <= ROWS; rows++) {
        for (int i = 0; i < 2; i++) {
            float sums[RESULTS] __attribute__((aligned(64)));
            const Convolution c = {.out = results[i], .out_row = TILE * TILE, .out_pixel = TILE, .bias = bias,
                                   .slopes = slopes, .addends = {{in, TILE * TILE, TILE, 2}}};
            both[i]->begin();
            both[i]->sums(window, weights, INPUTS, rows, sums);
            for (int y = 0; y < rows; y++)
                both[i]->finish(&c, y, 0, TILE, 0, TILE, sums + y * TILE * TILE);
            both[i]->end();
        }
        if (memcmp(results[0], results[1], sizeof **results * (size_t)(rows * TILE * TILE))) return 0;
    }
    return 1;
}
#endif

/* 1 if this processor has what `convolve_bf16` needs, the system allows its use, and its results
 * are right. */
int convolves_bf16(void) {
#ifdef HAS_AMX
    static int known = -1;
    if (known < 0)
        /* ARCH_REQ_XCOMP_PERM for XTILEDATA. */
        known = __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("avx512bf16") &&
                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                syscall(SYS_arch_prctl, 0x1023, 18) == 0 && amx_agrees();
    return known;
#else
    return 0;
#endif
}

/* TILE values, which the compiler keeps in what registers the processor has. */
typedef uint16_t Values __attribute__((vector_size(2 * TILE), aligned(2), may_alias));

/* The inputs of a pixel, at least TILE; zeros if `from` is NULL. */
static inline void copy_pixel(uint16_t *to, const uint16_t *from, ptrdiff_t inputs) {
    for (ptrdiff_t n = 0; n < inputs; n += TILE) {
        const ptrdiff_t part = LEAST(n, inputs - TILE);
        *(Values *)(to + part) = from ? *(const Values *)(from + part) : (Values){0};
    }
}

/* The window of `rows` rows of results from `at` on, of the pixels from `column` on. It is copied to `copy`
 * (rows + 2, SEEN, inputs) if it leaves the source, or if its pixels do not lie as they have to. */
static Window window_at(const Convolution *c, ptrdiff_t at, int rows, ptrdiff_t column, uint16_t *copy) {
    const uint16_t *in = c->in;
    const ptrdiff_t left = column - 1, right = column + TILE + 1;
    if (left >= -c->margin && right <= c->width + c->margin && at > c->top && at + rows < c->bottom &&
        !c->shift && (!is_one_run(c->inputs) || c->in_pixel == c->inputs))
        return (Window){in + (at - 1) * c->in_row + left * c->in_pixel, c->in_row, c->in_pixel};
    uint16_t *to = copy;
    for (ptrdiff_t y = at - 1; y <= at + rows; y++)
        for (ptrdiff_t x = left; x < right; x++, to += c->inputs) {
            const int is_inside = y >= c->top && y < c->bottom && x >= 0 && x < c->width;
            const uint16_t *from = in + (y >> c->shift) * c->in_row + (x >> c->shift) * c->in_pixel;
            copy_pixel(to, is_inside ? from : NULL, c->inputs);
        }
    return (Window){copy, SEEN * c->inputs, c->inputs};
}

/* TILE pixels of `rows` rows, from row `at` and `column` on. copy: memory for a window. */
static void convolve_block(const Convolution *c, ptrdiff_t at, int rows, ptrdiff_t column,
                           const Processor *processor, uint16_t *copy) {
    const ptrdiff_t count = LEAST(TILE, c->width - column);
    const Window window = window_at(c, at, rows, column, copy);
    const uint16_t *weights = c->weights;
    for (ptrdiff_t channel = 0; channel < c->outputs; channel += TILE) {
        float sums[ROWS * TILE * TILE] __attribute__((aligned(64)));
        processor->sums(window, weights, c->inputs, rows, sums);
        for (int y = 0; y < rows; y++)
            processor->finish(c, at + y, column, count, channel, LEAST(TILE, c->outputs - channel),
                              sums + y * TILE * TILE);
        weights += 3 * pieces_of(c->inputs) * DEPTH * TILE;
    }
}

/* Each thread computes some columns of some rows with all convolutions before it goes on to the rows below, each
 * convolution one row less than the one before, whose results it reads. */
static int convolve(const Convolution *all, int count, int threads, const Processor *processor) {
    const ptrdiff_t across = (all->width + TILE - 1) / TILE;
    const ptrdiff_t step = ROWS * ((BLOCKS_IN_A_ROW * threads + across - 1) / across);
    const ptrdiff_t end = all[count - 1].last + count - 1;
    ptrdiff_t inputs = 0;
    for (int n = 0; n < count; n++) inputs = MOST(inputs, all[n].inputs);
    /* A multiple of the alignment. */
    const size_t copy_bytes = (SEEN_ROWS * SEEN * (size_t)inputs * sizeof(uint16_t) + 63) / 64 * 64;
    int complete = 1;
#pragma omp parallel num_threads(threads) reduction(&& : complete)
    {
        uint16_t *copy = aligned_alloc(64, copy_bytes);
        complete = copy != NULL;
        processor->begin();
        for (ptrdiff_t done = all->first; done < end; done += step)
            for (int n = 0; n < count; n++) {
                const Convolution *c = all + n;
                const ptrdiff_t from = done == all->first ? c->first : MOST(c->first, LEAST(done - n, c->last));
                const ptrdiff_t to = MOST(from, LEAST(done + step - n, c->last));
                const ptrdiff_t down = (to - from + ROWS - 1) / ROWS;
                /* Static: the same columns are a thread's in each step. */
#pragma omp for schedule(static)
                for (ptrdiff_t number = 0; number < down * across; number++) {
                    const ptrdiff_t at = from + number % down * ROWS;
                    /* The last pixels are computed twice, so that no window leaves the source. */
                    const ptrdiff_t column = MOST(LEAST(number / down * TILE, c->width - TILE), 0);
                    if (copy)
                        convolve_block(c, at, (int)LEAST(ROWS, to - at), column, processor, copy);
                }
            }
        processor->end();
        free(copy);
    }
    return complete;
}

/* In bf16: weights (outputs / TILE, ...) in the layout of `Processor.sums`; outputs are filled up with zeros to a
 * multiple of TILE, here and in bias and slopes. Inputs are at least TILE. grid is ignored. Returns 0 if there is no
 * memory. */
int convolve_bf16(const Convolution *all, int count, int threads) {
#ifdef HAS_AMX
    return convolve(all, count, threads, &amx);
#else
    return convolve(all, count, threads, &plain);
#endif
}

/* The same without AMX, many times slower, for tests. */
int convolve_bf16_plain(const Convolution *all, int count, int threads) {
    return convolve(all, count, threads, &plain);
}
