/* The CPython side of the parser: bytes in, addresses of Arrow arrays out, the GIL released while it works. */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdlib.h>

#include "otlp.h"

#define RULES "tailbudget.otlp.rules"
#define BATCHES "tailbudget.otlp.batches"
#define LISTS 6
#define LAYOUT 2 /* of the tables: native.py takes no other, such as that of an extension that was not built anew */

/* The rules with the Python lists whose bytes they point to. */
typedef struct {
    otlp_rules rules;
    PyObject *lists;
} owned_rules;

static void free_rules(PyObject *capsule) {
    owned_rules *owned = PyCapsule_GetPointer(capsule, RULES);
    if (!owned) return;
    otlp_names *names[LISTS] = {&owned->rules.keys,   &owned->rules.key_prefixes,   &owned->rules.kept_keys,
                                &owned->rules.events, &owned->rules.event_prefixes, &owned->rules.promoted};
    for (int i = 0; i < LISTS; i++) free((void *)names[i]->rows);
    Py_XDECREF(owned->lists);
    free(owned);
}

static int text_of(PyObject *bytes, otlp_text *text) {
    char *at;
    Py_ssize_t size;
    if (PyBytes_AsStringAndSize(bytes, &at, &size) < 0) return -1;
    *text = (otlp_text){(const uint8_t *)at, (size_t)size};
    return 0;
}

static int names_of(PyObject *list, otlp_names *names) {
    if (!PyTuple_Check(list)) return PyErr_SetString(PyExc_TypeError, "expected tuples of bytes"), -1;
    Py_ssize_t count = PyTuple_Size(list);
    otlp_text *rows = calloc((size_t)count + 1, sizeof *rows);
    if (!rows) return PyErr_NoMemory(), -1;
    *names = (otlp_names){rows, (size_t)count};
    for (Py_ssize_t i = 0; i < count; i++)
        if (text_of(PyTuple_GetItem(list, i), &rows[i]) < 0) return -1;
    return 0;
}

static PyObject *make_rules(PyObject *self, PyObject *args) {
    PyObject *lists[LISTS];
    unsigned long long seed;
    int plus;
    (void)self;
    if (!PyArg_ParseTuple(args, "OOOOOOKp", &lists[0], &lists[1], &lists[2], &lists[3], &lists[4], &lists[5], &seed, &plus))
        return NULL;
    owned_rules *owned = calloc(1, sizeof *owned);
    if (!owned) return PyErr_NoMemory();
    PyObject *capsule = PyCapsule_New(owned, RULES, free_rules);
    if (!capsule) return free(owned), NULL;
    otlp_rules *rules = &owned->rules;
    otlp_names *names[LISTS] = {&rules->keys,   &rules->key_prefixes,   &rules->kept_keys,
                                &rules->events, &rules->event_prefixes, &rules->promoted};
    rules->seed = seed;
    rules->plus = plus;
    Py_INCREF(args);
    owned->lists = args;
    for (int i = 0; i < LISTS; i++) {
        if (names_of(lists[i], names[i]) < 0) {
            Py_DECREF(capsule);
            return NULL;
        }
    }
    return capsule;
}

static PyObject *refused(otlp_status status) {
    if (status == OTLP_NO_MEMORY) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static int signal_and_body(int signal, PyObject *body, otlp_text *text) {
    if (signal < OTLP_TRACES || signal > OTLP_LOGS) return PyErr_SetString(PyExc_ValueError, "unknown signal"), -1;
    return text_of(body, text);
}

static PyObject *survey(PyObject *self, PyObject *args) {
    int signal;
    PyObject *body;
    otlp_text text, *resources = NULL;
    size_t count = 0;
    otlp_status status;
    (void)self;
    if (!PyArg_ParseTuple(args, "iO", &signal, &body) || signal_and_body(signal, body, &text) < 0) return NULL;
    Py_BEGIN_ALLOW_THREADS
    status = otlp_survey((otlp_signal)signal, text, &resources, &count);
    Py_END_ALLOW_THREADS
    if (status != OTLP_OK) return refused(status);
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t i = 0; list && i < count; i++) {
        PyObject *bytes = PyBytes_FromStringAndSize((const char *)resources[i].at, (Py_ssize_t)resources[i].size);
        if (!bytes || PyList_SetItem(list, (Py_ssize_t)i, bytes) < 0) {
            Py_DECREF(list);
            list = NULL;
        }
    }
    free(resources);
    return list;
}

