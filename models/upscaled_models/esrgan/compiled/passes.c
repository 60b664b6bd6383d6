/* The steps between and behind a network's convolutions on a processor, each in one pass over
 * memory. They give the same bits as torch's operations.
 *
 * Arrays are contiguous, channels last.
 */

#include "numbers.h"
#include "bytes.h"

#include <stddef.h>

/* Source pixels that `add_enlarged` works on at once. Their results stay in the first cache. */
#define BLOCK 32
/* Values that a pixel of the source becomes in one row of the result, at most. */
#define LONGEST_RUN 32
/* Values that `to_bytes` works on at once. */
#define PIECE 16384

FOR_EACH_PROCESSOR
static void prelu_part(const uint16_t *in, const float *slopes, uint16_t *out, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i++) {
        uint16_t below = to_bf16(from_bf16(in[i]) * slopes[i]);
        out[i] = (int16_t)in[i] > 0 ? in[i] : below;
    }
}

/* out = in if that is positive, else in * slope. slopes: one per channel, repeated to `period`
 * values. */
void prelu(const uint16_t *in, const float *slopes, ptrdiff_t period, uint16_t *out,
           ptrdiff_t count, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (ptrdiff_t first = 0; first < count; first += period)
        prelu_part(in + first, slopes, out + first, LEAST(count - first, period));
}

int to_bytes(const float *in, uint8_t *out, ptrdiff_t count, int threads) {
    int finite = 1;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(&& : finite)
    for (ptrdiff_t first = 0; first < count; first += PIECE)
        finite = bytes_part(in + first, out + first, LEAST(count - first, PIECE)) && finite;
    return finite;
}

static inline void add_runs(const void *in, int is_bf16, ptrdiff_t stride, const float *base,
                            float *out, ptrdiff_t pixels, ptrdiff_t run) {
    for (ptrdiff_t x = 0; x < pixels; x++)
        for (ptrdiff_t i = 0; i < run; i++)
            out[x * run + i] = value_at(in, x * stride + i, is_bf16) + base[x * run + i];
}

FOR_EACH_PROCESSOR
static void add_row(const void *in, int is_bf16, ptrdiff_t stride, const float *base, float *out,
                    ptrdiff_t pixels, ptrdiff_t run) {
    /* What three channels make: the compiler unrolls these. */
    switch (is_bf16 ? run : -run) {
        case 6: add_runs(in, 1, stride, base, out, pixels, 6); break;
        case 9: add_runs(in, 1, stride, base, out, pixels, 9); break;
        case 12: add_runs(in, 1, stride, base, out, pixels, 12); break;
        case -6: add_runs(in, 0, stride, base, out, pixels, 6); break;
        case -9: add_runs(in, 0, stride, base, out, pixels, 9); break;
        case -12: add_runs(in, 0, stride, base, out, pixels, 12); break;
        default: add_runs(in, is_bf16, stride, base, out, pixels, run);
    }
}

/* Each pixel of the source becomes a square of `factor` x `factor` pixels, and `in` is added to it:
 * by pixel of the source, then row, column and channel of the square, in bf16 or in floats.
 *
 * The result goes to `floats`; or clamped to `bytes`, if `floats` is null. Returns 0 if it went to
 * bytes and was not finite. factor * channels is LONGEST_RUN at most. */
int add_enlarged(const void *in, int is_bf16, const float *source, float *floats, uint8_t *bytes,
                 ptrdiff_t height, ptrdiff_t width, ptrdiff_t channels, ptrdiff_t factor,
                 int threads) {
    const ptrdiff_t run = factor * channels;
    int finite = 1;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(&& : finite)
    for (ptrdiff_t y = 0; y < height; y++)
        for (ptrdiff_t left = 0; left < width; left += BLOCK) {
            const ptrdiff_t pixels = LEAST(width - left, BLOCK), start = y * width + left;
            float base[BLOCK * LONGEST_RUN], sum[BLOCK * LONGEST_RUN];
            for (ptrdiff_t x = 0; x < pixels; x++)
              for (ptrdiff_t i = 0; i < factor; i++)
                for (ptrdiff_t c = 0; c < channels; c++)
                    base[(x * factor + i) * channels + c] = source[(start + x) * channels + c];
            for (ptrdiff_t row = 0; row < factor; row++) {
                const void *from = behind(in, (start * factor + row) * run, is_bf16);
                const ptrdiff_t to = ((y * factor + row) * width + left) * run;
                add_row(from, is_bf16, factor * run, base, floats ? floats + to : sum, pixels, run);
                if (!floats) finite = bytes_part(sum, bytes + to, pixels * run) && finite;
            }
        }
    return finite;
}
