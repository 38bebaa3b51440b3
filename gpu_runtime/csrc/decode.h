/* A decode step of a Llama model in 4- or 8-bit weights, for few rows: what `decode.py` hands over, and what it gets. */
#include <stdint.h>

/* y = x W^T + bias. 4 bits: w = code * scale + low with float16 scale and low for each group of 32; 8 bits: w = (code -
 * 128) * row_scale, one scale a row. The codes of two groups take turns, four of the first and four of the second; with 4
 * bits byte i of a pair holds the i-th of these 64 and, in its upper half, the one 32 behind it. */
enum { MOST_COLUMNS = 16384 };
typedef struct {
    const uint8_t *codes;
    const uint16_t *scale, *low; /* null for 8 bits */
    const float *row_scale;      /* null for 4 bits */
    const float *bias;           /* or null */
    int32_t rows, columns;       /* columns: a multiple of 64, up to MOST_COLUMNS */
} matrix;

typedef struct {
    const float *attention_norm, *feed_norm, *query_norm, *key_norm; /* the last two: or null */
    matrix query_key_value, output, gate_up, down;
    int32_t window; /* tokens that a row sees, its own included; 0 for all */
} layer;

typedef struct {
    const layer *layers;
    const float *norm;
    matrix head;
    int32_t count, hidden, feed_forward, heads, kv_heads, head_dim;
    float eps;
} model;

/* Keys and values are bfloat16 [layers, cache_rows, kv_heads, head_dim]; a page is `page` neighbouring rows. */
typedef struct {
    int32_t rows, tails, width, page;
    int64_t cache_rows;
    float *states;          /* [rows, hidden]: embeddings, written over */
    const float *cos, *sin; /* [rows, head_dim / 2] */
    const int64_t *target;  /* [rows]: the cache row of each new token */
    const int32_t *places;  /* [rows]: positions in their sequences */
    const int32_t *pages;   /* [rows, width] */
    const int32_t *wanted;  /* [tails]: rows whose logits are wanted */
    uint16_t *keys, *values;
    float *logits; /* [tails, head.rows] */
} step;

/* 1 where this processor has the instructions, else 0. */
int32_t decode_supported(void);
/* 0, or -1 when there is no memory. */
int32_t decode_step(const model *, const step *);
