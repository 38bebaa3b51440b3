/* libFuzzer over the parser: the first byte chooses the signal, the rest is the body.
 *
 * Beyond what the sanitizers see, it holds that every table is well formed, and that a body without its content is taken
 * again and has no more content. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "otlp.h"

#define HOLDS(what) ((what) ? (void)0 : (fprintf(stderr, "does not hold: %s\n", #what), abort()))
#define TEXT(words) {(const uint8_t *)(words), sizeof(words) - 1}

static const otlp_text KEYS[] = {TEXT("gen_ai.prompt"), TEXT("input.value"), TEXT("k")};
static const otlp_text PREFIXES[] = {TEXT("gen_ai.input."), TEXT("llm.")};
static const otlp_text KEPT[] = {TEXT("gen_ai.prompt.name"), TEXT("llm.model_name")};
static const otlp_text EVENTS[] = {TEXT("e"), TEXT("gen_ai.choice")};
static const otlp_text PROMOTED[] = {TEXT("a"), TEXT("http.route"), TEXT("slo.request")};
static const otlp_rules RULES = {{KEYS, 3}, {PREFIXES, 2}, {KEPT, 2}, {EVENTS, 2}, {PREFIXES, 1}, {PROMOTED, 3}, 7, true};

static void check_column(const struct ArrowArray *a) {
    HOLDS(a->length >= 0 && a->null_count >= 0 && a->null_count <= a->length);
    if (a->n_buffers == 3 || a->n_children) {
        const int32_t *offsets = a->buffers[1];
        HOLDS(offsets[0] == 0);
        for (int64_t i = 0; i < a->length; i++) HOLDS(offsets[i] <= offsets[i + 1]);
        if (a->n_children) HOLDS(a->children[0]->length >= offsets[a->length]);
        else if (offsets[a->length]) HOLDS(((const uint8_t *)a->buffers[2])[offsets[a->length] - 1] + 1);
    }
    int64_t nulls = 0;
    for (int64_t i = 0; a->null_count && i < a->length; i++)
        nulls += !(((const uint8_t *)a->buffers[0])[i / 8] >> (i % 8) & 1);
    HOLDS(nulls == a->null_count);
}

static otlp_status decode(otlp_signal signal, otlp_text body, otlp_batches *out) {
    otlp_text *found = NULL;
    size_t count = 0;
    otlp_status status = otlp_survey(signal, body, &found, &count);
    if (status != OTLP_OK) return status;
    otlp_resource *resources = calloc(count + 1, sizeof *resources);
    HOLDS(resources);
    for (size_t i = 0; i < count; i++) {
        resources[i].id = i;
        if (found[i].size % 2) resources[i].service = found[i];
        if (found[i].size > 8) resources[i].scrubbed = (otlp_text){found[i].at, 0};
    }
    status = otlp_decode(signal, body, &RULES, resources, count, out);
    free(resources);
    free(found);
    return status;
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    otlp_init();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    otlp_batches batches, again;
    if (!size) return 0;
    otlp_signal signal = (otlp_signal)(data[0] % 3);
    if (decode(signal, (otlp_text){data + 1, size - 1}, &batches) != OTLP_OK) return 0;
    for (int t = 0; t < batches.table_count; t++) {
        const struct ArrowArray *table = &batches.tables[t];
        for (int64_t i = 0; i < table->n_children; i++) {
            HOLDS(table->children[i]->length == table->length);
            check_column(table->children[i]);
        }
    }
    if (batches.scrubbed) {
        HOLDS(decode(signal, (otlp_text){batches.scrubbed, batches.scrubbed_size}, &again) == OTLP_OK);
        HOLDS(!again.scrubbed);
        HOLDS(again.tables[0].length == batches.tables[0].length);
        otlp_free(&again);
    }
    otlp_free(&batches);
    return 0;
}
