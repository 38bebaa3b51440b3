/* OTLP protobuf bodies to Arrow arrays, equal value for value to what the Python decoder gives.
 *
 * Two passes: `otlp_survey` checks everything (lengths, varints, UTF-8, nesting), `otlp_decode` takes the values out and
 * checks every read again. What was refused or ran out of memory is remembered in `decoder.status`: from then on reading
 * ends and writing does nothing, so that no caller needs to look. */
#include "otlp.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__SIZEOF_INT128__) || !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "written for 64-bit little-endian machines; elsewhere the Python decoder serves"
#endif

/* Of messages within messages; protobuf's own limit is 100, and what lies between is left to it. */
#define MOST_DEEP 90
#define MOST_GROUPS_DEEP 16
#define MAX_NS INT64_MAX /* a later instant is cut to this one, in the year 2262 */
#define INLINE static inline __attribute__((always_inline)) /* what a span needs hundreds of times */
#define COLD static __attribute__((noinline))

typedef struct {
    uint8_t *at;
    size_t used, room;
} buffer;

/* ---- Arrow columns ---- */

typedef enum { TEXT, ID, WORD, HALF, BIT, WORDS } column_kind; /* utf8, 16, 8, 4 bytes, boolean, list of 8 bytes */

typedef struct {
    column_kind kind;
    int64_t rows, nulls;
    buffer validity, offsets, data;
} column;

/* ---- the state of one call ---- */

typedef struct {
    otlp_text text;
    size_t quoted, quoted_size; /* `"name":` in `decoder.quoted` */
    uint64_t hash;
    uint64_t stamp;  /* of the object that had it last */
    size_t entry;    /* its place there */
    int32_t promoted; /* its row in the rules, -1 for none */
    bool content, event_known, event_content;
} key;

/* The member of an AnyValue that is set, by its field number; 0 when there is none. */
typedef struct {
    uint32_t number;
    uint64_t word;  /* of a boolean, an integer, a double */
    otlp_text text; /* of everything else */
} member;

typedef struct {
    size_t key;
    member value;
} entry;

#define GUESSES 32

typedef struct {
    const uint8_t *at;
    size_t size;       /* of what it replaces */
    otlp_text instead; /* `at` is NULL: `small` */
    uint8_t small[10];
} edit;

/* A message that is being read, or a string in it: by how much it shrinks. */
typedef struct frame {
    const uint8_t *length_at;
    size_t length_size, size;
    int64_t shrunk;
    struct frame *up;
} frame;

typedef struct {
    otlp_status status;
    const otlp_rules *rules;
    buffer keys, key_slots, quoted; /* key; uint32_t: number of a key, plus one; text */
    uint32_t guesses[GUESSES]; /* the key that stood at this place in the object before */
    uint32_t place;
    uint64_t stamp;
    buffer entries; /* entry, a stack */
    buffer edits;   /* edit */
    buffer ids, id_slots;
    buffer children; /* field: events and links of the span, or exemplars of the point, that is read */
    column *columns, *events, *links, *promoted;
    const otlp_resource *resource;
    uint64_t *counts;
    uint64_t rejected;
    otlp_text scope;
    size_t scope_entries;
} decoder;

static void fail(decoder *d, otlp_status status) {
    if (d->status == OTLP_OK) d->status = status;
}

COLD bool more_room(decoder *d, buffer *b, size_t size) {
    size_t wanted = b->room < 512 ? 512 : b->room * 2;
    while (wanted - b->used < size) wanted *= 2;
    uint8_t *at = realloc(b->at, wanted);
    if (!at) return fail(d, OTLP_NO_MEMORY), false;
    b->at = at;
    b->room = wanted;
    return true;
}

/* Returns room for `size` bytes behind what is used, or NULL. */
INLINE uint8_t *room(decoder *d, buffer *b, size_t size) {
    if (d->status != OTLP_OK) return NULL;
    if ((b->room - b->used < size || !b->at) && !more_room(d, b, size)) return NULL;
    return b->at + b->used;
}

#define STEP 16
/* Copies by steps: up to STEP - 1 bytes more than `size` are read and written. */
INLINE void copy_over(uint8_t *to, const uint8_t *from, size_t size) {
    size_t at = 0;
    do memcpy(to + at, from + at, STEP);
    while ((at += STEP) < size);
}

INLINE void put(decoder *d, buffer *b, const void *from, size_t size) {
    uint8_t *at = room(d, b, size);
    if (!at || !size) return;
    memcpy(at, from, size);
    b->used += size;
}

INLINE void put_byte(decoder *d, buffer *b, uint8_t byte) {
    uint8_t *at = room(d, b, 1);
    if (at) *at = byte, b->used++;
}

#define COUNT(b, type) ((b).used / sizeof(type))
#define AT(b, type, index) (((type *)(void *)(b).at) + (index))

/* ---- reading the wire ---- */

enum { VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 };

typedef struct {
    const uint8_t *at, *end;
} cursor;

typedef struct {
    uint32_t number, wire;
    uint64_t value;
    otlp_text text;
    const uint8_t *start, *length_at; /* of its tag, of its length */
} field;

static uint64_t load64(const uint8_t *at) {
    uint64_t value;
    memcpy(&value, at, 8);
    return value;
}

static uint32_t load32(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, 4);
    return value;
}

COLD const uint8_t *long_number(const uint8_t *at, const uint8_t *end, int most, uint64_t *value) {
    uint64_t found = 0;
    for (int i = 0; i < most && at < end; i++) {
        uint8_t byte = *at++;
        if (i == 9 && byte > 1) break;
        found |= (uint64_t)(byte & 127) << (7 * i);
        if (byte < 128) return *value = found, at;
    }
    return NULL;
}

/* Reads a number of at most `most` bytes; returns where it ends, NULL when there is none. */
INLINE const uint8_t *number_at(const uint8_t *at, const uint8_t *end, int most, uint64_t *value) {
    uint64_t found;
    if (at < end && *at < 128) return *value = *at, at + 1;
    at = long_number(at, end, most, &found);
    if (at) *value = found;
    return at;
}

INLINE bool varint(decoder *d, cursor *c, int most, uint64_t *value) {
    const uint8_t *at = number_at(c->at, c->end, most, value);
    if (!at) return fail(d, OTLP_DECLINED), false;
    c->at = at;
    return true;
}

INLINE bool skip(decoder *d, cursor *c, size_t size) {
    if ((size_t)(c->end - c->at) < size) return fail(d, OTLP_DECLINED), false;
    c->at += size;
    return true;
}

INLINE bool read_tag(decoder *d, cursor *c, uint32_t *number, uint32_t *wire) {
    uint64_t tag;
    if (!varint(d, c, 5, &tag)) return false;
    if (tag > UINT32_MAX || tag < 8) return fail(d, OTLP_DECLINED), false;
    *number = (uint32_t)tag >> 3;
    *wire = (uint32_t)tag & 7;
    return true;
}

COLD const uint8_t *group_end(decoder *d, cursor c, uint32_t number, int depth);

/* Reads what follows the tag. */
INLINE bool read_value(decoder *d, cursor *c, field *f, int depth) {
    const uint8_t *at = c->at;
    switch (f->wire) {
    case VARINT:
        return varint(d, c, 10, &f->value);
    case FIXED64:
        if (!skip(d, c, 8)) return false;
        f->value = load64(at);
        return true;
    case FIXED32:
        if (!skip(d, c, 4)) return false;
        f->value = load32(at);
        return true;
    case BYTES: {
        uint64_t size;
        f->length_at = at;
        if (!varint(d, c, 5, &size)) return false;
        f->text = (otlp_text){c->at, (size_t)size};
        return skip(d, c, (size_t)size);
    }
    case GROUP:
        at = group_end(d, *c, f->number, depth);
        if (at) c->at = at;
        return at;
    default:
        return fail(d, OTLP_DECLINED), false;
    }
}

/* Returns where the group ends that `c` stands in, NULL when it does not. */
COLD const uint8_t *group_end(decoder *d, cursor c, uint32_t number, int depth) {
    if (depth >= MOST_GROUPS_DEEP) return fail(d, OTLP_DECLINED), NULL;
    while (c.at < c.end) {
        field f;
        if (!read_tag(d, &c, &f.number, &f.wire)) return NULL;
        if (f.wire == END_GROUP) return f.number == number ? c.at : (fail(d, OTLP_DECLINED), NULL);
        if (!read_value(d, &c, &f, depth + 1)) return NULL;
    }
    return fail(d, OTLP_DECLINED), NULL;
}

/* Reads the next field; false at the end and after a failure. */
INLINE bool next(decoder *d, cursor *c, field *f) {
    if (d->status != OTLP_OK || c->at >= c->end) return false;
    f->start = c->at;
    return read_tag(d, c, &f->number, &f->wire) && read_value(d, c, f, 0);
}

INLINE cursor within(otlp_text text) { return (cursor){text.at, text.at + text.size}; }

INLINE bool is(const field *f, uint32_t number, uint32_t wire) { return f->number == number && f->wire == wire; }

/* Reads a pair as every encoder writes it: a name, then a value with one scalar member, and nothing else. False for
 * any other pair, of which nothing is known then. */
INLINE bool plain_pair(otlp_text pair, otlp_text *name, member *value) {
    const uint8_t *at = pair.at, *end = at + pair.size;
    uint64_t size;
    if (at == end || *at != (1 << 3 | BYTES) || !(at = number_at(at + 1, end, 5, &size)) || (size_t)(end - at) < size)
        return false;
    *name = (otlp_text){at, (size_t)size};
    at += size;
    if (at == end || *at != (2 << 3 | BYTES) || !(at = number_at(at + 1, end, 5, &size)) || (size_t)(end - at) != size ||
        at == end)
        return false;
    switch (*at++) {
    case 1 << 3 | BYTES:
        if (!(at = number_at(at, end, 5, &size)) || (size_t)(end - at) != size) return false;
        *value = (member){.number = 1, .text = {at, (size_t)size}};
        return true;
    case 2 << 3 | VARINT:
    case 3 << 3 | VARINT:
        *value = (member){.number = at[-1] >> 3};
        return number_at(at, end, 10, &value->word) == end;
    case 4 << 3 | FIXED64:
        if (end - at != 8) return false;
        *value = (member){.number = 4, .word = load64(at)};
        return true;
    default:
        return false;
    }
}

/* ---- checking a body ---- */

#define HIGH UINT64_C(0x8080808080808080)
#define EACH UINT64_C(0x0101010101010101)

/* Gives the last, at most eight, bytes of a text that is not empty as one word, some of them twice. */
INLINE uint64_t tail_of(const uint8_t *at, const uint8_t *end) {
    size_t size = (size_t)(end - at);
    if (size >= 8) return load64(end - 8);
    if (size >= 4) return load32(at) | (uint64_t)load32(end - 4) << 32;
    return (at[0] | (uint64_t)at[size / 2] << 8 | (uint64_t)end[-1] << 16) * UINT64_C(0x1000001000001);
}

