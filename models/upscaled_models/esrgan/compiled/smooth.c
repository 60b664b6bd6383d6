/* Smooth colours, in one pass over memory. `esrgan/colour.py` says what they are.
 *
 * Arrays are contiguous, channels last. A picture has red, green and blue, 0 to 1.
 */

#include "numbers.h"

#include <stddef.h>

#define CHANNELS 3
/* Pixels to each side that a line over luma, and the mean of lines, are taken from. */
#define RADIUS 2
#define HALO (2 * RADIUS)
/* Pixels of the picture that are worked on at once, in the second cache. */
#define ROWS 8
#define COLUMNS 96

/* Rows `first` to `last` of a picture of `height` rows.
 *
 * source: the first value of row 0, which need not be in memory: only rows `first` to `last` are, and
 * those of the HALO above and below that the picture has. result: row `first` and those below. noise
 * and colour_noise: variances. */
typedef struct {
    const float *source;
    float *result;
    float luma[CHANNELS], noise, colour_noise;
    ptrdiff_t width, height, first, last;
} Smooth;

/* A value for each of COLUMNS columns, and for HALO more on each side. */
typedef float Line[COLUMNS + 2 * HALO];

/* Pixels from row `top` and column `left` on. What lies outside of the picture is 0.
 *
 * luma, less a middle value, and colours, which are red, green and blue less luma: from row top -
 * HALO on. slopes and offsets of the colours over luma, and shares, how much of a colour is noise if
 * it is beside its line: from row top - RADIUS on. */
typedef struct {
    ptrdiff_t top, left, rows, columns;
    Line luma[ROWS + 2 * HALO], colours[ROWS + 2 * HALO][CHANNELS];
    Line slopes[HALO + ROWS][CHANNELS], offsets[HALO + ROWS][CHANNELS], shares[HALO + ROWS];
} Block;

FOR_EACH_PROCESSOR
static void take_apart(const Smooth *given, Block *b) {
    const Smooth s = *given;
    const ptrdiff_t left = MOST(b->left - HALO, 0);
    const ptrdiff_t right = LEAST(b->left + b->columns + HALO, s.width);
    const ptrdiff_t bottom = LEAST(b->top + b->rows + HALO, s.height);
    for (ptrdiff_t y = MOST(b->top - HALO, 0); y < bottom; y++) {
        const float *from = s.source + (y * s.width + left) * CHANNELS;
        float *luma = b->luma[y - b->top + HALO];
        Line *colours = b->colours[y - b->top + HALO];
        for (ptrdiff_t x = left - b->left + HALO; x < right - b->left + HALO; x++) {
            float sum = 0;
            for (int channel = 0; channel < CHANNELS; channel++)
                sum += s.luma[channel] * (from[channel] - 0.5f);
            for (int channel = 0; channel < CHANNELS; channel++)
                colours[channel][x] = *from++ - 0.5f - sum;
            luma[x] = sum;
        }
    }
}

/* Of the pixels around one place, as far as they lie in `length`, how many there are. */
static inline ptrdiff_t around(ptrdiff_t place, ptrdiff_t length) {
    return LEAST(place + RADIUS + 1, length) - MOST(place - RADIUS, 0);
}

static inline float across(const float *sums, ptrdiff_t x) {
    float sum = 0;
    for (ptrdiff_t step = -RADIUS; step <= RADIUS; step++) sum += sums[x + step];
    return sum;
}

