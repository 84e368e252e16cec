/* A 1×1 convolution, its gate, the sum with another map and the ReLU in one pass, in bfloat16, by AMX.

   A product of matrices in blocks of 32 places by 32 channels, four tiles of 16 by 16, whose result goes through the
   gate, the sum and the ReLU while it is in the cache. Maps are channels_last, so that their places are rows, those of
   all images one behind the other. */

#include <stdint.h>
#include <string.h>

typedef uint16_t bfloat16;

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__)

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BLOCK 32  /* places, and channels, of a block: two tiles */
#define GROUP 256 /* channels that a thread does of a block's places at a time */

/* 0 where the system lets this process use the tiles' registers: it has to be asked once. */
int ask_for_tiles(void) { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */); }

static const struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} __attribute__((packed)) TILES = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

static inline __m512 load(const bfloat16 *from) {
    const __m256i bits = _mm256_loadu_si256((const __m256i *)from);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

/* A block of the result, whose rows have GROUP channels, of 32 rows of the map and the weights of 32 channels. */
static inline void multiply(float *result, const bfloat16 *map, const bfloat16 *weight, long inputs) {
    const bfloat16 *below = map + 16 * inputs, *beside = weight + 16 * inputs;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (long k = 0; k < inputs; k += 32) {
        _tile_loadd(4, map + k, 2 * inputs);
        _tile_loadd(6, weight + 16 * k, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, beside + 16 * k, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, below + k, 2 * inputs);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, result, 4 * GROUP);
    _tile_stored(1, result + 16, 4 * GROUP);
    _tile_stored(2, result + 16 * GROUP, 4 * GROUP);
    _tile_stored(3, result + 16 * GROUP + 16, 4 * GROUP);
}

/* out = shortcut + gate * (map * weight + bias), and the ReLU; out may be the shortcut.

   map (images, places, inputs), weight (outputs / 16, inputs / 2, 16, 2), gate (images, outputs), bias (outputs), out
   and shortcut (images, places, outputs). Inputs and outputs are multiples of 32. */
void gated_product(
    bfloat16 *out, const bfloat16 *shortcut, const bfloat16 *map, const bfloat16 *weight, const float *gate,
    const float *bias, int relu, long images, long places, long inputs, long outputs, int threads) {
    const long rows = images * places;
    const __m512 least = relu ? _mm512_setzero_ps() : _mm512_set1_ps(-__builtin_inff());
#pragma omp parallel num_threads(threads)
    {
        _tile_loadconfig(&TILES);
        float result[BLOCK * GROUP] __attribute__((aligned(64)));
        bfloat16 last[BLOCK * inputs]; /* the map's last rows, filled up with zeros */
#pragma omp for collapse(2) schedule(static)
        for (long first = 0; first < rows; first += BLOCK)
            for (long group = 0; group < outputs; group += GROUP) {
                const long count = rows - first < BLOCK ? rows - first : BLOCK;
                const bfloat16 *from = map + first * inputs;
                if (count < BLOCK) {
                    memset(last, 0, sizeof(last));
                    memcpy(last, from, count * inputs * sizeof(bfloat16));
                    from = last;
                }
                const long channels = outputs - group < GROUP ? outputs - group : GROUP;
                for (long c = 0; c < channels; c += BLOCK)
                    multiply(result + c, from, weight + (group + c) * inputs, inputs);
                for (long row = 0; row < count; row++) {
                    const float *r = result + row * GROUP, *g = gate + (first + row) / places * outputs + group;
                    const float *b = bias + group;
                    const bfloat16 *s = shortcut + (first + row) * outputs + group;
                    bfloat16 *o = out + (first + row) * outputs + group;
                    for (long c = 0; c < channels; c += 32) {
                        __m512 value[2];
                        for (int half = 0; half < 32; half += 16) {
                            const long at = c + half;
                            const __m512 branch = _mm512_add_ps(_mm512_load_ps(r + at), _mm512_loadu_ps(b + at));
                            const __m512 sum = _mm512_fmadd_ps(branch, _mm512_loadu_ps(g + at), load(s + at));
                            value[half / 16] = _mm512_max_ps(least, sum); /* NaN stays NaN: it is the second one */
                        }
                        _mm512_storeu_si512(o + c, (__m512i)_mm512_cvtne2ps_pbh(value[1], value[0]));
                    }
                }
            }
        _tile_release();
    }
}

#else

int ask_for_tiles(void) { return -1; }

#endif
