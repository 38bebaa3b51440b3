/* A decode step in one call: products of 4- and 8-bit weights with activations in 8 bits, by AVX-512 VNNI. */
#include "decode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#define FAST __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c,avx2,fma")))
#define INLINE static inline __attribute__((always_inline)) FAST
enum { GROUP = 32, BLOCK = 64, TOGETHER = 8, HEADS = 4, MOST_GROUPS = MOST_COLUMNS / GROUP };

int32_t decode_supported(void) {
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}

/* Activations of one row in 8 bits: x = code * scale, one scale for each group of 32; sum: of the group's x. */
typedef struct {
    int8_t *codes;
    float *scale, *sum;
    float whole;
} quantised;

INLINE __m512 from_bf16(const uint16_t *at) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)at)), 16));
}

/* e^x by 2^n and a polynomial, within 2e-7 of it: far finer than the bfloat16 that it weighs. */
INLINE __m512 power(__m512 x) {
    __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), n = _mm512_roundscale_ps(t, 8);
    __m512 f = _mm512_mul_ps(_mm512_sub_ps(t, n), _mm512_set1_ps(0.69314718f));
    __m512 p = _mm512_set1_ps(1.f / 720);
    const float terms[] = {1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f};
    for (int i = 0; i < 6; i++) p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(terms[i]));
    return _mm512_scalef_ps(p, n);
}

/* A block of 64 is two groups, stored as the products read them: four codes of the first, four of the second, and so on.
 * So every lane of 32 bits belongs to one group, and one 64-bit broadcast is the pair's scales for all lanes. */
FAST static void quantise(const float *x, int32_t columns, quantised *q) {
    q->whole = 0;
    for (int32_t g = 0; g < columns / GROUP; g++) {
        __m512 a = _mm512_loadu_ps(x + g * GROUP), b = _mm512_loadu_ps(x + g * GROUP + 16);
        float most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
        __m512 inverse = _mm512_set1_ps(most > 0 ? 127 / most : 0);
        __m512i ia = _mm512_cvtps_epi32(_mm512_mul_ps(a, inverse)), ib = _mm512_cvtps_epi32(_mm512_mul_ps(b, inverse));
        int8_t codes[GROUP];
        _mm_storeu_si128((__m128i *)codes, _mm512_cvtepi32_epi8(ia));
        _mm_storeu_si128((__m128i *)(codes + 16), _mm512_cvtepi32_epi8(ib));
        for (int32_t i = 0; i < 8; i++) memcpy(q->codes + g / 2 * BLOCK + (2 * i + g % 2) * 4, codes + 4 * i, 4);
        q->scale[g] = most / 127;
        q->sum[g] = q->scale[g] * (float)_mm512_reduce_add_epi32(_mm512_add_epi32(ia, ib));
        q->whole += q->sum[g];
    }
}

INLINE __m512 dotted(__m512i weights, const int8_t *codes, const float *scales, __m512 sum) {
    __m512i found = _mm512_dpbusd_epi32(_mm512_setzero_si512(), weights, _mm512_loadu_si512(codes));
    double both;
    memcpy(&both, scales, 8);
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(found), _mm512_castpd_ps(_mm512_set1_pd(both)), sum);
}

/* `count` is a constant where this is inlined: a block of weights is unpacked once for all rows. */
INLINE void four_bits(const matrix *w, int32_t row, const quantised *x, int32_t count, float *found) {
    int32_t groups = w->columns / GROUP;
    const uint8_t *codes = w->codes + (int64_t)row * w->columns / 2;
    const uint16_t *scale = w->scale + (int64_t)row * groups, *low = w->low + (int64_t)row * groups;
    __m512 sums[TOGETHER];
    float scales[TOGETHER][MOST_GROUPS]; /* of weights times activations */
    for (int32_t n = 0; n < count; n++) sums[n] = _mm512_setzero_ps();
    for (int32_t g = 0; g < groups; g += 16) {
        __mmask16 there = groups - g < 16 ? (__mmask16)((1 << (groups - g)) - 1) : 0xffff;
        __m512 s = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(there, scale + g));
        __m512 l = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(there, low + g));
        for (int32_t n = 0; n < count; n++) {
            _mm512_storeu_ps(scales[n] + g, _mm512_mul_ps(s, _mm512_maskz_loadu_ps(there, x[n].scale + g)));
            sums[n] = _mm512_fmadd_ps(l, _mm512_maskz_loadu_ps(there, x[n].sum + g), sums[n]);
        }
    }
    __m256i mask = _mm256_set1_epi8(15);
    for (int32_t b = 0; b < groups / 2; b++) {
        __m256i packed = _mm256_loadu_si256((const __m256i *)(codes + b * GROUP));
        __m256i upper = _mm256_and_si256(_mm256_srli_epi16(packed, 4), mask);
        __m512i weights = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_and_si256(packed, mask)), upper, 1);
        for (int32_t n = 0; n < count; n++) sums[n] = dotted(weights, x[n].codes + b * BLOCK, scales[n] + 2 * b, sums[n]);
    }
    for (int32_t n = 0; n < count; n++) found[n] = _mm512_reduce_add_ps(sums[n]);
}

