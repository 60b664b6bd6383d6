/* Colour that follows luma, in one pass over memory. `esrgan/colour.py` says what it is.
 *
 * Arrays are contiguous, channels last. A picture has red, green and blue, 0 to 1.
 */

#include "numbers.h"
#include "bytes.h"

#include <stddef.h>
#include <string.h>

#define CHANNELS 3
/* Pixels to each side that the interpolation looks. */
#define RADIUS 3
#define TAPS (2 * RADIUS + 1)
#define LARGEST_SCALE 8
/* Pixels of the source that are worked on at once. What is known of them stays in the first cache,
 * or nearly so. */
#define ROWS 8
#define COLUMNS 96

/* Rows `first` to `last` of a source of `height` rows.
 *
 * source: the first value of row 0, which need not be in memory: only rows `first` to `last` are, and
 * those of the RADIUS above and below that the picture has. picture: what the network got, from row
 * `first` on; its luma is the source's. detail: what the network adds to these rows, in bf16 or in
 * floats; per pixel by channel, then by row and column of the square of `scale` x `scale` pixels that
 * it becomes. interpolation (scale, TAPS): for each row or
 * column of the square, the weights of the pixels around the source's; their sum is 1. share: of what
 * the network adds to the luma. The result goes to `floats`; or clamped to `bytes`, if `floats` is null. */
typedef struct {
    const float *source, *picture;
    const void *detail;
    float *floats;
    uint8_t *bytes;
    const float *interpolation;
    float luma[CHANNELS], faint, flat, share;
    int is_bf16;
    ptrdiff_t width, height, first, last, scale;
} Colour;

/* A value for each of COLUMNS columns, and for RADIUS more on each side. */
typedef float Line[COLUMNS + 2 * RADIUS];

/* Pixels of the source from row `top` and column `left` on. What lies outside of the picture is 0.
 *
 * source: from row top - RADIUS on. picture: from row top on. slopes, less 1, and shares: from row
 * top - 1 on. */
typedef struct {
    ptrdiff_t top, left, rows, columns;
    Line source[ROWS + 2 * RADIUS][CHANNELS], picture[ROWS][CHANNELS];
    Line slopes[ROWS + 2][CHANNELS], shares[ROWS + 2];
} Block;

static inline float luma_of(const Colour *c, const float value[CHANNELS]) {
    return value[0] * c->luma[0] + value[1] * c->luma[1] + value[2] * c->luma[2];
}

/* `count` pixels to lines, from number `at` on. */
static inline void take_apart(const float *from, ptrdiff_t count, ptrdiff_t at, Line to[CHANNELS]) {
    for (ptrdiff_t x = at; x < at + count; x++)
        for (int channel = 0; channel < CHANNELS; channel++) to[channel][x] = *from++;
}

static void fill(const Colour *c, Block *b) {
    const ptrdiff_t left = MOST(b->left - RADIUS, 0);
    const ptrdiff_t count = LEAST(b->left + b->columns + RADIUS, c->width) - left;
    const ptrdiff_t at = left - b->left + RADIUS;
    const ptrdiff_t top = MOST(b->top - RADIUS, 0);
    const ptrdiff_t bottom = LEAST(b->top + b->rows + RADIUS, c->height);
    for (ptrdiff_t y = top; y < bottom; y++)
        take_apart(c->source + (y * c->width + left) * CHANNELS, count, at,
                   b->source[y - b->top + RADIUS]);
    for (ptrdiff_t row = 0; row < b->rows; row++) {
        const ptrdiff_t start = (b->top + row - c->first) * c->width + left;
        take_apart(c->picture + start * CHANNELS, count, at, b->picture[row]);
    }
}