INLINE bool is_ascii(otlp_text text) {
    if (!text.size) return true;
    const uint8_t *at = text.at, *end = at + text.size;
    for (; end - at > 8; at += 8)
        if (load64(at) & HIGH) return false;
    return !(tail_of(text.at, end) & HIGH);
}

/* Returns the bytes of the character at `at`, 0 when it is none: overlong, a surrogate or beyond U+10FFFF. */
static int character(const uint8_t *at, const uint8_t *end, uint32_t *code) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    uint8_t first = *at;
    int size = first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
    if (!size || end - at < size) return 0;
    uint32_t found = size == 1 ? first : first & (0x7F >> size);
    for (int i = 1; i < size; i++) {
        if ((at[i] & 0xC0) != 0x80) return 0;
        found = found << 6 | (at[i] & 0x3F);
    }
    if (found < least[size] || found > 0x10FFFF || (found >= 0xD800 && found < 0xE000)) return 0;
    *code = found;
    return size;
}

COLD bool is_wide_utf8(otlp_text text) {
    const uint8_t *at = text.at, *end = at + text.size;
    while (at < end) {
        uint32_t code;
        int size = 8;
        if (end - at < 8 || load64(at) & HIGH) size = character(at, end, &code);
        if (!size) return false;
        at += size;
    }
    return true;
}

INLINE bool is_utf8(otlp_text text) { return is_ascii(text) || is_wide_utf8(text); }

/* What the fields of each message are; `ONE` is a message that is merged when it comes twice, which is declined. */
typedef enum { OTHER, STRING, ONE, MANY, FIXED64S, VARINTS } meaning;
typedef enum {
    TRACES, METRICS, LOGS, RESOURCE_SPANS, RESOURCE_METRICS, RESOURCE_LOGS, RESOURCE, ENTITY, SCOPE_SPANS,
    SCOPE_METRICS, SCOPE_LOGS, SCOPE, SPAN, EVENT, LINK, STATUS, METRIC, NUMBERS, HISTOGRAMS, EXPONENTIALS, SUMMARIES,
    NUMBER, HISTOGRAM, EXPONENTIAL, BUCKETS, SUMMARY, QUANTILE, EXEMPLAR, RECORD, PAIR, VALUE, ARRAY, PAIRS, MESSAGES
} message;

typedef struct {
    uint8_t meaning, of;
} spec;

#define LAST_FIELD 16
#define SPAN_DEPTH 3 /* of messages that hold a span */
static const spec SPECS[MESSAGES][LAST_FIELD + 1] = {
    [TRACES] = {[1] = {MANY, RESOURCE_SPANS}},
    [METRICS] = {[1] = {MANY, RESOURCE_METRICS}},
    [LOGS] = {[1] = {MANY, RESOURCE_LOGS}},
    [RESOURCE_SPANS] = {[1] = {ONE, RESOURCE}, [2] = {MANY, SCOPE_SPANS}, [3] = {STRING, 0}},
    [RESOURCE_METRICS] = {[1] = {ONE, RESOURCE}, [2] = {MANY, SCOPE_METRICS}, [3] = {STRING, 0}},
    [RESOURCE_LOGS] = {[1] = {ONE, RESOURCE}, [2] = {MANY, SCOPE_LOGS}, [3] = {STRING, 0}},
    [RESOURCE] = {[1] = {MANY, PAIR}, [3] = {MANY, ENTITY}},
    [ENTITY] = {[1] = {STRING, 0}, [2] = {STRING, 0}, [3] = {STRING, 0}, [4] = {STRING, 0}},
    [SCOPE_SPANS] = {[1] = {ONE, SCOPE}, [2] = {MANY, SPAN}, [3] = {STRING, 0}},
    [SCOPE_METRICS] = {[1] = {ONE, SCOPE}, [2] = {MANY, METRIC}, [3] = {STRING, 0}},
    [SCOPE_LOGS] = {[1] = {ONE, SCOPE}, [2] = {MANY, RECORD}, [3] = {STRING, 0}},
    [SCOPE] = {[1] = {STRING, 0}, [2] = {STRING, 0}, [3] = {MANY, PAIR}},
    [SPAN] = {[3] = {STRING, 0}, [5] = {STRING, 0}, [11] = {MANY, EVENT}, [13] = {MANY, LINK},
              [15] = {ONE, STATUS}}, /* [9], its attributes, are most of a body: `take_attribute` checks them */
    [EVENT] = {[2] = {STRING, 0}, [3] = {MANY, PAIR}},
    [LINK] = {[3] = {STRING, 0}, [4] = {MANY, PAIR}},
    [STATUS] = {[2] = {STRING, 0}},
    [METRIC] = {[1] = {STRING, 0}, [2] = {STRING, 0}, [3] = {STRING, 0}, [5] = {ONE, NUMBERS}, [7] = {ONE, NUMBERS},
                [9] = {ONE, HISTOGRAMS}, [10] = {ONE, EXPONENTIALS}, [11] = {ONE, SUMMARIES}, [12] = {MANY, PAIR}},
    [NUMBERS] = {[1] = {MANY, NUMBER}},
    [HISTOGRAMS] = {[1] = {MANY, HISTOGRAM}},
    [EXPONENTIALS] = {[1] = {MANY, EXPONENTIAL}},
    [SUMMARIES] = {[1] = {MANY, SUMMARY}},
    [NUMBER] = {[5] = {MANY, EXEMPLAR}, [7] = {MANY, PAIR}},
    [HISTOGRAM] = {[6] = {FIXED64S, 0}, [7] = {FIXED64S, 0}, [8] = {MANY, EXEMPLAR}, [9] = {MANY, PAIR}},
    [EXPONENTIAL] = {[1] = {MANY, PAIR}, [8] = {ONE, BUCKETS}, [9] = {ONE, BUCKETS}, [11] = {MANY, EXEMPLAR}},
    [BUCKETS] = {[2] = {VARINTS, 0}},
    [SUMMARY] = {[6] = {MANY, QUANTILE}, [7] = {MANY, PAIR}},
    [EXEMPLAR] = {[7] = {MANY, PAIR}},
    [RECORD] = {[3] = {STRING, 0}, [5] = {ONE, VALUE}, [6] = {MANY, PAIR}, [12] = {STRING, 0}},
    [PAIR] = {[1] = {STRING, 0}, [2] = {ONE, VALUE}},
    [VALUE] = {[1] = {STRING, 0}, [5] = {ONE, ARRAY}, [6] = {ONE, PAIRS}},
    [ARRAY] = {[1] = {MANY, VALUE}},
    [PAIRS] = {[1] = {MANY, PAIR}},
};

static void check(decoder *d, otlp_text text, message of, int depth) {
    cursor c = within(text);
    uint32_t seen = 0;
    field f;
    if (depth > MOST_DEEP) return fail(d, OTLP_DECLINED);
    while (next(d, &c, &f)) {
        if (f.wire != BYTES || f.number > LAST_FIELD) continue;
        const spec *s = &SPECS[of][f.number];
        switch ((meaning)s->meaning) {
        case OTHER:
            break;
        case STRING:
            if (!is_utf8(f.text)) fail(d, OTLP_DECLINED);
            break;
        case ONE:
            if (seen & 1u << f.number) fail(d, OTLP_DECLINED);
            seen |= 1u << f.number;
            check(d, f.text, (message)s->of, depth + 1);
            break;
        case MANY:
            check(d, f.text, (message)s->of, depth + 1);
            break;
        case FIXED64S:
            if (f.text.size % 8) fail(d, OTLP_DECLINED);
            break;
        case VARINTS: {
            cursor numbers = within(f.text);
            uint64_t number;
            while (numbers.at < numbers.end && varint(d, &numbers, 10, &number)) continue;
            break;
        }
        }
    }
}

otlp_status otlp_survey(otlp_signal signal, otlp_text body, otlp_text **resources, size_t *count) {
    decoder d = {.status = OTLP_OK};
    buffer found = {0};
    cursor c = within(body);
    field f;
    check(&d, body, (message)signal, 0);
    while (next(&d, &c, &f)) {
        if (!is(&f, 1, BYTES)) continue;
        otlp_text resource = {body.at, 0};
        cursor group = within(f.text);
        field part;
        while (next(&d, &group, &part))
            if (is(&part, 1, BYTES)) resource = part.text;
        put(&d, &found, &resource, sizeof resource);
    }
    if (d.status != OTLP_OK) {
        free(found.at);
        return d.status;
    }
    *resources = (otlp_text *)(void *)found.at;
    *count = COUNT(found, otlp_text);
    return OTLP_OK;
}

/* ---- writing columns ---- */

static void set_bits(decoder *d, buffer *bits, int64_t from, int64_t to, bool value) {
    size_t bytes = (size_t)(to + 7) / 8;
    if (bytes > bits->used) {
        uint8_t *at = room(d, bits, bytes - bits->used);
        if (!at) return;
        memset(at, 0, bytes - bits->used);
        bits->used = bytes;
    }
    if (d->status != OTLP_OK || !value) return;
    for (int64_t i = from; i < to; i++) bits->at[i / 8] |= (uint8_t)(1 << (i % 8));
}

/* Writes the offset of the first row. */
static void put_start(decoder *d, column *c) {
    int32_t start = 0;
    if (!c->offsets.used) put(d, &c->offsets, &start, 4);
}

static void put_offset(decoder *d, column *c) {
    size_t end = c->kind == WORDS ? c->data.used / 8 : c->data.used;
    int32_t offset = (int32_t)end;
    if (end > INT32_MAX) return fail(d, OTLP_DECLINED);
    put_start(d, c);
    put(d, &c->offsets, &offset, 4);
}

/* Makes rows up to `row` null. */
static void pad(decoder *d, column *c, int64_t row) {
    int64_t missing = row - c->rows;
    if (missing <= 0 || d->status != OTLP_OK) return;
    if (!c->nulls) set_bits(d, &c->validity, 0, c->rows, true);
    set_bits(d, &c->validity, c->rows, row, false);
    if (c->kind == TEXT || c->kind == WORDS) {
        for (int64_t i = 0; i < missing; i++) put_offset(d, c);
    } else if (c->kind == BIT) {
        set_bits(d, &c->data, c->rows, row, false);
    } else {
        size_t size = (size_t)missing * (c->kind == ID ? 16 : c->kind == WORD ? 8 : 4);
        uint8_t *at = room(d, &c->data, size);
        if (!at) return;
        memset(at, 0, size);
        c->data.used += size;
    }
    c->nulls += missing;
    c->rows = row;
}

/* Begins the value of `row`, which must be written next. */
static void present(decoder *d, column *c, int64_t row) {
    pad(d, c, row);
    if (c->nulls) set_bits(d, &c->validity, row, row + 1, true);
    c->rows = row + 1;
}

static void put_text(decoder *d, column *c, int64_t row, otlp_text text) {
    present(d, c, row);
    put(d, &c->data, text.at, text.size);
    put_offset(d, c);
}

static void put_string(decoder *d, column *c, int64_t row, const char *text) {
    put_text(d, c, row, (otlp_text){(const uint8_t *)text, strlen(text)});
}

