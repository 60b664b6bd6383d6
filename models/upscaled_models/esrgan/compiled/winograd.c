/* 3x3 convolutions in float, by Winograd's way (`winograd.h`). */

#include "convolution.h"
#include "numbers.h"

#include <stdlib.h>

/* Results per block of weights. */
#define COLUMNS 16
#define WHOLE_COLUMNS(outputs) (((outputs) + COLUMNS - 1) / COLUMNS * COLUMNS)
#define POINTS 36
/* Inputs that are transformed and multiplied at once. */
#define DEPTH 32
/* Values from the tiles of one point to those of the next. The 16 avoid that all points fall into
 * the same sets of a cache. */
#define POINT_STRIDE(tiles, channels) ((tiles) * (channels) + 16)
/* The number of tiles that are computed at once is a multiple of it. */
#define TILES 12

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

/* Weights (outputs, inputs, 3, 3) in the layout of `convolve_float`; outputs are a multiple of COLUMNS. */
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

static int convolve_one(const Convolution *c, int threads) {
    const int lanes = fastest_lanes();
    const Tiles tiles = tiles_of(lanes);
    /* How much of the second cache tiles may fill; the rest is for the weights that pass through. */
    const ptrdiff_t bytes = lanes == 16 ? 768 << 10 : 384 << 10;
    const ptrdiff_t total = (c->width + 3) / 4 * ((c->last - c->grid + 3) / 4);
    const ptrdiff_t outputs = WHOLE_COLUMNS(c->outputs);
    const ptrdiff_t tile_bytes = POINTS * (DEPTH + outputs) * (ptrdiff_t)sizeof(float);
    const ptrdiff_t fitting = bytes / tile_bytes / TILES * TILES;
    const ptrdiff_t places = fitting > TILES ? fitting : TILES;
    const size_t floats = POINTS * (POINT_STRIDE(places, DEPTH) + POINT_STRIDE(places, outputs));
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

/* In float: weights (inputs / DEPTH, POINTS, outputs / COLUMNS, DEPTH, COLUMNS), each kernel G w G^T;
 * outputs are filled up with zeros to a multiple of COLUMNS, here and in bias and slopes; the last
 * DEPTH of inputs may be fewer. Returns 0 if there is no memory. */
int convolve_float(const Convolution *all, int count, int threads) {
    for (const Convolution *c = all; c < all + count; c++)
        if (!convolve_one(c, threads)) return 0;
    return 1;
}
