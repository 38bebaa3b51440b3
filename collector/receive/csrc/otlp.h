/* OTLP protobuf bodies to Arrow arrays: what the parser in otlp.c offers. Nothing here knows Python. */
#ifndef TAILBUDGET_OTLP_H
#define TAILBUDGET_OTLP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The Arrow C data interface: its layout is an ABI that must not change. */
#ifndef ARROW_C_DATA_INTERFACE
#define ARROW_C_DATA_INTERFACE
struct ArrowArray {
    int64_t length;
    int64_t null_count;
    int64_t offset;
    int64_t n_buffers;
    int64_t n_children;
    const void **buffers;
    struct ArrowArray **children;
    struct ArrowArray *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
};
#endif

typedef enum { OTLP_TRACES, OTLP_METRICS, OTLP_LOGS } otlp_signal;

/* DECLINED: not well formed, or well formed in a way that no encoder writes; the reference decoder has the last word. */
typedef enum { OTLP_OK, OTLP_DECLINED, OTLP_NO_MEMORY } otlp_status;

typedef struct {
    const uint8_t *at;
    size_t size;
} otlp_text;

/* A list of names; those to look up are sorted by bytes, then by length. */
typedef struct {
    const otlp_text *rows;
    size_t count;
} otlp_names;

/* What is content and what gets a column of its own. */
typedef struct {
    otlp_names keys, key_prefixes, kept_keys;
    otlp_names events, event_prefixes;
    otlp_names promoted;
    uint64_t seed; /* of the hash tables, so that nobody can choose colliding keys */
    bool plus;     /* 1e+16, as newer versions of orjson write it, rather than 1e16 */
} otlp_rules;

/* What the caller found out about one resource. */
typedef struct {
    uint64_t id;
    otlp_text service; /* `at` is NULL without one */
    otlp_text scrubbed; /* the resource without its content; `at` is NULL when it has none */
} otlp_resource;

enum { OTLP_ACCEPTED, OTLP_DUPLICATE, OTLP_BAD_ID, OTLP_BAD_LINK, OTLP_CONTENT_DROPPED, OTLP_BAD_BUCKETS, OTLP_REASONS };
enum { OTLP_MAX_TABLES = 3 };

typedef struct {
    struct ArrowArray tables[OTLP_MAX_TABLES]; /* spans, events, links; or points; or records */
    int table_count;
    uint32_t *promoted; /* which of the promoted keys have a column, in their order */
    size_t promoted_count;
    uint64_t rejected;
    uint64_t (*counts)[OTLP_REASONS]; /* one row a group of the request */
    uint8_t *scrubbed;                /* the body without its content; NULL when it has none */
    size_t scrubbed_size;
} otlp_batches;

/* To be called once before anything else. */
void otlp_init(void);

/* Checks the whole body and gives the bytes of the resource of each of its groups, to be freed by the caller. */
otlp_status otlp_survey(otlp_signal signal, otlp_text body, otlp_text **resources, size_t *count);

/* Decodes a body that was surveyed; `resources` are those of its groups. Fills `out` only when it returns OTLP_OK. */
otlp_status otlp_decode(otlp_signal signal, otlp_text body, const otlp_rules *rules, const otlp_resource *resources,
                        size_t count, otlp_batches *out);

/* Frees what otlp_decode filled; a table that was moved elsewhere has its `release` set to NULL. */
void otlp_free(otlp_batches *batches);

#endif