/* Text that is null when empty. */
static void put_some(decoder *d, column *c, int64_t row, otlp_text text) {
    if (text.size) put_text(d, c, row, text);
}

static void put_word(decoder *d, column *c, int64_t row, uint64_t value) {
    present(d, c, row);
    put(d, &c->data, &value, 8);
}

static void put_double(decoder *d, column *c, int64_t row, double value) {
    uint64_t bits;
    memcpy(&bits, &value, 8);
    put_word(d, c, row, bits);
}

static void put_half(decoder *d, column *c, int64_t row, int32_t value) {
    present(d, c, row);
    put(d, &c->data, &value, 4);
}

static void put_bit(decoder *d, column *c, int64_t row, bool value) {
    present(d, c, row);
    set_bits(d, &c->data, row, row + 1, value);
}

static uint64_t instant(uint64_t ns) { return ns > (uint64_t)MAX_NS ? (uint64_t)MAX_NS : ns; }

/* ---- numbers as text ---- */

typedef struct {
    uint64_t high, low;
} wide;

#define LEAST_POWER (-292)
#define MOST_POWER 324
static wide POWERS[MOST_POWER - LEAST_POWER + 1]; /* 10^k in 128 bits, the first of them set, rounded up */

#define BIG_WORDS 48
typedef struct {
    uint32_t words[BIG_WORDS];
} big;

static bool bit_of(const big *b, int at) { return at >= 0 && b->words[at / 32] >> (at % 32) & 1; }

static wide top_bits(const big *b) {
    int top = BIG_WORDS * 32 - 1;
    while (!bit_of(b, top)) top--;
    unsigned __int128 found = 0;
    for (int i = 0; i < 128; i++) found = found << 1 | bit_of(b, top - i);
    bool inexact = false;
    for (int i = top - 128; i >= 0 && !inexact; i--) inexact = bit_of(b, i);
    found += inexact;
    return (wide){(uint64_t)(found >> 64), (uint64_t)found};
}

void otlp_init(void) {
    big up = {{1}}, down = {{0}};
    down.words[44] = 1; /* 2^1408: 10^-292 of it has 438 bits */
    for (int k = 0; k <= MOST_POWER; k++) {
        POWERS[k - LEAST_POWER] = top_bits(&up);
        uint64_t carry = 0;
        for (int i = 0; i < BIG_WORDS; i++) {
            carry += (uint64_t)up.words[i] * 10;
            up.words[i] = (uint32_t)carry;
            carry >>= 32;
        }
    }
    for (int k = -1; k >= LEAST_POWER; k--) {
        uint64_t rest = 0;
        for (int i = BIG_WORDS - 1; i >= 0; i--) {
            rest = rest << 32 | down.words[i];
            down.words[i] = (uint32_t)(rest / 10);
            rest %= 10;
        }
        big odd = down;
        odd.words[0] |= 1; /* what was cut off is never nothing */
        POWERS[k - LEAST_POWER] = top_bits(&odd);
    }
}

static uint64_t to_odd(wide power, uint64_t value) {
    unsigned __int128 low = (unsigned __int128)power.low * value;
    unsigned __int128 high = (unsigned __int128)power.high * value + (uint64_t)(low >> 64);
    return (uint64_t)(high >> 64) | ((uint64_t)high > 1);
}

/* Gives the shortest decimal `digits * 10^exponent` that reads back as the double with these bits, the closest of them:
 * Schubfach (Giulietti, 2020). */
static uint64_t shortest(uint64_t bits, int *exponent) {
    uint64_t fraction = bits & ((UINT64_C(1) << 52) - 1);
    int biased = (int)(bits >> 52 & 0x7FF);
    uint64_t c = biased ? fraction | UINT64_C(1) << 52 : fraction;
    int q = biased ? biased - 1075 : -1074;
    if (q <= 0 && q > -53 && !(c & ((UINT64_C(1) << -q) - 1))) return *exponent = 0, c >> -q;
    bool even = !(c & 1), closer_below = !fraction && biased > 1;
    int k = (q * 1262611 - (closer_below ? 524031 : 0)) >> 22;
    int h = q + ((-k * 1741647) >> 19) + 1;
    wide power = POWERS[-k - LEAST_POWER];
    uint64_t lower = to_odd(power, (4 * c - 2 + closer_below) << h) + !even;
    uint64_t value = to_odd(power, (4 * c) << h);
    uint64_t upper = to_odd(power, (4 * c + 2) << h) - !even;
    uint64_t s = value / 4;
    if (s >= 10) {
        uint64_t tens = s / 10;
        bool below = lower <= 40 * tens, above = 40 * tens + 40 <= upper;
        if (below != above) return *exponent = k + 1, tens + above;
    }
    bool below = lower <= 4 * s, above = 4 * s + 4 <= upper;
    *exponent = k;
    if (below != above) return s + above;
    uint64_t middle = 4 * s + 2;
    return s + (value > middle || (value == middle && s & 1));
}

static int decimal(uint64_t value, char *end) {
    int size = 0;
    do end[-++size] = (char)('0' + value % 10);
    while (value /= 10);
    return size;
}

static void put_integer(decoder *d, buffer *out, int64_t value) {
    char text[24], *end = text + sizeof text;
    int size = decimal(value < 0 ? -(uint64_t)value : (uint64_t)value, end);
    if (value < 0) end[-++size] = '-';
    put(d, out, end - size, (size_t)size);
}

static void put_zeros(decoder *d, buffer *out, int count) {
    while (count-- > 0) put_byte(d, out, '0');
}

/* Writes a finite double as orjson does. */
static void put_finite(decoder *d, buffer *out, uint64_t bits) {
    char text[24], *end = text + sizeof text;
    int exponent = 0;
    if (bits >> 63) put_byte(d, out, '-');
    bits &= INT64_MAX;
    if (!bits) return put(d, out, "0.0", 3);
    uint64_t digits = shortest(bits, &exponent);
    for (; digits % 10 == 0; exponent++) digits /= 10;
    int size = decimal(digits, end), point = size + exponent;
    char *at = end - size;
    if (exponent >= 0 && point <= 16) {
        put(d, out, at, (size_t)size);
        put_zeros(d, out, exponent);
        put(d, out, ".0", 2);
    } else if (point > 0 && point <= 16) {
        put(d, out, at, (size_t)point);
        put_byte(d, out, '.');
        put(d, out, at + point, (size_t)(size - point));
    } else if (point > -5 && point <= 0) {
        put(d, out, "0.", 2);
        put_zeros(d, out, -point);
        put(d, out, at, (size_t)size);
    } else {
        put_byte(d, out, (uint8_t)at[0]);
        if (size > 1) put_byte(d, out, '.');
        put(d, out, at + 1, (size_t)(size - 1));
        put_byte(d, out, 'e');
        if (point > 0 && d->rules->plus) put_byte(d, out, '+');
        put_integer(d, out, point - 1);
    }
}

static double as_double(uint64_t bits) {
    double value;
    memcpy(&value, &bits, 8);
    return value;
}

static void put_number(decoder *d, buffer *out, uint64_t bits) {
    double value = as_double(bits);
    if (isnan(value)) put(d, out, "\"NaN\"", 5);
    else if (!isinf(value)) put_finite(d, out, bits);
    else if (value > 0) put(d, out, "\"Infinity\"", 10);
    else put(d, out, "\"-Infinity\"", 11);
}

/* ---- text as JSON ---- */

/* Whether one of eight bytes needs an escape, or perhaps does. */
INLINE bool unclean(uint64_t eight) {
    uint64_t quote = eight ^ (EACH * '"'), slash = eight ^ (EACH * '\\');
    uint64_t low = (eight - EACH * 0x20) & ~eight;
    return (low | ((quote - EACH) & ~quote) | ((slash - EACH) & ~slash)) & HIGH;
}

INLINE bool needs_no_escape(otlp_text text) {
    if (!text.size) return true;
    const uint8_t *at = text.at, *end = at + text.size;
    for (; end - at > 8; at += 8)
        if (unclean(load64(at))) return false;
    return !unclean(tail_of(text.at, end));
}

static void put_escaped(decoder *d, buffer *out, uint8_t byte) {
    static const char hex[] = "0123456789abcdef", named[] = "btn?fr";
    char text[] = "\\u0000";
    if (byte == '"' || byte == '\\') text[1] = (char)byte;
    else if (byte >= 8 && byte <= 13 && byte != 11) text[1] = named[byte - 8];
    else {
        text[4] = hex[byte >> 4];
        text[5] = hex[byte & 15];
        return put(d, out, text, 6);
    }
    put(d, out, text, 2);
}

COLD void put_with_escapes(decoder *d, buffer *out, otlp_text text) {
    const uint8_t *at = text.at, *end = at + text.size, *clean = at;
    for (; at < end; at++) {
        if (*at >= 0x20 && *at != '"' && *at != '\\') continue;
        put(d, out, clean, (size_t)(at - clean));
        put_escaped(d, out, *at);
        clean = at + 1;
    }
    put(d, out, clean, (size_t)(at - clean));
    put_byte(d, out, '"');
}

INLINE void put_quoted(decoder *d, buffer *out, otlp_text text) {
    uint8_t *at = room(d, out, text.size + 2);
    if (!at) return;
    *at++ = '"';
    out->used++;
    if (!needs_no_escape(text)) return put_with_escapes(d, out, text);
    if (text.size) memcpy(at, text.at, text.size);
    at[text.size] = '"';
    out->used += text.size + 1;
}

static void put_base64(decoder *d, buffer *out, otlp_text bytes) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    put_byte(d, out, '"');
    for (size_t i = 0; i < bytes.size && d->status == OTLP_OK; i += 3) {
        size_t left = bytes.size - i;
        uint32_t three = (uint32_t)bytes.at[i] << 16;
        if (left > 1) three |= (uint32_t)bytes.at[i + 1] << 8;
        if (left > 2) three |= bytes.at[i + 2];
        char four[4] = {digits[three >> 18], digits[three >> 12 & 63], digits[three >> 6 & 63], digits[three & 63]};
        if (left < 3) four[3] = '=';
        if (left < 2) four[2] = '=';
        put(d, out, four, 4);
    }
    put_byte(d, out, '"');
}

/* ---- names and rules ---- */

static int compare(otlp_text a, otlp_text b) {
    size_t least = a.size < b.size ? a.size : b.size;
    int order = least ? memcmp(a.at, b.at, least) : 0;
    return order ? order : (a.size > b.size) - (a.size < b.size);
}

static int64_t find(otlp_names names, otlp_text text) {
    size_t low = 0, high = names.count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = compare(text, names.rows[middle]);
        if (!order) return (int64_t)middle;
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return -1;
}

static bool listed(const otlp_rules *rules, otlp_names exact, otlp_names prefixes, otlp_text text) {
    bool found = find(exact, text) >= 0;
    for (size_t i = 0; i < prefixes.count && !found; i++) {
        otlp_text prefix = prefixes.rows[i];
        found = text.size >= prefix.size && !memcmp(text.at, prefix.at, prefix.size);
    }
    return found && find(rules->kept_keys, text) < 0;
}