/* Slopes and shares of row `y`, from the pixels around each, as far as they lie in the picture. */
FOR_EACH_PROCESSOR
static void find_slopes(const Colour *given, Block *b, ptrdiff_t y) {
    const Colour c = *given;
    /* Of three rows: the values, and the values multiplied by luma. */
    Line values[CHANNELS] = {0}, products[CHANNELS] = {0};
    const ptrdiff_t top = MOST(y - 1, 0), bottom = LEAST(y + 2, c.height);
    const ptrdiff_t left = MOST(RADIUS - 2, RADIUS - b->left);
    const ptrdiff_t right = LEAST(b->columns + RADIUS + 2, c.width - b->left + RADIUS);
    for (ptrdiff_t row = top; row < bottom; row++) {
        Line *source = b->source[row - b->top + RADIUS];
        for (ptrdiff_t x = left; x < right; x++) {
            /* Less a middle value: then the products lose fewer of their digits. */
            const float value[CHANNELS] = {
                source[0][x] - 0.5f, source[1][x] - 0.5f, source[2][x] - 0.5f};
            const float luma = luma_of(&c, value);
            for (int channel = 0; channel < CHANNELS; channel++) {
                values[channel][x] += value[channel];
                products[channel][x] += value[channel] * luma;
            }
        }
    }
    Line *slopes = b->slopes[y - b->top + 1];
    float *shares = b->shares[y - b->top + 1];
    for (ptrdiff_t x = MOST(left, RADIUS - 1); x < LEAST(right, b->columns + RADIUS + 1); x++) {
        const ptrdiff_t column = b->left + x - RADIUS;
        const ptrdiff_t across = 3 - (column == 0) - (column == c.width - 1);
        const float each = 1 / (float)(across * (bottom - top));
        float mean[CHANNELS], covariance[CHANNELS];
        for (int channel = 0; channel < CHANNELS; channel++) {
            const float *value = values[channel] + x, *product = products[channel] + x;
            mean[channel] = (value[-1] + value[0] + value[1]) * each;
            covariance[channel] = (product[-1] + product[0] + product[1]) * each;
        }
        const float luma = luma_of(&c, mean);
        for (int channel = 0; channel < CHANNELS; channel++)
            covariance[channel] -= mean[channel] * luma;
        const float sum = luma_of(&c, covariance);
        const float variance = sum > 0 ? sum : 0; /* rounded, the sum may be below 0 */
        for (int channel = 0; channel < CHANNELS; channel++)
            slopes[channel][x] = (covariance[channel] - sum) / (variance + c.faint);
        shares[x] = c.share * variance / (variance + c.flat);
    }
}

/* The weights of the pixels around the one at `middle`, without those outside of 0 to `end`. */
static inline void inside(const float *weights, ptrdiff_t middle, ptrdiff_t end, float to[TAPS]) {
    float sum = 0;
    for (int tap = 0; tap < TAPS; tap++) {
        const ptrdiff_t at = middle + tap - RADIUS;
        to[tap] = at >= 0 && at < end ? weights[tap] : 0;
        sum += to[tap];
    }
    for (int tap = 0; tap < TAPS; tap++) to[tap] /= sum;
}

/* Half-way between two values, or nearer to one: for one place of a square, how much of the
 * neighbour's it has. step: to the neighbour, 1 or -1. */
static inline float beside(ptrdiff_t place, ptrdiff_t scale, ptrdiff_t *step) {
    const float distance = ((float)place + 0.5f) / (float)scale - 0.5f;
    *step = distance < 0 ? -1 : 1;
    return distance < 0 ? -distance : distance;
}

/* One row of the result's for one row of the source: between the source's rows, not yet columns. */
typedef struct {
    Line values[CHANNELS], slopes[CHANNELS];
    const Line *source, *picture;
    const float *shares;
} Between;

static inline void find_between(const Colour *c, const Block *b, ptrdiff_t y, ptrdiff_t place,
                                Between *to) {
    float weights[TAPS];
    inside(c->interpolation + place * TAPS, y, c->height, weights);
    ptrdiff_t step;
    const float part = beside(place, c->scale, &step);
    const ptrdiff_t row = y - b->top;
    to->source = b->source[row + RADIUS];
    to->picture = b->picture[row];
    to->shares = b->shares[row + 1];
    for (int channel = 0; channel < CHANNELS; channel++) {
        const float *own = to->source[channel];
        const float *slopes = b->slopes[row + 1][channel];
        const float *more = b->slopes[row + 1 + step][channel];
        for (ptrdiff_t x = 0; x < COLUMNS + 2 * RADIUS; x++) {
            float sum = own[x];
            for (int tap = 0; tap < TAPS; tap++)
                sum += weights[tap] * (b->source[row + tap][channel][x] - own[x]);
            to->values[channel][x] = sum;
            to->slopes[channel][x] = slopes[x] + part * (more[x] - slopes[x]);
        }
    }
}