INLINE void eight_bits(const matrix *w, int32_t row, const quantised *x, int32_t count, float *found) {
    const uint8_t *codes = w->codes + (int64_t)row * w->columns;
    __m512 sums[TOGETHER];
    for (int32_t n = 0; n < count; n++) sums[n] = _mm512_setzero_ps();
    for (int32_t b = 0; b < w->columns / BLOCK; b++) {
        __m512i weights = _mm512_loadu_si512(codes + b * BLOCK);
        for (int32_t n = 0; n < count; n++)
            sums[n] = dotted(weights, x[n].codes + b * BLOCK, x[n].scale + 2 * b, sums[n]);
    }
    for (int32_t n = 0; n < count; n++) found[n] = (_mm512_reduce_add_ps(sums[n]) - 128 * x[n].whole) * w->row_scale[row];
}

INLINE void row_of(const matrix *w, int32_t row, const quantised *x, int32_t count, float *y) {
    float found[TOGETHER], bias = w->bias ? w->bias[row] : 0;
    if (w->low) four_bits(w, row, x, count, found);
    else eight_bits(w, row, x, count, found);
    for (int32_t n = 0; n < count; n++) y[(int64_t)n * w->rows + row] = found[n] + bias;
}

FAST static void row_8(const matrix *w, int32_t row, const quantised *x, float *y) { row_of(w, row, x, 8, y); }
FAST static void row_4(const matrix *w, int32_t row, const quantised *x, float *y) { row_of(w, row, x, 4, y); }
FAST static void row_2(const matrix *w, int32_t row, const quantised *x, float *y) { row_of(w, row, x, 2, y); }
FAST static void row_1(const matrix *w, int32_t row, const quantised *x, float *y) { row_of(w, row, x, 1, y); }

/* y [rows, w.rows] of x [rows, w.columns], whose 8-bit form is made in q. */
FAST static void product(const matrix *w, const float *x, int32_t rows, quantised *q, float *y) {
    for (int32_t n = 0; n < rows; n++) quantise(x + (int64_t)n * w->columns, w->columns, q + n);
    for (int32_t row = 0; row < w->rows; row++) {
        for (int32_t n = 0, count; n < rows; n += count) {
            int32_t left = rows - n;
            count = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
            (count == 8 ? row_8 : count == 4 ? row_4 : count == 2 ? row_2 : row_1)(w, row, q + n, y + (int64_t)n * w->rows);
        }
    }
}

FAST static void normed(const float *x, const float *weight, int32_t size, float eps, float *y) {
    float squares = 0;
    for (int32_t i = 0; i < size; i++) squares += x[i] * x[i];
    float by = 1 / sqrtf(squares / (float)size + eps);
    for (int32_t i = 0; i < size; i++) y[i] = x[i] * by * weight[i];
}

INLINE uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Turn a head's neighbouring pairs. */
FAST static void turned(float *head, const float *cos, const float *sin, int32_t size) {
    for (int32_t i = 0; i < size / 2; i++) {
        float a = head[2 * i], b = head[2 * i + 1];
        head[2 * i] = a * cos[i] - b * sin[i];
        head[2 * i + 1] = a * sin[i] + b * cos[i];
    }
}

/* Attention of up to HEADS query heads to one key head; `count` is a constant where this is inlined. `rows` are the cache
 * rows of the positions that are seen, `scores` has `padded` numbers a head. */