static uint64_t fold(uint64_t a, uint64_t b) {
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t hash_of(uint64_t seed, otlp_text text) {
    uint64_t hash = seed ^ text.size, tail = 0;
    const uint8_t *at = text.at;
    size_t left = text.size;
    for (; left >= 8; left -= 8, at += 8) hash = fold(hash ^ load64(at), UINT64_C(0x9E3779B97F4A7C15));
    if (left) memcpy(&tail, at, left);
    return fold(hash ^ tail ^ UINT64_C(0xA0761D6478BD642F), UINT64_C(0xE7037ED1A0B428DB));
}

/* Grows a table of slots, a power of two of them, when more than half would be taken; the caller fills a new one. */
static bool grow(decoder *d, buffer *slots, size_t count) {
    size_t now = COUNT(*slots, uint32_t);
    if (now && 2 * (count + 1) <= now) return false;
    size_t wanted = now ? now * 2 : 64;
    slots->used = 0;
    uint8_t *at = room(d, slots, wanted * 4);
    if (!at) return false;
    memset(at, 0, wanted * 4);
    slots->used = wanted * 4;
    return true;
}

static void take_slot(buffer *slots, uint64_t hash, size_t number) {
    size_t mask = COUNT(*slots, uint32_t) - 1, at = hash & mask;
    while (*AT(*slots, uint32_t, at)) at = (at + 1) & mask;
    *AT(*slots, uint32_t, at) = (uint32_t)number + 1;
}

static size_t look_up(decoder *d, otlp_text text) {
    uint64_t hash = hash_of(d->rules->seed, text);
    size_t count = COUNT(d->keys, key);
    if (grow(d, &d->key_slots, count))
        for (size_t i = 0; i < count; i++) take_slot(&d->key_slots, AT(d->keys, key, i)->hash, i);
    if (d->status != OTLP_OK) return 0;
    size_t mask = COUNT(d->key_slots, uint32_t) - 1;
    for (size_t at = hash & mask;; at = (at + 1) & mask) {
        uint32_t number = *AT(d->key_slots, uint32_t, at);
        if (!number) break;
        key *known = AT(d->keys, key, number - 1);
        if (known->hash == hash && !compare(known->text, text)) return number - 1;
    }
    key new = {.text = text,
               .hash = hash,
               .promoted = (int32_t)find(d->rules->promoted, text),
               .content = listed(d->rules, d->rules->keys, d->rules->key_prefixes, text)};
    new.quoted = d->quoted.used;
    put_quoted(d, &d->quoted, text);
    put_byte(d, &d->quoted, ':');
    new.quoted_size = d->quoted.used - new.quoted;
    room(d, &d->quoted, STEP); /* behind the last one, for copy_over */
    put(d, &d->keys, &new, sizeof new);
    if (d->status == OTLP_OK) take_slot(&d->key_slots, hash, count);
    return count;
}

/* Returns the number under which a name is remembered: most likely the one at the same place of the object before. */
INLINE size_t intern(decoder *d, otlp_text text) {
    uint32_t *guess = &d->guesses[d->place++ % GUESSES];
    if (*guess < COUNT(d->keys, key)) {
        otlp_text known = AT(d->keys, key, *guess)->text;
        if (known.size == text.size && text.size && !memcmp(known.at, text.at, text.size)) return *guess;
    }
    size_t number = look_up(d, text);
    *guess = (uint32_t)number;
    return number;
}

static bool is_content_event(decoder *d, otlp_text name) {
    size_t number = intern(d, name);
    if (d->status != OTLP_OK) return false;
    key *known = AT(d->keys, key, number);
    if (!known->event_known) {
        known->event_known = true;
        known->event_content = listed(d->rules, d->rules->events, d->rules->event_prefixes, name);
    }
    return known->event_content;
}

/* ---- taking content out ---- */

static frame enter(const field *f, frame *up) {
    return (frame){f->length_at, (size_t)(f->text.at - f->length_at), f->text.size, 0, up};
}

static void replace(decoder *d, const uint8_t *at, size_t size, otlp_text instead) {
    edit e = {.at = at, .size = size, .instead = instead};
    put(d, &d->edits, &e, sizeof e);
}

/* Corrects the length of what has shrunk, and tells what holds it. */
static void leave(decoder *d, frame *f) {
    if (!f->shrunk) return;
    edit e = {.at = f->length_at, .size = f->length_size};
    uint64_t size = (uint64_t)((int64_t)f->size - f->shrunk);
    for (; size > 127; size >>= 7) e.small[e.instead.size++] = (uint8_t)(size | 128);
    e.small[e.instead.size++] = (uint8_t)size;
    put(d, &d->edits, &e, sizeof e);
    if (f->up) f->up->shrunk += f->shrunk + (int64_t)f->length_size - (int64_t)e.instead.size;
}

static void drop(decoder *d, const field *f, frame *in) {
    size_t size = (size_t)(f->text.at + f->text.size - f->start);
    replace(d, f->start, size, (otlp_text){f->start, 0});
    in->shrunk += (int64_t)size;
    d->counts[OTLP_CONTENT_DROPPED]++;
}

static int by_place(const void *a, const void *b) {
    const edit *one = a, *other = b;
    return (one->at > other->at) - (one->at < other->at);
}

static void scrub(decoder *d, otlp_text body, otlp_batches *out) {
    size_t count = COUNT(d->edits, edit);
    buffer scrubbed = {0};
    const uint8_t *at = body.at;
    if (!count || d->status != OTLP_OK) return;
    qsort(d->edits.at, count, sizeof(edit), by_place);
    for (size_t i = 0; i < count; i++) {
        edit *e = AT(d->edits, edit, i);
        put(d, &scrubbed, at, (size_t)(e->at - at));
        put(d, &scrubbed, e->instead.at ? e->instead.at : e->small, e->instead.size);
        at = e->at + e->size;
    }
    put(d, &scrubbed, at, (size_t)(body.at + body.size - at));
    if (!scrubbed.at) room(d, &scrubbed, 1);
    out->scrubbed = scrubbed.at;
    out->scrubbed_size = scrubbed.used;
}

/* What `str.isspace` and `\s` of Python know beyond ASCII's. */
static bool is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/* Returns the bytes of a status message before its first colon, quotation, bracket or line's end, at most 200
 * characters, without white space at the end. */
static size_t head_of(otlp_text text) {
    const uint8_t *at = text.at, *end = at + text.size;
    size_t head = 0;
    bool after_space = true;
    for (int characters = 0; at < end && characters < 200; characters++) {
        uint32_t c;
        int size = character(at, end, &c);
        if (!size || c == ':' || c == '\n' || c == '"' || c == '{' || c == '[' || c == '(' || c == 0x201C) break;
        if (after_space && (c == '\'' || c == '`')) break;
        at += size;
        after_space = is_space(c);
        if (!after_space) head = (size_t)(at - text.at);
    }
    return head;
}

/* ---- values ---- */

/* Gives the field of a value that is set; its number is 0 when there is none. */
static field find_any(decoder *d, otlp_text value) {
    static const uint8_t wires[] = {[1] = BYTES, VARINT, VARINT, FIXED64, BYTES, BYTES, BYTES, VARINT};
    cursor c = within(value);
    field f, found = {0};
    while (next(d, &c, &f))
        if (f.number <= 8 && f.wire == wires[f.number]) found = f;
    return found;
}

static member member_of(field f) { return (member){f.number, f.value, f.text}; }

COLD void read_other_pair(decoder *d, otlp_text pair, otlp_text *name, member *value) {
    cursor c = within(pair);
    field f;
    otlp_text any = *name = (otlp_text){pair.at, 0};
    while (next(d, &c, &f)) {
        if (is(&f, 1, BYTES)) *name = f.text;
        else if (is(&f, 2, BYTES)) any = f.text;
    }
    *value = member_of(find_any(d, any));
}

/* Reads a pair; its name is empty and its value nothing where they are absent. */
INLINE void read_pair(decoder *d, otlp_text pair, otlp_text *name, member *value) {
    if (!plain_pair(pair, name, value)) read_other_pair(d, pair, name, value);
}

static void put_value(decoder *d, buffer *out, member value, int depth);

INLINE void begin_object(decoder *d) {
    d->stamp++;
    d->place = 0;
}

/* Adds to the object that began at entry `base`: a repeated key keeps its first place and takes the last value. */
INLINE void add(decoder *d, size_t base, entry e) {
    if (d->status != OTLP_OK) return;
    key *k = AT(d->keys, key, e.key);
    if (k->stamp == d->stamp) {
        *AT(d->entries, entry, base + k->entry) = e;
        return;
    }
    k->stamp = d->stamp;
    k->entry = COUNT(d->entries, entry) - base;
    put(d, &d->entries, &e, sizeof e);
}

INLINE void put_key(decoder *d, buffer *out, size_t number, bool first) {
    const key *k = AT(d->keys, key, number);
    uint8_t *at = room(d, out, k->quoted_size + STEP);
    if (!at) return;
    if (!first) *at++ = ',';
    copy_over(at, d->quoted.at + k->quoted, k->quoted_size);
    out->used += k->quoted_size + !first;
}

static void put_pairs(decoder *d, buffer *out, otlp_text pairs, int depth) {
    size_t base = COUNT(d->entries, entry);
    cursor c = within(pairs);
    field f;
    begin_object(d);
    while (next(d, &c, &f)) {
        otlp_text name;
        member value;
        if (!is(&f, 1, BYTES)) continue;
        read_pair(d, f.text, &name, &value);
        add(d, base, (entry){intern(d, name), value});
    }
    put_byte(d, out, '{');
    for (size_t i = base; i < COUNT(d->entries, entry) && d->status == OTLP_OK; i++) {
        entry e = *AT(d->entries, entry, i);
        put_key(d, out, e.key, i == base);
        put_value(d, out, e.value, depth + 1);
    }
    put_byte(d, out, '}');
    d->entries.used = base * sizeof(entry);
}

static void put_array(decoder *d, buffer *out, otlp_text values, int depth) {
    cursor c = within(values);
    field f;
    bool first = true;
    put_byte(d, out, '[');
    while (next(d, &c, &f)) {
        if (!is(&f, 1, BYTES)) continue;
        if (!first) put_byte(d, out, ',');
        first = false;
        put_value(d, out, member_of(find_any(d, f.text)), depth + 1);
    }
    put_byte(d, out, ']');
}

/* Writes what an AnyValue holds as JSON. */
static void put_value(decoder *d, buffer *out, member value, int depth) {
    if (depth > MOST_DEEP) return fail(d, OTLP_DECLINED);
    switch (value.number) {
    case 1:
        return put_quoted(d, out, value.text);
    case 2:
        return value.word ? put(d, out, "true", 4) : put(d, out, "false", 5);
    case 3:
        return put_integer(d, out, (int64_t)value.word);
    case 4:
        return put_number(d, out, value.word);
    case 5:
        return put_array(d, out, value.text, depth);
    case 6:
        return put_pairs(d, out, value.text, depth);
    case 7:
        return put_base64(d, out, value.text);
    case 8:
        return put_integer(d, out, (int32_t)value.word);
    default:
        return put(d, out, "null", 4);
    }
}

/* Writes the text of a promoted key, of which `json` is the value: strings as they are, null as nothing. */
INLINE void promote(decoder *d, int32_t promoted, int64_t row, const member *value, otlp_text json) {
    if (!value->number) return;
    if (value->number == 1) json = value->text;
    else if (*json.at == '"') json = (otlp_text){json.at + 1, json.size - 2};
    put_text(d, d->promoted + promoted, row, json);
}

/* Writes the entries from `base` on as an object, and promoted keys into columns of `row` where `promoting`; empties
 * them. */
static void put_entries(decoder *d, buffer *out, int64_t row, size_t base, bool promoting) {
    put_byte(d, out, '{');
    for (size_t i = base; i < COUNT(d->entries, entry) && d->status == OTLP_OK; i++) {
        entry e = *AT(d->entries, entry, i);
        int32_t promoted = AT(d->keys, key, e.key)->promoted;
        put_key(d, out, e.key, i == base);
        size_t start = out->used;
        put_value(d, out, e.value, 0);
        if (promoting && promoted >= 0 && d->status == OTLP_OK)
            promote(d, promoted, row, &e.value, (otlp_text){out->at + start, out->used - start});
    }
    put_byte(d, out, '}');
    d->entries.used = base * sizeof(entry);
}

static void put_object(decoder *d, column *to, int64_t row, size_t base, bool promoting) {
    present(d, to, row);
    put_entries(d, &to->data, row, base, promoting);
    put_offset(d, to);
}

static otlp_text literal(const char *text) { return (otlp_text){(const uint8_t *)text, strlen(text)}; }

/* Takes an attribute that was read, or drops it when it is content. */
INLINE void take_pair(decoder *d, const field *f, frame *in, size_t base, otlp_text name, member value) {
    size_t number = intern(d, name);
    if (d->status != OTLP_OK) return;
    if (AT(d->keys, key, number)->content) drop(d, f, in);
    else add(d, base, (entry){number, value});
}

static void take(decoder *d, const field *f, frame *in, size_t base) {
    otlp_text name;
    member value;
    read_pair(d, f->text, &name, &value);
    take_pair(d, f, in, base, name, value);
}

/* Checks and takes an attribute of a span. */
static void take_attribute(decoder *d, const field *f, frame *in, size_t base) {
    otlp_text name;
    member value;
    if (!plain_pair(f->text, &name, &value)) {
        check(d, f->text, PAIR, SPAN_DEPTH + 1);
        return take(d, f, in, base);
    }
    if (!is_utf8(name) || !is_utf8(value.text)) return fail(d, OTLP_DECLINED);
    take_pair(d, f, in, base, name, value);
}

/* Takes the attributes, with field number `number`, of an event; of one that carries content only what names it. */
static void take_event(decoder *d, otlp_text event, uint32_t number, otlp_text name, frame *in, size_t base) {
    bool content = is_content_event(d, name);
    cursor c = within(event);
    field f;
    while (next(d, &c, &f)) {
        otlp_text key_text;
        member value;
        if (!is(&f, number, BYTES)) continue;
        if (content) {
            read_pair(d, f.text, &key_text, &value);
            otlp_text said = value.number == 1 ? value.text : (otlp_text){f.text.at, 0};
            if (compare(key_text, literal("event.name")) || compare(said, name)) {
                drop(d, &f, in);
                continue;
            }
        }
        take(d, &f, in, base);
    }
}

static void drop_if_content(decoder *d, const field *pair, frame *in) {
    otlp_text name;
    member value;
    read_pair(d, pair->text, &name, &value);
    size_t number = intern(d, name);
    if (d->status == OTLP_OK && AT(d->keys, key, number)->content) drop(d, pair, in);
}

/* Takes the content out of pairs that have no column: field `number` of the message in `f`. */
static void take_nothing(decoder *d, const field *f, uint32_t number, frame *up) {
    frame in = enter(f, up);
    cursor c = within(f->text);
    field part;
    while (next(d, &c, &part))
        if (is(&part, number, BYTES)) drop_if_content(d, &part, &in);
    leave(d, &in);
}

static void take_scope(decoder *d, const field *f, frame *up) {
    frame in = enter(f, up);
    cursor c = within(f->text);
    field part;
    d->scope = (otlp_text){f->text.at, 0};
    while (next(d, &c, &part)) {
        if (is(&part, 1, BYTES)) d->scope = part.text;
        else if (is(&part, 3, BYTES)) take(d, &part, &in, 0);
    }
    leave(d, &in);
}

/* Begins the attributes of a span or record with those of its scope; returns where they begin. */
static size_t begin_with_scope(decoder *d) {
    size_t base = d->scope_entries;
    begin_object(d);
    for (size_t i = 0; i < d->scope_entries && d->status == OTLP_OK; i++) add(d, base, *AT(d->entries, entry, i));
    return base;
}

static void put_origin(decoder *d, column *service, int64_t row) {
    if (d->resource->service.at) put_text(d, service, row, d->resource->service);
    put_some(d, service + 1, row, d->scope);
    put_word(d, service + 2, row, d->resource->id);
}

/* ---- spans ---- */

enum { TRACE_ID, SPAN_ID, PARENT, NAME, KIND, START, END, STATE, MESSAGE, SERVICE, SCOPE_NAME, RESOURCE_ID, ATTRS,
       SPAN_COLUMNS };
enum { EVENT_NAME = 2, EVENT_T, EVENT_ATTRS, EVENT_COLUMNS };
enum { LINKED_TRACE = 2, LINKED_SPAN, LINK_ATTRS, LINK_COLUMNS };

static bool is_trace_id(otlp_text id) { return id.size == 16 && (load64(id.at) | load64(id.at + 8)); }
static bool is_span_id(otlp_text id) { return id.size == 8 && load64(id.at); }
static uint64_t id_number(otlp_text id) { return __builtin_bswap64(load64(id.at)); }

static void put_hex(decoder *d, buffer *out, otlp_text bytes) {
    static const char hex[] = "0123456789abcdef";
    uint8_t *at = room(d, out, 2 * bytes.size);
    if (!at) return;
    for (size_t i = 0; i < bytes.size; i++) {
        *at++ = (uint8_t)hex[bytes.at[i] >> 4];
        *at++ = (uint8_t)hex[bytes.at[i] & 15];
    }
    out->used += 2 * bytes.size;
}

static void put_trace_id(decoder *d, column *c, int64_t row, otlp_text id) {
    present(d, c, row);
    put(d, &c->data, id.at, 16);
}

typedef struct {
    uint8_t bytes[24];
} both_ids;

static uint64_t hash_ids(decoder *d, const both_ids *ids) { return hash_of(d->rules->seed, (otlp_text){ids->bytes, 24}); }

/* Returns whether the body has no span with these ids before; remembers them. */
static bool is_new(decoder *d, otlp_text trace_id, otlp_text span_id) {
    both_ids ids;
    size_t count = COUNT(d->ids, both_ids);
    memcpy(ids.bytes, trace_id.at, 16);
    memcpy(ids.bytes + 16, span_id.at, 8);
    if (grow(d, &d->id_slots, count))
        for (size_t i = 0; i < count; i++) take_slot(&d->id_slots, hash_ids(d, AT(d->ids, both_ids, i)), i);
    if (d->status != OTLP_OK) return false;
    uint64_t hash = hash_ids(d, &ids);
    size_t mask = COUNT(d->id_slots, uint32_t) - 1;
    for (size_t at = hash & mask;; at = (at + 1) & mask) {
        uint32_t number = *AT(d->id_slots, uint32_t, at);
        if (!number) break;
        if (!memcmp(AT(d->ids, both_ids, number - 1)->bytes, ids.bytes, 24)) return false;
    }
    put(d, &d->ids, &ids, sizeof ids);
    if (d->status == OTLP_OK) take_slot(&d->id_slots, hash, count);
    return true;
}

typedef struct {
    otlp_text trace_id, span_id, parent, name, tracestate, message;
    uint64_t start, end, kind, code, dropped[3];
    bool kept;
} span;

static void read_event(decoder *d, const field *f, frame *up, const span *s) {
    frame in = enter(f, up);
    cursor c = within(f->text);
    field part;
    otlp_text name = {f->text.at, 0};
    uint64_t t = 0;
    size_t base = COUNT(d->entries, entry);
    while (next(d, &c, &part)) {
        if (is(&part, 1, FIXED64)) t = part.value;
        else if (is(&part, 2, BYTES)) name = part.text;
    }
    begin_object(d);
    take_event(d, f->text, 3, name, &in, base);
    leave(d, &in);
    if (s->kept) {
        column *e = d->events;
        int64_t row = e[TRACE_ID].rows;
        put_trace_id(d, &e[TRACE_ID], row, s->trace_id);
        put_word(d, &e[SPAN_ID], row, id_number(s->span_id));
        put_text(d, &e[EVENT_NAME], row, name);
        put_word(d, &e[EVENT_T], row, instant(t));
        put_object(d, &e[EVENT_ATTRS], row, base, false);
    }
    d->entries.used = base * sizeof(entry);
}

static void read_link(decoder *d, const field *f, frame *up, const span *s) {
    frame in = enter(f, up);
    cursor c = within(f->text);
    field part;
    otlp_text trace_id = {f->text.at, 0}, span_id = trace_id;
    size_t base = COUNT(d->entries, entry);
    begin_object(d);
    while (next(d, &c, &part)) {
        if (is(&part, 1, BYTES)) trace_id = part.text;
        else if (is(&part, 2, BYTES)) span_id = part.text;
        else if (is(&part, 4, BYTES)) take(d, &part, &in, base);
    }
    leave(d, &in);
    bool valid = is_trace_id(trace_id) && is_span_id(span_id);
    if (s->kept && !valid) d->counts[OTLP_BAD_LINK]++;
    if (s->kept && valid) {
        column *l = d->links;
        int64_t row = l[TRACE_ID].rows;
        put_trace_id(d, &l[TRACE_ID], row, s->trace_id);
        put_word(d, &l[SPAN_ID], row, id_number(s->span_id));
        put_trace_id(d, &l[LINKED_TRACE], row, trace_id);
        put_word(d, &l[LINKED_SPAN], row, id_number(span_id));
        put_object(d, &l[LINK_ATTRS], row, base, false);
    }
    d->entries.used = base * sizeof(entry);
}

static void read_status(decoder *d, const field *f, frame *up, span *s) {
    frame in = enter(f, up);
    cursor c = within(f->text);
    field part, message = {0};
    while (next(d, &c, &part)) {
        if (is(&part, 2, BYTES)) {
            if (message.number) fail(d, OTLP_DECLINED); /* the last one wins, but the first one is content too */
            message = part;
        } else if (is(&part, 3, VARINT)) s->code = (uint32_t)part.value;
    }
    if (!message.number) return;
    size_t head = head_of(message.text);
    s->message = (otlp_text){message.text.at, head};
    if (head < message.text.size) {
        frame string = enter(&message, &in);
        string.shrunk = (int64_t)(message.text.size - head);
        replace(d, message.text.at + head, message.text.size - head, (otlp_text){message.text.at, 0});
        leave(d, &string);
        d->counts[OTLP_CONTENT_DROPPED]++;
    }
    leave(d, &in);
}

static const char *const KINDS[] = {"UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"};
static const char *const STATES[] = {"UNSET", "OK", "ERROR"};

static void put_span(decoder *d, const span *s, size_t base) {
    static const char *const aside[] = {"otel.dropped_attributes_count", "otel.dropped_events_count",
                                        "otel.dropped_links_count"};
    column *c = d->columns;
    int64_t row = c[TRACE_ID].rows;
    put_trace_id(d, &c[TRACE_ID], row, s->trace_id);
    put_word(d, &c[SPAN_ID], row, id_number(s->span_id));
    if (is_span_id(s->parent)) put_word(d, &c[PARENT], row, id_number(s->parent));
    put_text(d, &c[NAME], row, s->name);
    put_string(d, &c[KIND], row, KINDS[s->kind < 6 ? s->kind : 0]);
    put_word(d, &c[START], row, instant(s->start));
    put_word(d, &c[END], row, instant(s->end));
    put_string(d, &c[STATE], row, STATES[s->code < 3 ? s->code : 0]);
    put_some(d, &c[MESSAGE], row, s->message);
    put_origin(d, &c[SERVICE], row);
    if (s->tracestate.size)
        add(d, base, (entry){intern(d, literal("w3c.tracestate")), {.number = 1, .text = s->tracestate}});
    for (int i = 0; i < 3; i++)
        if (s->dropped[i])
            add(d, base, (entry){intern(d, literal(aside[i])), {.number = 3, .word = s->dropped[i]}});
    put_object(d, &c[ATTRS], row, base, true);
}

static void read_span_field(decoder *d, const field *f, frame *in, span *s, size_t base) {
    if (f->wire == BYTES) {
        switch (f->number) {
        case 1: s->trace_id = f->text; return;
        case 2: s->span_id = f->text; return;
        case 3: s->tracestate = f->text; return;
        case 4: s->parent = f->text; return;
        case 5: s->name = f->text; return;
        case 9: take_attribute(d, f, in, base); return;
        case 11:
        case 13: put(d, &d->children, f, sizeof *f); return;
        case 15: read_status(d, f, in, s); return;
        }
    } else if (f->wire == FIXED64) {
        if (f->number == 7) s->start = f->value;
        else if (f->number == 8) s->end = f->value;
    } else if (f->wire == VARINT) {
        switch (f->number) {
        case 6: s->kind = (uint32_t)f->value; return;
        case 10: s->dropped[0] = (uint32_t)f->value; return;
        case 12: s->dropped[1] = (uint32_t)f->value; return;
        case 14: s->dropped[2] = (uint32_t)f->value; return;
        }
    }
}

static void read_span(decoder *d, const field *f, frame *up) {
    frame in = enter(f, up);
    cursor c = within(f->text);
    field part;
    otlp_text none = {f->text.at, 0};
    span s = {none, none, none, none, none, none, 0, 0, 0, 0, {0}, false};
    size_t base = begin_with_scope(d);
    d->children.used = 0;
    while (next(d, &c, &part)) read_span_field(d, &part, &in, &s, base);
    if (d->status != OTLP_OK) return;
    if (!is_trace_id(s.trace_id) || !is_span_id(s.span_id)) {
        d->rejected++;
        d->counts[OTLP_BAD_ID]++;
    } else if (!is_new(d, s.trace_id, s.span_id)) {
        d->counts[OTLP_DUPLICATE]++;
    } else {
        d->counts[OTLP_ACCEPTED]++;
        s.kept = true;
        put_span(d, &s, base);
    }
    d->entries.used = base * sizeof(entry);
    for (size_t i = 0; i < COUNT(d->children, field) && d->status == OTLP_OK; i++) {
        field child = *AT(d->children, field, i);
        if (child.number == 11) read_event(d, &child, &in, &s);
        else read_link(d, &child, &in, &s);
    }
    leave(d, &in);
}

/* ---- points ---- */

enum { METRIC_NAME, METRIC_KIND, UNIT, TEMPORALITY, MONOTONIC, POINT_START, POINT_T, POINT_VALUE, VALUE_INT, N,
       TOTAL, LEAST, MOST, BOUNDS, POINT_COUNTS, ZERO_THRESHOLD, QUANTILES, FLAGS, EXEMPLARS, DESCRIPTION,
       POINT_RESOURCE, POINT_SCOPE, POINT_ATTRS, POINT_COLUMNS };

typedef struct {
    otlp_text name, description, unit;
    uint32_t number; /* of the field that holds its points */
    uint64_t temporality;
    bool monotonic;
} metric;

static void put_words(decoder *d, column *c, otlp_text packed) { put(d, &c->data, packed.at, packed.size); }

static double bound(int64_t index, int32_t scale) {
    int64_t by = -(int64_t)scale;
    int shift = by > 5000 ? 5000 : by < -5000 ? -5000 : (int)by;
    return exp2(ldexp((double)index, shift));
}

typedef struct {
    int32_t offset;
    size_t count;
    otlp_text message;
} buckets;

static int32_t unzigzag(uint64_t value) {
    uint32_t v = (uint32_t)value;
    return (int32_t)((v >> 1) ^ (0 - (v & 1)));
}

/* Calls for each count of a bucket message; with `to`, writes them there at its end. */
static void read_counts(decoder *d, otlp_text message, buckets *b, buffer *to) {
    cursor c = within(message);
    field f;
    while (next(d, &c, &f)) {
        if (is(&f, 1, VARINT)) b->offset = unzigzag(f.value);
        else if (is(&f, 2, VARINT)) {
            b->count++;
            if (to) put(d, to, &f.value, 8);
        } else if (is(&f, 2, BYTES)) {
            cursor numbers = within(f.text);
            uint64_t number;
            while (numbers.at < numbers.end && varint(d, &numbers, 10, &number)) {
                b->count++;
                if (to) put(d, to, &number, 8);
            }
        }
    }
}

static void reverse_words(buffer *b, size_t from) {
    uint64_t *low = AT(*b, uint64_t, from / 8), *high = AT(*b, uint64_t, b->used / 8);
    while (low < high && low < --high) {
        uint64_t word = *low;
        *low++ = *high;
        *high = word;
    }
}

static void put_exponential(decoder *d, int64_t row, int32_t scale, uint64_t zeros, otlp_text below, otlp_text above) {
    column *counts = &d->columns[POINT_COUNTS], *bounds = &d->columns[BOUNDS];
    buckets negative = {0}, positive = {0};
    present(d, counts, row);
    size_t from = counts->data.used;
    read_counts(d, below, &negative, &counts->data);
    if (d->status == OTLP_OK && negative.count) reverse_words(&counts->data, from);
    put(d, &counts->data, &zeros, 8);
    read_counts(d, above, &positive, &counts->data);
    put_offset(d, counts);
    present(d, bounds, row);
    for (int64_t i = (int64_t)negative.count; negative.count && i >= 0 && d->status == OTLP_OK; i--) {
        double value = -bound(negative.offset + i, scale);
        put(d, &bounds->data, &value, 8);
    }
    for (int64_t i = 0; positive.count && i <= (int64_t)positive.count && d->status == OTLP_OK; i++) {
        double value = bound(positive.offset + i, scale);
        put(d, &bounds->data, &value, 8);
    }
    put_offset(d, bounds);
}

static void put_quantile(decoder *d, otlp_text message) {
    cursor c = within(message);
    field f;
    uint64_t quantile = 0, value = 0;
    while (next(d, &c, &f)) {
        if (is(&f, 1, FIXED64)) quantile = f.value;
        else if (is(&f, 2, FIXED64)) value = f.value;
    }
    put(d, &d->columns[BOUNDS].data, &quantile, 8);
    put(d, &d->columns[QUANTILES].data, &value, 8);
}

/* What a field of a point is, by the kind of point. */
typedef enum { NOTHING, AS_DOUBLE, AS_INT, COUNT_OF, SUM_OF, COUNTS_OF, BOUNDS_OF, MIN_OF, MAX_OF, SCALE, ZEROS, ABOVE,
               BELOW, WIDTH, QUANTILE_OF, FLAGS_OF, EXEMPLAR_OF, ATTRIBUTE } part_of_point;
static const struct {
    const char *kind;
    uint8_t parts[LAST_FIELD + 1];
} POINTS[] = {
    [5] = {"gauge", {[4] = AS_DOUBLE, [5] = EXEMPLAR_OF, [6] = AS_INT, [7] = ATTRIBUTE, [8] = FLAGS_OF}},
    [7] = {"sum", {[4] = AS_DOUBLE, [5] = EXEMPLAR_OF, [6] = AS_INT, [7] = ATTRIBUTE, [8] = FLAGS_OF}},
    [9] = {"histogram", {[4] = COUNT_OF, [5] = SUM_OF, [6] = COUNTS_OF, [7] = BOUNDS_OF, [8] = EXEMPLAR_OF,
                         [9] = ATTRIBUTE, [10] = FLAGS_OF, [11] = MIN_OF, [12] = MAX_OF}},
    [10] = {"exponential_histogram", {[1] = ATTRIBUTE, [4] = COUNT_OF, [5] = SUM_OF, [6] = SCALE, [7] = ZEROS,
                                      [8] = ABOVE, [9] = BELOW, [10] = FLAGS_OF, [11] = EXEMPLAR_OF, [12] = MIN_OF,
                                      [13] = MAX_OF, [14] = WIDTH}},
    [11] = {"summary", {[4] = COUNT_OF, [5] = SUM_OF, [6] = QUANTILE_OF, [7] = ATTRIBUTE, [8] = FLAGS_OF}},
};

typedef struct {
    uint64_t start, t, count, sum, min, max, value, zeros, width;
    uint32_t flags;
    part_of_point value_is;
    bool has_sum, has_min, has_max;
    int32_t scale;
    otlp_text above, below;
} point;

static void read_point_field(decoder *d, const metric *m, const field *f, frame *in, size_t base, point *p) {
    if (f->number > LAST_FIELD) return;
    if (is(f, 2, FIXED64)) p->start = f->value;
    if (is(f, 3, FIXED64)) p->t = f->value;
    part_of_point part = (part_of_point)POINTS[m->number].parts[f->number];
    if (f->wire == FIXED64) {
        switch (part) {
        case AS_DOUBLE:
        case AS_INT: p->value = f->value, p->value_is = part; break;
        case COUNT_OF: p->count = f->value; break;
        case SUM_OF: p->sum = f->value, p->has_sum = true; break;
        case MIN_OF: p->min = f->value, p->has_min = true; break;
        case MAX_OF: p->max = f->value, p->has_max = true; break;
        case ZEROS: p->zeros = f->value; break;
        case WIDTH: p->width = f->value; break;
        case COUNTS_OF: put(d, &d->columns[POINT_COUNTS].data, &f->value, 8); break;
        case BOUNDS_OF: put(d, &d->columns[BOUNDS].data, &f->value, 8); break;
        default: break;
        }
    } else if (f->wire == BYTES) {
        switch (part) {
        case ATTRIBUTE: take(d, f, in, base); break;
        case COUNTS_OF: put_words(d, &d->columns[POINT_COUNTS], f->text); break;
        case BOUNDS_OF: put_words(d, &d->columns[BOUNDS], f->text); break;
        case ABOVE: p->above = f->text; break;
        case BELOW: p->below = f->text; break;
        case QUANTILE_OF: put_quantile(d, f->text); break;
        case EXEMPLAR_OF: put(d, &d->children, f, sizeof *f); break;
        default: break;
        }
    } else if (f->wire == VARINT) {
        if (part == SCALE) p->scale = unzigzag(f->value);
        else if (part == FLAGS_OF) p->flags = (uint32_t)f->value;
    }
}

static void put_id(decoder *d, buffer *out, otlp_text id) {
    if (!id.size) return put(d, out, "null", 4);
    put_byte(d, out, '"');
    put_hex(d, out, id);
    put_byte(d, out, '"');
}

static void put_exemplar(decoder *d, buffer *out, const field *f, frame *up) {
    frame in = enter(f, up);
    cursor c = within(f->text);
    field part, value = {0};
    otlp_text none = {f->text.at, 0}, trace_id = none, span_id = none;
    uint64_t t = 0;
    size_t base = COUNT(d->entries, entry);
    begin_object(d);
    while (next(d, &c, &part)) {
        if (is(&part, 2, FIXED64)) t = part.value;
        else if (is(&part, 3, FIXED64) || is(&part, 6, FIXED64)) value = part;
        else if (is(&part, 4, BYTES)) span_id = part.text;
        else if (is(&part, 5, BYTES)) trace_id = part.text;
        else if (is(&part, 7, BYTES)) take(d, &part, &in, base);
    }
    leave(d, &in);
    put(d, out, "{\"t_ns\":", 8);
    put_integer(d, out, (int64_t)instant(t));
    put(d, out, ",\"value\":", 9);
    if (value.number == 6) put_integer(d, out, (int64_t)value.value);
    else put_number(d, out, value.value);
    put(d, out, ",\"trace_id\":", 12);
    put_id(d, out, trace_id);
    put(d, out, ",\"span_id\":", 11);
    put_id(d, out, span_id);
    put(d, out, ",\"attrs\":", 9);
    put_entries(d, out, 0, base, false);
    put_byte(d, out, '}');
}

/* Writes the exemplars that the point's fields left in `children`. */
static void put_exemplars(decoder *d, int64_t row, frame *up) {
    column *c = &d->columns[EXEMPLARS];
    if (!d->children.used) return;
    present(d, c, row);
    for (size_t i = 0; i < COUNT(d->children, field) && d->status == OTLP_OK; i++) {
        field exemplar = *AT(d->children, field, i);
        put_byte(d, &c->data, i ? ',' : '[');
        put_exemplar(d, &c->data, &exemplar, up);
    }
    put_byte(d, &c->data, ']');
    put_offset(d, c);
}

static size_t numbers_in(const field *f) { return f->wire == BYTES ? f->text.size / 8 : f->wire == FIXED64; }

/* Whether a histogram has one bucket more than bounds, or neither. */
static bool has_its_buckets(decoder *d, otlp_text point) {
    cursor c = within(point);
    field f;
    size_t counts = 0, bounds = 0;
    while (next(d, &c, &f)) {
        if (f.number == 6) counts += numbers_in(&f);
        else if (f.number == 7) bounds += numbers_in(&f);
    }
    return counts == bounds + 1 || (!counts && !bounds);
}

/* Takes the content out of a histogram that has no row. */
static void reject_histogram(decoder *d, const field *f, frame *up) {
    frame in = enter(f, up);
    cursor c = within(f->text);
    field part;
    while (next(d, &c, &part)) {
        if (is(&part, 8, BYTES)) take_nothing(d, &part, 7, &in);
        else if (is(&part, 9, BYTES)) drop_if_content(d, &part, &in);
    }
    leave(d, &in);
    d->rejected++;
    d->counts[OTLP_BAD_BUCKETS]++;
}

static void end_list(decoder *d, column *c, int64_t row) {
    /* its values were written already: nulls before it end where they begin, which is the last offset */
    present(d, c, row);
    put_offset(d, c);
}

static void read_point(decoder *d, const metric *m, const field *f, frame *up) {
    if (m->number == 9 && !has_its_buckets(d, f->text)) return reject_histogram(d, f, up);
    frame in = enter(f, up);
    cursor c = within(f->text);
    field part;
    otlp_text none = {f->text.at, 0};
    point p = {.above = none, .below = none};
    column *to = d->columns;
    int64_t row = to[METRIC_NAME].rows;
    size_t base = begin_with_scope(d);
    bool histogram = m->number == 9, summary = m->number == 11, exponential = m->number == 10;
    for (int i = BOUNDS; i <= QUANTILES; i++) pad(d, &to[i], row);
    d->children.used = 0;
    while (next(d, &c, &part)) read_point_field(d, m, &part, &in, base, &p);
    put_exemplars(d, row, &in);
    leave(d, &in);
    put_text(d, &to[METRIC_NAME], row, m->name);
    put_string(d, &to[METRIC_KIND], row, POINTS[m->number].kind);
    put_some(d, &to[UNIT], row, m->unit);
    if (m->temporality == 1 || m->temporality == 2)
        put_string(d, &to[TEMPORALITY], row, m->temporality == 1 ? "delta" : "cumulative");
    if (m->number == 7) put_bit(d, &to[MONOTONIC], row, m->monotonic);
    if (p.start) put_word(d, &to[POINT_START], row, instant(p.start));
    put_word(d, &to[POINT_T], row, instant(p.t));
    if (p.value_is)
        put_double(d, &to[POINT_VALUE], row, p.value_is == AS_INT ? (double)(int64_t)p.value : as_double(p.value));
    if (p.value_is == AS_INT) put_word(d, &to[VALUE_INT], row, p.value);
    if (histogram || exponential || summary) put_word(d, &to[N], row, p.count);
    if (summary || p.has_sum) put_word(d, &to[TOTAL], row, p.sum);
    if (p.has_min) put_word(d, &to[LEAST], row, p.min);
    if (p.has_max) put_word(d, &to[MOST], row, p.max);
    if (histogram || summary) end_list(d, &to[BOUNDS], row);
    if (histogram) end_list(d, &to[POINT_COUNTS], row);
    if (summary) end_list(d, &to[QUANTILES], row);
    if (exponential) put_exponential(d, row, p.scale, p.zeros, p.below, p.above);
    if (exponential) put_word(d, &to[ZERO_THRESHOLD], row, p.width);
    if (p.flags) put_half(d, &to[FLAGS], row, (int32_t)p.flags);
    put_some(d, &to[DESCRIPTION], row, m->description);
    put_word(d, &to[POINT_RESOURCE], row, d->resource->id);
    put_some(d, &to[POINT_SCOPE], row, d->scope);
    put_object(d, &to[POINT_ATTRS], row, base, false);
    d->counts[OTLP_ACCEPTED]++;
}

static void read_metric(decoder *d, const field *f, frame *up) {
    frame in = enter(f, up);
    cursor c = within(f->text);
    field part, data = {0};
    otlp_text none = {f->text.at, 0};
    metric m = {.name = none, .description = none, .unit = none};
    while (next(d, &c, &part)) {
        if (part.wire != BYTES) continue;
        if (part.number == 1) m.name = part.text;
        else if (part.number == 2) m.description = part.text;
        else if (part.number == 3) m.unit = part.text;
        else if (part.number == 12) drop_if_content(d, &part, &in);
        else if (part.number == 5 || part.number == 7 || (part.number >= 9 && part.number <= 11)) {
            if (data.number) fail(d, OTLP_DECLINED); /* the last one wins, but the first one may have content */
            data = part;
        }
    }
    if (d->status != OTLP_OK) return;
    if (!data.number) return leave(d, &in);
    m.number = data.number;
    frame points = enter(&data, &in);
    c = within(data.text);
    while (m.number != 5 && m.number != 11 && next(d, &c, &part)) {
        if (is(&part, 2, VARINT)) m.temporality = (uint32_t)part.value;
        else if (is(&part, 3, VARINT)) m.monotonic = part.value != 0;
    }
    c = within(data.text);
    while (next(d, &c, &part))
        if (is(&part, 1, BYTES)) read_point(d, &m, &part, &points);
    leave(d, &points);
    leave(d, &in);
}

/* ---- log records ---- */

enum { LOG_TRACE, LOG_SPAN, LOG_T, OBSERVED, SEVERITY_NUMBER, SEVERITY, LOG_EVENT, LOG_BODY, LOG_SERVICE, LOG_SCOPE,
       LOG_RESOURCE, LOG_ATTRS, LOG_COLUMNS };

typedef struct {
    otlp_text trace_id, span_id, severity, event_name;
    uint64_t t, observed, severity_number, dropped;
    field body;
} record;

static void read_record_field(const field *f, record *r) {
    if (f->wire == FIXED64) {
        if (f->number == 1) r->t = f->value;
        else if (f->number == 11) r->observed = f->value;
    } else if (f->wire == VARINT) {
        if (f->number == 2) r->severity_number = (uint32_t)f->value;
        else if (f->number == 7) r->dropped = (uint32_t)f->value;
    } else if (f->wire == BYTES) {
        switch (f->number) {
        case 3: r->severity = f->text; break;
        case 5: r->body = *f; break;
        case 9: r->trace_id = f->text; break;
        case 10: r->span_id = f->text; break;
        case 12: r->event_name = f->text; break;
        }
    }
}

/* Finds the name in the attribute where SDKs put it before the record had a field for it. */
static void find_event_name(decoder *d, otlp_text text, record *r) {
    cursor c = within(text);
    field f;
    while (!r->event_name.size && next(d, &c, &f)) {
        otlp_text name;
        member value;
        if (!is(&f, 6, BYTES)) continue;
        read_pair(d, f.text, &name, &value);
        if (!compare(name, literal("event.name")) && value.number == 1) r->event_name = value.text;
    }
}

/* Writes what a record says; the keys of a map are looked up as attributes are. */
static void put_body(decoder *d, const record *r, int64_t row, frame *up) {
    column *c = &d->columns[LOG_BODY];
    if (!r->body.number) return;
    if (is_content_event(d, r->event_name)) return drop(d, &r->body, up);
    frame in = enter(&r->body, up);
    field any = find_any(d, r->body.text);
    if (any.number == 6) {
        frame list = enter(&any, &in);
        size_t base = COUNT(d->entries, entry);
        cursor pairs = within(any.text);
        field f;
        begin_object(d);
        while (next(d, &pairs, &f))
            if (is(&f, 1, BYTES)) take(d, &f, &list, base);
        leave(d, &list);
        put_object(d, c, row, base, false);
    } else if (any.number) {
        present(d, c, row);
        put_value(d, &c->data, member_of(any), 0);
        put_offset(d, c);
    }
    leave(d, &in);
}

static void read_record(decoder *d, const field *f, frame *up) {
    frame in = enter(f, up);
    cursor c = within(f->text);
    field part;
    otlp_text none = {f->text.at, 0};
    record r = {.trace_id = none, .span_id = none, .severity = none, .event_name = none};
    column *to = d->columns;
    int64_t row = to[LOG_ATTRS].rows;
    while (next(d, &c, &part)) read_record_field(&part, &r);
    find_event_name(d, f->text, &r);
    put_body(d, &r, row, &in);
    size_t base = begin_with_scope(d);
    take_event(d, f->text, 6, r.event_name, &in, base);
    leave(d, &in);
    if (is_trace_id(r.trace_id)) put_trace_id(d, &to[LOG_TRACE], row, r.trace_id);
    if (is_span_id(r.span_id)) put_word(d, &to[LOG_SPAN], row, id_number(r.span_id));
    if (r.t) put_word(d, &to[LOG_T], row, instant(r.t));
    if (r.observed) put_word(d, &to[OBSERVED], row, instant(r.observed));
    if (r.severity_number) put_half(d, &to[SEVERITY_NUMBER], row, (int32_t)r.severity_number);
    put_some(d, &to[SEVERITY], row, r.severity);
    put_some(d, &to[LOG_EVENT], row, r.event_name);
    put_origin(d, &to[LOG_SERVICE], row);
    if (r.dropped)
        add(d, base, (entry){intern(d, literal("otel.dropped_attributes_count")), {.number = 3, .word = r.dropped}});
    put_object(d, &to[LOG_ATTRS], row, base, false);
    d->counts[OTLP_ACCEPTED]++;
}

/* ---- a body ---- */

static void (*const READ[])(decoder *, const field *, frame *) = {
    [OTLP_TRACES] = read_span, [OTLP_METRICS] = read_metric, [OTLP_LOGS] = read_record};

static void read_scope_group(decoder *d, otlp_signal signal, const field *f, frame *up) {
    frame in = enter(f, up);
    cursor c = within(f->text);
    field part;
    d->entries.used = 0;
    d->scope = (otlp_text){f->text.at, 0};
    begin_object(d);
    while (next(d, &c, &part))
        if (is(&part, 1, BYTES)) take_scope(d, &part, &in);
    d->scope_entries = COUNT(d->entries, entry);
    c = within(f->text);
    while (next(d, &c, &part)) {
        if (!is(&part, 2, BYTES)) continue;
        d->entries.used = d->scope_entries * sizeof(entry);
        READ[signal](d, &part, &in);
    }
    leave(d, &in);
}

static void read_group(decoder *d, otlp_signal signal, const field *f, frame *up) {
    frame in = enter(f, up);
    cursor c = within(f->text);
    field part;
    while (next(d, &c, &part)) {
        if (is(&part, 1, BYTES) && d->resource->scrubbed.at) {
            frame resource = enter(&part, &in);
            resource.shrunk = (int64_t)part.text.size - (int64_t)d->resource->scrubbed.size;
            replace(d, part.text.at, part.text.size, d->resource->scrubbed);
            leave(d, &resource);
        } else if (is(&part, 2, BYTES)) {
            read_scope_group(d, signal, &part, &in);
        }
    }
    leave(d, &in);
}

/* ---- handing over ---- */

static void release(struct ArrowArray *array) {
    for (int64_t i = 0; i < array->n_children; i++) {
        struct ArrowArray *child = array->children[i];
        if (!child) continue;
        if (child->release) child->release(child);
        free(child);
    }
    for (int64_t i = 0; array->buffers && i < array->n_buffers; i++) free((void *)(uintptr_t)array->buffers[i]);
    free(array->children);
    free((void *)array->buffers);
    array->release = NULL;
}

static bool begin_array(decoder *d, struct ArrowArray *a, int64_t rows, int64_t buffers, int64_t children) {
    *a = (struct ArrowArray){.length = rows, .n_buffers = buffers, .n_children = children, .release = release};
    a->buffers = calloc((size_t)buffers + 1, sizeof *a->buffers);
    a->children = calloc((size_t)children + 1, sizeof *a->children);
    for (int64_t i = 0; i < children && a->children; i++)
        if (!(a->children[i] = calloc(1, sizeof **a->children))) fail(d, OTLP_NO_MEMORY);
    if (!a->buffers || !a->children) a->n_children = a->n_buffers = 0, fail(d, OTLP_NO_MEMORY);
    return d->status == OTLP_OK;
}

/* Moves a buffer into the array, which has to have some address even for nothing. */
static void give(decoder *d, struct ArrowArray *a, int at, buffer *b) {
    room(d, b, 1);
    uint8_t *fitting = b->used ? realloc(b->at, b->used) : NULL;
    a->buffers[at] = fitting ? fitting : b->at;
    *b = (buffer){0};
}

static void give_column(decoder *d, struct ArrowArray *a, column *c, int64_t rows) {
    bool offsets = c->kind == TEXT || c->kind == WORDS;
    int64_t words = (int64_t)(c->data.used / 8);
    pad(d, c, rows);
    if (!begin_array(d, a, rows, c->kind == TEXT ? 3 : 2, c->kind == WORDS)) return;
    a->null_count = c->nulls;
    if (c->nulls) give(d, a, 0, &c->validity);
    if (offsets) {
        put_start(d, c);
        give(d, a, 1, &c->offsets);
    }
    if (c->kind == WORDS) {
        if (begin_array(d, a->children[0], words, 2, 0)) give(d, a->children[0], 1, &c->data);
    } else {
        give(d, a, offsets ? 2 : 1, &c->data);
    }
}

/* Gives the columns, and behind them those promoted ones that hold anything, as one struct array. */
static void give_table(decoder *d, struct ArrowArray *a, column *columns, size_t count, otlp_batches *out) {
    int64_t rows = columns[0].rows;
    for (size_t i = 1; i < count; i++)
        if (columns[i].rows > rows) rows = columns[i].rows;
    size_t extra = out ? out->promoted_count : 0;
    if (!begin_array(d, a, rows, 1, (int64_t)(count + extra))) return;
    for (size_t i = 0; i < count; i++) give_column(d, a->children[i], &columns[i], rows);
    for (size_t i = 0; i < extra; i++) give_column(d, a->children[count + i], &d->promoted[out->promoted[i]], rows);
}

static void give_spans(decoder *d, otlp_batches *out) {
    size_t count = d->rules->promoted.count;
    buffer found = {0};
    for (uint32_t i = 0; i < count; i++)
        if (d->promoted[i].rows) put(d, &found, &i, sizeof i);
    out->promoted = (uint32_t *)(void *)found.at;
    out->promoted_count = COUNT(found, uint32_t);
    give_table(d, &out->tables[0], d->columns, SPAN_COLUMNS, out);
    give_table(d, &out->tables[1], d->events, EVENT_COLUMNS, NULL);
    give_table(d, &out->tables[2], d->links, LINK_COLUMNS, NULL);
}

static void begin_columns(column *columns, const char *kinds) {
    for (size_t i = 0; kinds[i]; i++)
        switch (kinds[i]) {
        case 't': columns[i].kind = TEXT; break;
        case 'i': columns[i].kind = ID; break;
        case 'w': columns[i].kind = WORD; break;
        case 'h': columns[i].kind = HALF; break;
        case 'b': columns[i].kind = BIT; break;
        default: columns[i].kind = WORDS;
        }
}

/* The kinds of the columns of each table: text, id of a trace, word, half word, bit, list of words. */
static const char SPAN_KINDS[] = "iwwttwwttttwt", EVENT_KINDS[] = "iwtwt", LINK_KINDS[] = "iwiwt",
                  POINT_KINDS[] = "ttttbwwwwwwwwllwlhttwtt", LOG_KINDS[] = "iwwwhtttttwt";
enum { MOST_COLUMNS = POINT_COLUMNS };

static void free_columns(column *columns, size_t count) {
    for (size_t i = 0; columns && i < count; i++) {
        free(columns[i].validity.at);
        free(columns[i].offsets.at);
        free(columns[i].data.at);
    }
}

static void read_body(decoder *d, otlp_signal signal, otlp_text body, const otlp_resource *resources, size_t count,
                      otlp_batches *out) {
    cursor c = within(body);
    field f;
    size_t group = 0;
    while (next(d, &c, &f)) {
        if (!is(&f, 1, BYTES)) continue;
        if (group == count) return fail(d, OTLP_DECLINED);
        d->resource = &resources[group];
        d->counts = out->counts[group++];
        read_group(d, signal, &f, NULL);
    }
    if (group != count) fail(d, OTLP_DECLINED);
}

otlp_status otlp_decode(otlp_signal signal, otlp_text body, const otlp_rules *rules, const otlp_resource *resources,
                        size_t count, otlp_batches *out) {
    column columns[MOST_COLUMNS] = {0}, events[EVENT_COLUMNS] = {0}, links[LINK_COLUMNS] = {0};
    decoder d = {.rules = rules, .columns = columns, .events = events, .links = links};
    *out = (otlp_batches){.table_count = signal == OTLP_TRACES ? 3 : 1};
    out->counts = calloc(count + 1, sizeof *out->counts);
    d.promoted = calloc(rules->promoted.count + 1, sizeof *d.promoted); /* all of kind TEXT, which is 0 */
    begin_columns(columns, signal == OTLP_TRACES ? SPAN_KINDS : signal == OTLP_METRICS ? POINT_KINDS : LOG_KINDS);
    begin_columns(events, EVENT_KINDS);
    begin_columns(links, LINK_KINDS);
    if (!out->counts || !d.promoted) fail(&d, OTLP_NO_MEMORY);
    else read_body(&d, signal, body, resources, count, out);
    if (d.status == OTLP_OK) {
        out->rejected = d.rejected;
        scrub(&d, body, out);
        if (signal == OTLP_TRACES) give_spans(&d, out);
        else give_table(&d, &out->tables[0], columns, signal == OTLP_METRICS ? POINT_COLUMNS : LOG_COLUMNS, NULL);
    }
    free_columns(columns, MOST_COLUMNS);
    free_columns(events, EVENT_COLUMNS);
    free_columns(links, LINK_COLUMNS);
    free_columns(d.promoted, rules->promoted.count);
    free(d.promoted);
    buffer *buffers[] = {&d.keys, &d.key_slots, &d.quoted, &d.entries, &d.edits, &d.ids, &d.id_slots, &d.children};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) free(buffers[i]->at);
    if (d.status != OTLP_OK) otlp_free(out);
    return d.status;
}

void otlp_free(otlp_batches *batches) {
    for (int i = 0; i < batches->table_count; i++)
        if (batches->tables[i].release) batches->tables[i].release(&batches->tables[i]);
    free(batches->promoted);
    free(batches->counts);
    free(batches->scrubbed);
    *batches = (otlp_batches){0};
}