/* Columns `from` to `to` of one place of their squares. detail, out: of column 0 of the block. */
static inline void finish(const Colour *c, const Between *between, const float weights[TAPS],
                          float part, ptrdiff_t step, ptrdiff_t from, ptrdiff_t to,
                          const void *detail, int is_bf16, float *out) {
    const ptrdiff_t pixels = c->scale * c->scale, values = CHANNELS * pixels;
    for (ptrdiff_t x = from; x < to; x++) {
        float own[CHANNELS], interpolated[CHANNELS], more[CHANNELS];
        for (int channel = 0; channel < CHANNELS; channel++) {
            own[channel] = between->source[channel][x + RADIUS];
            float sum = 0;
            for (int tap = 0; tap < TAPS; tap++)
                sum += weights[tap] * (between->values[channel][x + tap] - own[channel]);
            interpolated[channel] = sum;
            const ptrdiff_t at = x * values + channel * pixels;
            const float added = value_at(detail, at, is_bf16);
            const float pixel = between->picture[channel][x + RADIUS];
            const float high = added > 1 - pixel ? 1 - pixel : added;
            more[channel] = (high < -pixel ? -pixel : high) - sum;
        }
        const float luma = luma_of(c, more) * between->shares[x + RADIUS];
        for (int channel = 0; channel < CHANNELS; channel++) {
            const float *slopes = between->slopes[channel] + x + RADIUS;
            const float slope = 1 + slopes[0] + part * (slopes[step] - slopes[0]);
            out[x * c->scale * CHANNELS + channel] =
                own[channel] + (interpolated[channel] + luma * slope);
        }
    }
}

/* One row of the result, for one row of the block. */
FOR_EACH_PROCESSOR
static void finish_row(const Colour *given, const Block *b, ptrdiff_t y, ptrdiff_t place, float *out) {
    const Colour c = *given;
    const ptrdiff_t columns = b->columns, values = CHANNELS * c.scale * c.scale;
    const ptrdiff_t start = ((y - c.first) * c.width + b->left) * values + place * c.scale;
    /* Between these the interpolation does not look beyond the picture. */
    const ptrdiff_t left = LEAST(MOST(RADIUS - b->left, 0), columns);
    const ptrdiff_t right = MOST(LEAST(c.width - RADIUS - b->left, columns), left);
    Between between;
    find_between(&c, b, y, place, &between);
    for (ptrdiff_t across = 0; across < c.scale; across++) {
        const float *weights = c.interpolation + across * TAPS;
        const void *detail = behind(c.detail, start + across, c.is_bf16);
        float *to = out + across * CHANNELS, own[TAPS];
        ptrdiff_t step;
        const float part = beside(across, c.scale, &step);
        inside(weights, RADIUS, TAPS, own);
        if (c.is_bf16)
            finish(&c, &between, own, part, step, left, right, detail, 1, to);
        else
            finish(&c, &between, own, part, step, left, right, detail, 0, to);
        for (ptrdiff_t x = left ? 0 : right; x < columns; x = x + 1 == left ? right : x + 1) {
            inside(weights, b->left + x, c.width, own);
            finish(&c, &between, own, part, step, x, x + 1, detail, c.is_bf16, to);
        }
    }
}

/* All rows of the result for one block. */
static int finish_block(const Colour *c, ptrdiff_t top, ptrdiff_t left) {
    /* The lines are 0. */
    Block b = {.top = top,
               .left = left,
               .rows = LEAST(ROWS, c->last - top),
               .columns = LEAST(COLUMNS, c->width - left)};
    int finite = 1;
    fill(c, &b);
    for (ptrdiff_t y = MOST(top - 1, 0); y < LEAST(top + b.rows + 1, c->height); y++)
        find_slopes(c, &b, y);
    for (ptrdiff_t y = top; y < top + b.rows; y++)
        for (ptrdiff_t place = 0; place < c->scale; place++) {
            float line[COLUMNS * LARGEST_SCALE * CHANNELS];
            const ptrdiff_t row = (y - c->first) * c->scale + place;
            const ptrdiff_t to = (row * c->width + left) * c->scale * CHANNELS;
            finish_row(c, &b, y, place, c->floats ? c->floats + to : line);
            if (!c->floats)
                finite &= bytes_part(line, c->bytes + to, b.columns * c->scale * CHANNELS);
        }
    return finite;
}

/* Returns 0 if the result went to bytes and was not finite. */
int follow_luma(const Colour *c, int threads) {
    const ptrdiff_t across = (c->width + COLUMNS - 1) / COLUMNS;
    const ptrdiff_t count = across * ((c->last - c->first + ROWS - 1) / ROWS);
    int finite = 1;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(&& : finite)
    for (ptrdiff_t number = 0; number < count; number++)
        finite = finish_block(c, c->first + number / across * ROWS, number % across * COLUMNS) &&
                 finite;
    return finite;
}
