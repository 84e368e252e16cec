/* The gated sum of two maps, and its gradients: each reads a map once.

   A map is `images` images of `places` places by `channels` channels, the channels side by side (channels_last). The
   work is cut into strips of `height` whole places of an image. Sums over places are one strip's each, so that their
   order depends on the shape alone. */

#include <stdint.h>
#include <string.h>

typedef float float32;
typedef uint16_t bfloat16;

static inline float load_float32(float32 x) { return x; }
static inline float32 store_float32(float x) { return x; }

static inline float load_bfloat16(bfloat16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* To the nearest, ties to even. Of NaN rounding could make another number. */
static inline bfloat16 store_bfloat16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return x == x ? rounded : 0x7fc0;
}

#define FOR_STRIPS \
    const long strips = (places + height - 1) / height; \
    _Pragma("omp parallel for schedule(static) num_threads(threads)") \
    for (long strip = 0; strip < images * strips; strip++)

#define STRIP \
    const long image = strip / strips, first = strip % strips * height; \
    const long begin = (image * places + first) * channels; \
    const long end = begin + (places - first < height ? places - first : height) * channels;

#define FOR_CHANNELS _Pragma("omp simd") for (long c = 0; c < channels; c++)

#define DEFINE(type) \
    static inline __attribute__((always_inline)) void strip_##type( \
        type *out, const type *shortcut, const type *branch, const float *gate, long begin, long end, long channels, \
        int broadcast, int relu) { \
        for (long at = begin; at < end; at += channels) { \
            const type *s = broadcast ? shortcut : shortcut + at, *b = branch + at; \
            type *o = out + at; \
            FOR_CHANNELS { \
                const float value = load_##type(s[c]) + gate[c] * load_##type(b[c]); \
                o[c] = store_##type(relu && value < 0 ? 0 : value); /* NaN stays NaN */ \
            } \
        } \
    } \
\
    /* out = shortcut + gate * branch, and the ReLU. The gate is (images, channels), and so is a shortcut that is \
       broadcast. out may be the shortcut. */ \
    void forward_##type( \
        type *out, const type *shortcut, const type *branch, const float *gate, int broadcast, int relu, \
        long images, long places, long channels, long height, int threads) { \
        FOR_STRIPS { \
            STRIP \
            const float *g = gate + image * channels; \
            const type *s = broadcast ? shortcut + image * channels : shortcut; \
            if (broadcast && relu) strip_##type(out, s, branch, g, begin, end, channels, 1, 1); \
            else if (broadcast) strip_##type(out, s, branch, g, begin, end, channels, 1, 0); \
            else if (relu) strip_##type(out, s, branch, g, begin, end, channels, 0, 1); \
            else strip_##type(out, s, branch, g, begin, end, channels, 0, 0); \
        } \
    } \
\
    /* d_sum = grad where out is not 0 or below, and each strip's sums of d_sum * branch, (images, strips, channels), in \
       double, which costs nothing beside the maps. Without out d_sum is grad, and not written. */ \
    void backward_##type( \
        type *d_sum, double *sums, const type *grad, const type *branch, const type *out, \
        long images, long places, long channels, long height, int threads) { \
        FOR_STRIPS { \
            STRIP \
            double *total = sums + strip * channels; \
            memset(total, 0, channels * sizeof(double)); \
            for (long at = begin; at < end; at += channels) { \
                const type *g = grad + at, *b = branch + at; \
                if (!out) { \
                    FOR_CHANNELS total[c] += (double)load_##type(g[c]) * load_##type(b[c]); \
                    continue; \
                } \
                const type *o = out + at; \
                type *d = d_sum + at; \
                FOR_CHANNELS { \
                    const type given = g[c]; \
                    const float sign = load_##type(o[c]); \
                    const type slope = sign <= 0 ? 0 : given; \
                    d[c] = slope; \
                    total[c] += (double)load_##type(slope) * load_##type(b[c]); \
                } \
            } \
        } \
    }

DEFINE(float32)
DEFINE(bfloat16)
