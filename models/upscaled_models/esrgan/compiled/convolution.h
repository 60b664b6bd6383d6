/* A 3x3 convolution for dense blocks. It reads some of the channels of a buffer, writes to others, and
 * adds other rows to its result, so nothing has to be concatenated or added by itself. Several are
 * computed by one call, each of which may read the results of those before it. They are as wide, and their rows
 * have the same numbers.
 *
 * Arrays are channels last. Rows and columns outside of the picture are zero. Weights, bias and slopes
 * are filled up with zeros to a multiple of 16 outputs.
 */

#ifndef CONVOLUTION_H
#define CONVOLUTION_H

#include <stddef.h>

#define ADDENDS 2

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
 * `top` to `bottom`, `first` to `last` among them; outside of them it is zero. shift: if 1, the source is read at twice its width
 * and height, each pixel four times, and all numbers are those of the enlarged source. grid: the
 * row at which the first row of tiles begins: `first`, or up to three rows above it. margin: if 1, a
 * pixel of zeros lies to the left and to the right of each of the source's rows. */
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
    int shift, margin;
} Convolution;

#endif
