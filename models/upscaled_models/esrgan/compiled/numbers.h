/* Numbers: the lesser and the greater of two, and bf16, the upper half of a float. */

#ifndef NUMBERS_H
#define NUMBERS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LEAST(a, b) ((a) < (b) ? (a) : (b))
#define MOST(a, b) ((a) > (b) ? (a) : (b))

/* GCC 11 knows these names of processors, and cannot choose between them. */
#if defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 12
#define FOR_EACH_PROCESSOR \
    __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

static inline float from_bf16(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Value `at` of an array in bf16 or in floats. */
static inline float value_at(const void *values, ptrdiff_t at, int is_bf16) {
    return is_bf16 ? from_bf16(((const uint16_t *)values)[at]) : ((const float *)values)[at];
}

/* Where an array in bf16 or in floats continues after `count` values. */
static inline const void *behind(const void *values, ptrdiff_t count, int is_bf16) {
    return (const char *)values + count * (ptrdiff_t)(is_bf16 ? sizeof(uint16_t) : sizeof(float));
}

/* Rounds to the nearest, ties to even. A NaN stays a NaN if its lower half is zero. */
static inline uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#endif