/* The lines of row `y`. */
FOR_EACH_PROCESSOR
static void find_lines(const Smooth *given, Block *b, ptrdiff_t y) {
    const Smooth s = *given;
    Line luma = {0}, squares = {0}, beside = {0}, colours[CHANNELS] = {0}, products[CHANNELS] = {0};
    const ptrdiff_t bottom = LEAST(y + RADIUS + 1, s.height);
    for (ptrdiff_t row = MOST(y - RADIUS, 0); row < bottom; row++) {
        const float *light = b->luma[row - b->top + HALO];
        const Line *colour = b->colours[row - b->top + HALO];
        for (ptrdiff_t x = 0; x < COLUMNS + 2 * HALO; x++) {
            luma[x] += light[x];
            squares[x] += light[x] * light[x];
            for (int channel = 0; channel < CHANNELS; channel++) {
                const float value = colour[channel][x];
                colours[channel][x] += value;
                products[channel][x] += value * light[x];
                beside[x] += value * value;
            }
        }
    }
    const ptrdiff_t row = y - b->top + RADIUS, down = around(y, s.height);
    const ptrdiff_t left = MOST(HALO - RADIUS, HALO - b->left);
    const ptrdiff_t right = LEAST(HALO + b->columns + RADIUS, s.width - b->left + HALO);
    for (ptrdiff_t x = left; x < right; x++) {
        const float each = 1 / (float)(down * around(b->left + x - HALO, s.width));
        const float mean = across(luma, x) * each;
        const float spread = across(squares, x) * each - mean * mean;
        const float variance = spread > 0 ? spread : 0; /* rounded, it may be below 0 */
        float rest = across(beside, x) * each;
        for (int channel = 0; channel < CHANNELS; channel++) {
            const float colour = across(colours[channel], x) * each;
            const float with_luma = across(products[channel], x) * each - colour * mean;
            const float slope = with_luma / (variance + s.noise);
            b->slopes[row][channel][x] = slope;
            b->offsets[row][channel][x] = colour - slope * mean;
            rest -= colour * colour + slope * with_luma;
        }
        const float more = rest > s.colour_noise ? rest - s.colour_noise : 0;
        b->shares[row][x] = s.colour_noise / (more + s.colour_noise);
    }
}

/* Row `y` of the result, from column `left` of the block on. */
FOR_EACH_PROCESSOR
static void finish_row(const Smooth *given, const Block *b, ptrdiff_t y, float *result) {
    const Smooth s = *given;
    Line shares = {0}, slopes[CHANNELS] = {0}, offsets[CHANNELS] = {0};
    const ptrdiff_t bottom = LEAST(y + RADIUS + 1, s.height);
    for (ptrdiff_t row = MOST(y - RADIUS, 0) - b->top + RADIUS; row < bottom - b->top + RADIUS; row++)
        for (ptrdiff_t x = 0; x < COLUMNS + 2 * HALO; x++) {
            shares[x] += b->shares[row][x];
            for (int channel = 0; channel < CHANNELS; channel++) {
                slopes[channel][x] += b->slopes[row][channel][x];
                offsets[channel][x] += b->offsets[row][channel][x];
            }
        }
    const float *luma = b->luma[y - b->top + HALO];
    const Line *colours = b->colours[y - b->top + HALO];
    const ptrdiff_t down = around(y, s.height);
    for (ptrdiff_t x = HALO; x < HALO + b->columns; x++) {
        const float each = 1 / (float)(down * around(b->left + x - HALO, s.width));
        const float share = across(shares, x) * each;
        for (int channel = 0; channel < CHANNELS; channel++) {
            const float slope = across(slopes[channel], x), offset = across(offsets[channel], x);
            const float colour = colours[channel][x], line = (slope * luma[x] + offset) * each;
            *result++ = luma[x] + 0.5f + colour + share * (line - colour);
        }
    }
}

static void finish_block(const Smooth *s, ptrdiff_t top, ptrdiff_t left) {
    /* The lines are 0. */
    Block b = {.top = top,
               .left = left,
               .rows = LEAST(ROWS, s->last - top),
               .columns = LEAST(COLUMNS, s->width - left)};
    take_apart(s, &b);
    const ptrdiff_t below = LEAST(top + b.rows + RADIUS, s->height);
    for (ptrdiff_t y = MOST(top - RADIUS, 0); y < below; y++) find_lines(s, &b, y);
    for (ptrdiff_t y = top; y < top + b.rows; y++)
        finish_row(s, &b, y, s->result + ((y - s->first) * s->width + left) * CHANNELS);
}

void smooth_colours(const Smooth *s, int threads) {
    const ptrdiff_t blocks = (s->width + COLUMNS - 1) / COLUMNS;
    const ptrdiff_t count = blocks * ((s->last - s->first + ROWS - 1) / ROWS);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (ptrdiff_t number = 0; number < count; number++)
        finish_block(s, s->first + number / blocks * ROWS, number % blocks * COLUMNS);
}