/* Reads (id, service or None, scrubbed resource or None) of each group. */
static otlp_resource *resources_of(PyObject *list, size_t *count) {
    if (!PyList_Check(list)) return PyErr_SetString(PyExc_TypeError, "expected a list of resources"), NULL;
    *count = (size_t)PyList_Size(list);
    otlp_resource *resources = calloc(*count + 1, sizeof *resources);
    if (!resources) return (otlp_resource *)PyErr_NoMemory();
    for (size_t i = 0; i < *count; i++) {
        unsigned long long id;
        PyObject *service, *scrubbed;
        if (!PyArg_ParseTuple(PyList_GetItem(list, (Py_ssize_t)i), "KOO", &id, &service, &scrubbed) ||
            (service != Py_None && text_of(service, &resources[i].service) < 0) ||
            (scrubbed != Py_None && text_of(scrubbed, &resources[i].scrubbed) < 0)) {
            free(resources);
            return NULL;
        }
        resources[i].id = id;
    }
    return resources;
}

static void free_batches(PyObject *capsule) {
    otlp_batches *batches = PyCapsule_GetPointer(capsule, BATCHES);
    if (!batches) return;
    otlp_free(batches);
    free(batches);
}

static PyObject *numbers(const uint64_t *values, Py_ssize_t count) {
    PyObject *tuple = PyTuple_New(count);
    for (Py_ssize_t i = 0; tuple && i < count; i++) {
        PyObject *number = PyLong_FromUnsignedLongLong(values[i]);
        if (!number || PyTuple_SetItem(tuple, i, number) < 0) {
            Py_DECREF(tuple);
            return NULL;
        }
    }
    return tuple;
}

/* Returns what Python makes batches of; the capsule, its first item, owns the tables until they are imported. */
static PyObject *described(PyObject *capsule, const otlp_batches *batches, size_t groups) {
    PyObject *tables = PyList_New(0), *promoted = PyList_New(0), *counts = PyList_New(0), *item = NULL;
    bool good = tables && promoted && counts;
    for (int i = 0; good && i < batches->table_count; i++) {
        item = Py_BuildValue("KL", (unsigned long long)(uintptr_t)&batches->tables[i], (long long)batches->tables[i].length);
        good = item && PyList_Append(tables, item) == 0;
        Py_XDECREF(item);
    }
    for (size_t i = 0; good && i < batches->promoted_count; i++) {
        item = PyLong_FromUnsignedLong(batches->promoted[i]);
        good = item && PyList_Append(promoted, item) == 0;
        Py_XDECREF(item);
    }
    for (size_t i = 0; good && i < groups; i++) {
        item = numbers(batches->counts[i], OTLP_REASONS);
        good = item && PyList_Append(counts, item) == 0;
        Py_XDECREF(item);
    }
    PyObject *found = NULL;
    if (good)
        found = Py_BuildValue("OOOKOy#", capsule, tables, promoted, (unsigned long long)batches->rejected, counts,
                              (const char *)batches->scrubbed, (Py_ssize_t)batches->scrubbed_size);
    Py_XDECREF(tables);
    Py_XDECREF(promoted);
    Py_XDECREF(counts);
    return found;
}

static PyObject *decode(PyObject *self, PyObject *args) {
    int signal;
    PyObject *body, *rules, *list;
    otlp_text text;
    size_t count = 0;
    otlp_status status;
    (void)self;
    if (!PyArg_ParseTuple(args, "iOOO", &signal, &body, &rules, &list) || signal_and_body(signal, body, &text) < 0)
        return NULL;
    owned_rules *owned = PyCapsule_GetPointer(rules, RULES);
    otlp_resource *resources = owned ? resources_of(list, &count) : NULL;
    if (!resources) return NULL;
    otlp_batches *batches = calloc(1, sizeof *batches);
    if (!batches) return free(resources), PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    status = otlp_decode((otlp_signal)signal, text, &owned->rules, resources, count, batches);
    Py_END_ALLOW_THREADS
    free(resources);
    if (status != OTLP_OK) return free(batches), refused(status);
    PyObject *capsule = PyCapsule_New(batches, BATCHES, free_batches);
    if (!capsule) {
        otlp_free(batches);
        free(batches);
        return NULL;
    }
    PyObject *found = described(capsule, batches, count);
    Py_DECREF(capsule);
    return found;
}

static PyMethodDef METHODS[] = {
    {"rules", make_rules, METH_VARARGS, "Return the tables by which a body is decoded."},
    {"survey", survey, METH_VARARGS, "Return the bytes of the resource of each group, or None for a body to be left to others."},
    {"decode", decode, METH_VARARGS, "Return the decoded body, or None for a body to be left to others."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_otlp", "OTLP protobuf bodies to Arrow arrays.", -1, METHODS,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__otlp(void) {
    otlp_init();
    PyObject *module = PyModule_Create(&MODULE);
    if (module && PyModule_AddIntConstant(module, "LAYOUT", LAYOUT) < 0) {
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
