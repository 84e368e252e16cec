/* Squeeze and excitation, the 1×1 convolution that they gate, the sum with another map and the ReLU, in bfloat16, by AMX.

   First the gate, from the mean of the convolution's input: sums, two layers. Then a product of matrices in blocks of
   32 places by 32 channels, four tiles of 16 by 16, whose result goes through the gate, the sum and the ReLU while it
   is in the cache. Threads start once, and each finds the part of the map that it has summed up in its own cache.
   Maps are channels_last, so that their places are rows, those of all images one behind the other. */

#include <stdint.h>
#include <string.h>

typedef uint16_t bfloat16;

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__)

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BLOCK 32  /* places, and channels, of a block: two tiles */
#define GROUP 128 /* channels that a thread does of a block's places at a time */
#define LANES 16  /* numbers of float32 in a register */

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

/* sums (images, chunks, inputs) of the map's places, `chunk` of them each. A thread goes from its last ones, which the
   layer before has just written, to its first ones, which the product is to read first. */
static void add_places(
    float *sums, const bfloat16 *map, long images, long places, long inputs, long chunk, int threads) {
    const __m512i upper = _mm512_set1_epi32(0xffff0000);
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    const long chunks = (places + chunk - 1) / chunk, all = images * chunks;
#pragma omp for schedule(static)
    for (long thread = 0; thread < threads; thread++)
        for (long index = all * (thread + 1) / threads; index-- > all * thread / threads;) {
            const long first = index % chunks * chunk, count = places - first < chunk ? places - first : chunk;
            const bfloat16 *from = map + (index / chunks * places + first) * inputs;
            float *to = sums + index * inputs;
            for (long c = 0; c < inputs; c += 2 * LANES) {
                __m512 even = _mm512_setzero_ps(), odd = even; /* of the channels */
                for (long row = 0; row < count; row++) {
                    const __m512i two = _mm512_loadu_si512(from + row * inputs + c);
                    even = _mm512_add_ps(even, _mm512_castsi512_ps(_mm512_slli_epi32(two, 16)));
                    odd = _mm512_add_ps(odd, _mm512_castsi512_ps(_mm512_and_si512(two, upper)));
                }
                _mm512_storeu_ps(to + c, _mm512_permutex2var_ps(even, low, odd));
                _mm512_storeu_ps(to + c + LANES, _mm512_permutex2var_ps(even, high, odd));
            }
        }
}

/* means (images, inputs) */
static void average(float *means, const float *sums, long images, long places, long inputs, long chunks) {
    const __m512 share = _mm512_set1_ps(1.0f / places);
#pragma omp for collapse(2) schedule(static)
    for (long image = 0; image < images; image++)
        for (long c = 0; c < inputs; c += LANES) {
            const float *from = sums + image * chunks * inputs + c;
            __m512 sum = _mm512_setzero_ps();
            for (long at = 0; at < chunks; at++) sum = _mm512_add_ps(sum, _mm512_loadu_ps(from + at * inputs));
            _mm512_storeu_ps(means + image * inputs + c, _mm512_mul_ps(sum, share));
        }
}

/* 1 / (1 + e^-x) */
static inline __m512 sigmoid(__m512 x) {
    /* e^y = 2^n e^r, |r| <= ln(2) / 2, by Taylor's series. The bounds are for infinity; NaN passes them. */
    const __m512 y = _mm512_min_ps(
        _mm512_set1_ps(88), _mm512_max_ps(_mm512_set1_ps(-88), _mm512_sub_ps(_mm512_setzero_ps(), x)));
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(y, _mm512_set1_ps(1.44269504f)), 0);
    const __m512 r = _mm512_fnmadd_ps(
        n, _mm512_set1_ps(-2.12194440e-4f), _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), y));
    __m512 power = _mm512_set1_ps(1.0f / 5040);
    const float terms[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 1.0f / 2, 1, 1};
    for (int i = 0; i < 7; i++) power = _mm512_fmadd_ps(power, r, _mm512_set1_ps(terms[i]));
    const __m512 one = _mm512_set1_ps(1);
    return _mm512_div_ps(one, _mm512_add_ps(one, _mm512_scalef_ps(power, n)));
}

enum { SIGMOID, TANH, RELU }; /* in the order of GATES in se.py */

static inline __m512 activate(__m512 x, int activation) {
    if (activation == RELU) return _mm512_max_ps(_mm512_setzero_ps(), x);
    if (activation == SIGMOID) return sigmoid(x);
    return _mm512_fmsub_ps(_mm512_set1_ps(2), sigmoid(_mm512_add_ps(x, x)), _mm512_set1_ps(1));
}

/* `count` images of a layer for 16 of its outputs; `count` is known where it is compiled. Sums of fewer images are
   several each, for one of them would wait for itself. */