INLINE void attend_of(const float *query, int32_t count, int32_t size, const uint16_t *keys, const uint16_t *values,
                      int64_t stride, const int32_t *rows, int32_t seen, float *scores, float *out) {
    int32_t padded = (seen + 15) & ~15;
    float root = 1 / sqrtf((float)size), most[HEADS];
    __m512 sums[HEADS];
    for (int32_t h = 0; h < count; h++) most[h] = -1e30f;
    for (int32_t p = 0; p < seen; p++) {
        const uint16_t *key = keys + rows[p] * stride;
        for (int32_t h = 0; h < count; h++) sums[h] = _mm512_setzero_ps();
        for (int32_t i = 0; i < size; i += 16) {
            __m512 part = from_bf16(key + i);
            for (int32_t h = 0; h < count; h++)
                sums[h] = _mm512_fmadd_ps(_mm512_loadu_ps(query + h * size + i), part, sums[h]);
        }
        for (int32_t h = 0; h < count; h++) {
            float score = _mm512_reduce_add_ps(sums[h]) * root;
            scores[h * padded + p] = score;
            most[h] = score > most[h] ? score : most[h];
        }
    }
    for (int32_t h = 0; h < count; h++) {
        float *own = scores + h * padded;
        for (int32_t p = seen; p < padded; p++) own[p] = -1e30f; /* e^ of it is 0 */
        __m512 sum = _mm512_setzero_ps(), top = _mm512_set1_ps(most[h]);
        for (int32_t p = 0; p < padded; p += 16) {
            __m512 weight = power(_mm512_sub_ps(_mm512_loadu_ps(own + p), top));
            _mm512_storeu_ps(own + p, weight);
            sum = _mm512_add_ps(sum, weight);
        }
        most[h] = 1 / _mm512_reduce_add_ps(sum);
    }
    for (int32_t i = 0; i < size; i += 16) {
        for (int32_t h = 0; h < count; h++) sums[h] = _mm512_setzero_ps();
        for (int32_t p = 0; p < seen; p++) {
            __m512 part = from_bf16(values + rows[p] * stride + i);
            for (int32_t h = 0; h < count; h++)
                sums[h] = _mm512_fmadd_ps(_mm512_set1_ps(scores[h * padded + p]), part, sums[h]);
        }
        for (int32_t h = 0; h < count; h++)
            _mm512_storeu_ps(out + h * size + i, _mm512_mul_ps(sums[h], _mm512_set1_ps(most[h])));
    }
}

typedef void attend_fn(const float *, int32_t, const uint16_t *, const uint16_t *, int64_t, const int32_t *, int32_t,
                       float *, float *);
#define ATTEND(name, count)                                                                                           \
    FAST static void name(const float *query, int32_t size, const uint16_t *keys, const uint16_t *values,            \
                          int64_t stride, const int32_t *rows, int32_t seen, float *scores, float *out) {            \
        attend_of(query, count, size, keys, values, stride, rows, seen, scores, out);                                \
    }
ATTEND(attend_1, 1)
ATTEND(attend_2, 2)
ATTEND(attend_3, 3)
ATTEND(attend_4, 4)
static attend_fn *const attends[] = {0, attend_1, attend_2, attend_3, attend_4};

/* What a step works in; `mixed` is as wide as the widest product. */
typedef struct {
    float *normed, *mixed, *heads, *scores;
    quantised *q;
    int32_t *rows; /* cache rows of what one row sees */
} room;

FAST static void attention(const model *m, const step *s, int32_t index, room *r) {
    const layer *l = m->layers + index;
    int32_t d = m->head_dim, shared = m->heads / m->kv_heads, width = l->query_key_value.rows;
    int64_t stride = (int64_t)m->kv_heads * d;
    uint16_t *keys = s->keys + index * s->cache_rows * stride, *values = s->values + index * s->cache_rows * stride;
    for (int32_t n = 0; n < s->rows; n++) {
        float *mixed = r->mixed + (int64_t)n * width;
        for (int32_t h = 0; h < m->heads + m->kv_heads; h++) {
            const float *norm = h < m->heads ? l->query_norm : l->key_norm;
            if (norm) normed(mixed + h * d, norm, d, m->eps, mixed + h * d);
            turned(mixed + h * d, s->cos + n * d / 2, s->sin + n * d / 2, d);
        }
        const float *key = mixed + m->heads * d, *value = key + stride;
        for (int64_t i = 0; i < stride; i++) {
            keys[s->target[n] * stride + i] = to_bf16(key[i]);
            values[s->target[n] * stride + i] = to_bf16(value[i]);
        }
    }
    for (int32_t n = 0; n < s->rows; n++) {
        const int32_t *pages = s->pages + (int64_t)n * s->width;
        int32_t last = s->places[n], first = l->window && last >= l->window ? last - l->window + 1 : 0, seen = 0;
        for (int32_t at = first; at <= last; seen++, at++)
            r->rows[seen] = seen && at % s->page ? r->rows[seen - 1] + 1 : pages[at / s->page] * s->page + at % s->page;
        for (int32_t h = 0, count; h < m->heads; h += count) {
            int32_t left = shared - h % shared, k = h / shared;
            count = left < HEADS ? left : HEADS;
            attends[count](r->mixed + (int64_t)n * width + h * d, d, keys + k * d, values + k * d, stride, r->rows, seen,
                           r->scores, r->heads + ((int64_t)n * m->heads + h) * d);
        }
    }
}

