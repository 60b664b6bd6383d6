/* Floats to bytes, as files have them. */

#ifndef BYTES_H
#define BYTES_H

#include "numbers.h"

#include <float.h>
#include <math.h>
#include <stddef.h>

/* Floats, clamped to 0 to 1, to bytes. Returns 1 if all were finite. */
FOR_EACH_PROCESSOR
static int bytes_part(const float *in, uint8_t *out, ptrdiff_t count) {
    int strange = 0;
    for (ptrdiff_t i = 0; i < count; i++) {
        float value = in[i] * 255.0f + 0.5f;
        strange |= !(fabsf(value) <= FLT_MAX);
        value = value > 0.0f ? value : 0.0f;
        value = value < 255.0f ? value : 255.0f;
        out[i] = (uint8_t)(int32_t)value;
    }
    return !strange;
}

#endif