static inline __attribute__((always_inline)) void layer_of(
    const int count, float *out, const float *in, const float *weight, const float *shift, long inputs, long outputs,
    int activation, float factor) {
    const int ways = 8 / count;
    __m512 sums[8];
    for (int i = 0; i < 8; i++) sums[i] = _mm512_setzero_ps();
    for (long k = 0; k < inputs; k += ways)
        for (int way = 0; way < ways; way++) {
            const __m512 column = _mm512_loadu_ps(weight + LANES * (k + way));
            for (int i = 0; i < count; i++) {
                const __m512 value = _mm512_set1_ps(in[i * inputs + k + way]);
                sums[i * ways + way] = _mm512_fmadd_ps(value, column, sums[i * ways + way]);
            }
        }
    for (int i = 0; i < count; i++) {
        __m512 sum = _mm512_loadu_ps(shift);
        for (int way = 0; way < ways; way++) sum = _mm512_add_ps(sum, sums[i * ways + way]);
        _mm512_storeu_ps(out + i * outputs, _mm512_mul_ps(activate(sum, activation), _mm512_set1_ps(factor)));
    }
}

/* out (images, outputs) = factor * activation(in (images, inputs) * weight (outputs / 16, inputs, 16) + shift) */
static void layer(
    float *out, const float *in, const float *weight, const float *shift, long images, long inputs, long outputs,
    int activation, float factor) {
#pragma omp for schedule(static)
    for (long block = 0; block < outputs; block += LANES) {
        const float *w = weight + block * inputs, *s = shift + block;
        for (long image = 0, count; image < images; image += count) {
            const float *from = in + image * inputs;
            float *to = out + image * outputs + block;
            if ((count = images - image >= 8 ? 8 : images - image >= 4 ? 4 : 1) == 8)
                layer_of(8, to, from, w, s, inputs, outputs, activation, factor);
            else if (count == 4)
                layer_of(4, to, from, w, s, inputs, outputs, activation, factor);
            else
                layer_of(1, to, from, w, s, inputs, outputs, activation, factor);
        }
    }
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

/* gate = factor * activation(second * relu(first * mean of the map + shift1) + shift2),
   out = shortcut + gate * (map * weight + bias), and the ReLU; out may be the shortcut.

   map (images, places, inputs), weight (outputs / 16, inputs / 2, 16, 2), bias (outputs), out and shortcut (images,
   places, outputs); first (hidden / 16, inputs, 16), second (outputs / 16, hidden, 16), shift1 (hidden), shift2
   (outputs). Inputs and outputs are multiples of 32, hidden is one of 16. work has images * ((chunks + 1) * inputs +
   hidden + outputs) numbers, where chunks are what `chunk` places make of an image, the last one perhaps smaller. */
void gated_product(
    bfloat16 *out, const bfloat16 *shortcut, const bfloat16 *map, const bfloat16 *weight, const float *bias, int relu,
    const float *first, const float *shift1, const float *second, const float *shift2, int activation, float factor,
    float *work, long chunk, long images, long places, long inputs, long hidden, long outputs, int threads) {
    const long rows = images * places, chunks = (places + chunk - 1) / chunk;
    float *sums = work, *means = sums + images * chunks * inputs, *narrow = means + images * inputs;
    float *gate = narrow + images * hidden;
    const __m512 least = relu ? _mm512_setzero_ps() : _mm512_set1_ps(-__builtin_inff());
#pragma omp parallel num_threads(threads)
    {
        add_places(sums, map, images, places, inputs, chunk, threads);
        average(means, sums, images, places, inputs, chunks);
        layer(narrow, means, first, shift1, images, inputs, hidden, RELU, 1);
        layer(gate, narrow, second, shift2, images, hidden, outputs, activation, factor);
        _tile_loadconfig(&TILES);
        float result[BLOCK * GROUP] __attribute__((aligned(64)));
        bfloat16 last[BLOCK * inputs]; /* the map's last rows, filled up with zeros */
#pragma omp for collapse(2) schedule(static)
        for (long start = 0; start < rows; start += BLOCK)
            for (long group = 0; group < outputs; group += GROUP) {
                const long count = rows - start < BLOCK ? rows - start : BLOCK;
                const bfloat16 *from = map + start * inputs;
                if (count < BLOCK) {
                    memset(last, 0, sizeof(last));
                    memcpy(last, from, count * inputs * sizeof(bfloat16));
                    from = last;
                }
                const long channels = outputs - group < GROUP ? outputs - group : GROUP;
                for (long c = 0; c < channels; c += BLOCK) { /* the shortcut comes from far while tiles multiply */
                    for (long row = 0; row < count; row++)
                        _mm_prefetch(shortcut + (start + row) * outputs + group + c, _MM_HINT_T0);
                    multiply(result + c, from, weight + (group + c) * inputs, inputs);
                }
                for (long row = 0; row < count; row++) {
                    const float *r = result + row * GROUP, *g = gate + (start + row) / places * outputs + group;
                    const float *b = bias + group;
                    const bfloat16 *s = shortcut + (start + row) * outputs + group;
                    bfloat16 *o = out + (start + row) * outputs + group;
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