FAST static void feed_forward(const model *m, const layer *l, int32_t rows, room *r) {
    product(&l->gate_up, r->normed, rows, r->q, r->mixed);
    for (int32_t n = 0; n < rows; n++) { /* silu(gate) * up, packed together: a row's place is behind all it reads */
        const float *gate = r->mixed + (int64_t)n * 2 * m->feed_forward;
        float *to = r->mixed + (int64_t)n * m->feed_forward;
        for (int32_t i = 0; i < m->feed_forward; i += 16) {
            __m512 x = _mm512_loadu_ps(gate + i), up = _mm512_loadu_ps(gate + m->feed_forward + i);
            __m512 down = _mm512_add_ps(_mm512_set1_ps(1), power(_mm512_sub_ps(_mm512_setzero_ps(), x)));
            _mm512_storeu_ps(to + i, _mm512_mul_ps(_mm512_div_ps(x, down), up));
        }
    }
    product(&l->down, r->mixed, rows, r->q, r->normed);
}

FAST static void computed(const model *m, const step *s, room *r) {
    int64_t all = (int64_t)s->rows * m->hidden;
    for (int32_t index = 0; index < m->count; index++) {
        const layer *l = m->layers + index;
        for (int32_t n = 0; n < s->rows; n++)
            normed(s->states + (int64_t)n * m->hidden, l->attention_norm, m->hidden, m->eps, r->normed + (int64_t)n * m->hidden);
        product(&l->query_key_value, r->normed, s->rows, r->q, r->mixed);
        attention(m, s, index, r);
        product(&l->output, r->heads, s->rows, r->q, r->normed);
        for (int64_t i = 0; i < all; i++) s->states[i] += r->normed[i];
        for (int32_t n = 0; n < s->rows; n++)
            normed(s->states + (int64_t)n * m->hidden, l->feed_norm, m->hidden, m->eps, r->normed + (int64_t)n * m->hidden);
        feed_forward(m, l, s->rows, r);
        for (int64_t i = 0; i < all; i++) s->states[i] += r->normed[i];
    }
    for (int32_t n = 0; n < s->tails; n++)
        normed(s->states + (int64_t)s->wanted[n] * m->hidden, m->norm, m->hidden, m->eps, r->normed + (int64_t)n * m->hidden);
    product(&m->head, r->normed, s->tails, r->q, s->logits);
}

int32_t decode_step(const model *m, const step *s) {
    int64_t d = m->head_dim, across = m->heads * d, mixed = across + 2 * m->kv_heads * d;
    int64_t wide = m->feed_forward > m->hidden ? m->feed_forward : m->hidden;
    if (mixed < 2 * m->feed_forward) mixed = 2 * m->feed_forward;
    if (wide < across) wide = across;
    int64_t seen = (int64_t)s->width * s->page + 16, groups = wide / GROUP;
    int64_t floats = s->rows * (m->hidden + mixed + across + 2 * groups) + HEADS * seen;
    size_t bytes = (size_t)(floats + seen) * 4 + (size_t)s->rows * (sizeof(quantised) + (size_t)wide);
    float *all = malloc(bytes + sizeof(quantised));
    if (!all) return -1;
    room r = {.normed = all};
    r.mixed = r.normed + s->rows * m->hidden;
    r.heads = r.mixed + s->rows * mixed;
    r.scores = r.heads + s->rows * across;
    float *scales = r.scores + HEADS * seen;
    r.q = (quantised *)(scales + s->rows * 2 * groups);
    r.rows = (int32_t *)(r.q + s->rows);
    int8_t *codes = (int8_t *)(r.rows + seen);
    for (int64_t n = 0; n < s->rows; n++)
        r.q[n] = (quantised){codes + n * wide, scales + n * 2 * groups, scales + n * 2 * groups + groups, 0};
    computed(m, s, &r);
    free(all);
    return 0;
}

#else
int32_t decode_supported(void) { return 0; }
int32_t decode_step(const model *m, const step *s) {
    (void)m, (void)s;
    return -1;
}
#endif
